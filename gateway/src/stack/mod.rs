//! The edge stack: what every request goes through on its way to a service and back.
//!
//! In order: request id and client address, preflight, route, span, the address's limit, the host's tenant, the guard
//! (token and policy), agreement of host and token, the tenant's limit, body, transcoding, upstream.

mod cors;
mod limits;
mod peer;
mod request;
mod seen;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use tenon_chassis::{
    Caller, Fault, Mesh,
    caller::Principal,
    client::{DEADLINE, GRPC_TIMEOUT, IDEMPOTENCY_KEY, timeout_header},
    directory::Tenant,
    guard::{Guard, OPERATOR_KEY, TENANT_ID},
    id,
    telemetry::{self, TRACEPARENT},
};
use tenon_proto::{
    options::v1::policy::{Access, Rate},
    policy::Effect,
};
use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tracing::Instrument;

use self::{cors::Cors, limits::Draws, seen::Seen};
use crate::{
    config::Config,
    errors::Refusal,
    routes::{Found, Route},
    transcode::Media,
    upstreams::{self, Loaded, Served},
};
pub use peer::Cidr;
pub(crate) use request::handed_on;

/// The name of the edge in mesh tokens.
pub(crate) const PART: &str = "gateway";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Characters of a request id that a client chooses.
const MAX_REQUEST_ID: usize = 64;
/// One year, as the preload lists ask for.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000; includeSubDomains");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What a page that a service answers with may do: be styled, and send a form back to where it came from.
const PAGE_CSP: &str =
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The edge, ready to answer.
pub(crate) struct Edge {
    config: Config,
    mesh: Mesh,
    /// Replaced as a whole when the upstreams are read anew.
    loaded: ArcSwap<Loaded>,
    guard: Arc<Guard>,
    cors: Cors,
}

impl Edge {
    pub(crate) fn new(config: Config, mesh: Mesh, loaded: Loaded) -> Self {
        let (guard, cors) = (mesh.guard(PART), Cors::new(&config.cors_origins));
        Self { config, mesh, loaded: ArcSwap::from_pointee(loaded), guard, cors }
    }

    /// Answers one request. Dropped when the client goes away; the call behind is then cancelled.
    pub(crate) async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        // One contract from the first look at the request to its last.
        let loaded = self.loaded.load_full();
        let (parts, body) = request.into_parts();
        let address = parts.extensions.get::<SocketAddr>().map_or([0, 0, 0, 0].into(), SocketAddr::ip);
        let client = peer::client(address, &parts.headers, &self.config.trusted_proxies);
        let mut headers = parts.headers;
        // Ours alone to set; the other internal names are never read from outside.
        headers.remove(TENANT_ID);
        let mut seen = Seen::start(parts.method, parts.uri, self.request_id(&headers), client);
        let mut draws = Draws::default();
        let mut span = None;
        let answer = match self.find(&loaded, &mut seen, &headers) {
            Ok(Step::Answer(response)) => Ok(response),
            Ok(Step::Call(route)) => {
                let current = seen.span(&route, &headers);
                let call =
                    self.call(&loaded, &route, &mut seen, &mut draws, &headers, body).instrument(current.clone());
                let answer = call.await;
                span = Some(current);
                answer
            }
            Err(refusal) => match draws.ip(&self.mesh.limiter, &self.config.rates, Rate::Read, client).await {
                Ok(()) => Err(refusal),
                Err(limited) => Err(limited.into()),
            },
        };
        let mut response = answer.unwrap_or_else(|refusal| refusal.into_response(&loaded.contract.pool));
        seen.answered(&mut response, span.as_ref());
        draws.write(response.headers_mut());
        self.finish(response, &seen, &headers)
    }

    /// A client's own request id, or a new one.
    fn request_id(&self, headers: &HeaderMap) -> HeaderValue {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        let own = headers
            .get(REQUEST_ID)
            .filter(|id| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(plain));
        own.cloned().unwrap_or_else(|| {
            let id = id::uuid_v7(&self.mesh.clock).simple();
            HeaderValue::from_str(id.encode_lower(&mut [0; 32])).expect("hexadecimal digits are printable ASCII")
        })
    }

    fn find(&self, loaded: &Loaded, seen: &mut Seen, headers: &HeaderMap) -> Result<Step, Refusal> {
        request::uri(&seen.uri)?;
        if let Some(asked) = Cors::preflight(&seen.verb, headers) {
            return Ok(Step::Answer(self.preflight(loaded, seen, &asked, headers)));
        }
        match loaded.routes.find(&seen.verb, seen.uri.path()) {
            Found::Route(route) => {
                seen.route = Some(route.clone());
                if !route.binding.gives_any_media() {
                    request::accept(headers)?;
                }
                Ok(Step::Call(route.clone()))
            }
            Found::OtherVerbs(verbs) => {
                let names: Vec<_> = verbs.iter().map(Verb::as_str).collect();
                let allow = HeaderValue::try_from(names.join(", ")).expect("HTTP verbs are tokens");
                if seen.verb == Verb::OPTIONS {
                    let mut response = empty(StatusCode::NO_CONTENT);
                    response.headers_mut().insert(header::ALLOW, allow);
                    return Ok(Step::Answer(response));
                }
                let why = format!("{} is not served on this path", seen.verb);
                let refusal = Refusal::new(Code::Unimplemented, "METHOD_NOT_ALLOWED", why);
                Err(refusal.http(StatusCode::METHOD_NOT_ALLOWED).header(header::ALLOW, allow))
            }
            Found::Nothing => Err(Refusal::new(Code::NotFound, "ROUTE_NOT_FOUND", "nothing is served on this path")),
        }
    }

    fn preflight(&self, loaded: &Loaded, seen: &Seen, asked: &Verb, headers: &HeaderMap) -> Response<Bytes> {
        let mut response = empty(StatusCode::NO_CONTENT);
        let known = matches!(loaded.routes.find(asked, seen.uri.path()), Found::Route(_));
        if known && self.cors.write(headers, &mut HeaderMap::new()) {
            Cors::write_preflight(asked, response.headers_mut());
        }
        response
    }

    /// A call of a known route, within its time.
    async fn call(
        &self,
        loaded: &Loaded,
        route: &Route,
        seen: &mut Seen,
        draws: &mut Draws,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Bytes>, Refusal> {
        let most = Duration::from_secs(self.config.edge_timeout_s);
        let deadline = seen.started() + request::timeout(headers, most)?;
        let forwarded = async {
            draws.ip(&self.mesh.limiter, &self.config.rates, route.method.rate, seen.client).await?;
            let admitted = self.admit(loaded.by_route(route), seen, headers).await?;
            if let (Some(tenant), false) = (&admitted.caller.tenant, route.method.access == Access::Public) {
                draws.tenant(&self.mesh.limiter, &self.config.rates, route.method.rate, tenant).await?;
            }
            self.forward(route, seen, headers, &admitted, body, deadline).await
        };
        match timeout_at(deadline, DEADLINE.scope(deadline, forwarded)).await {
            Ok(answer) => answer,
            Err(_) => Err(upstreams::expired().into()),
        }
    }

    /// Proves the caller, and that the host's tenant is the token's.
    async fn admit<'l>(
        &self,
        served: &'l Served,
        seen: &mut Seen,
        headers: &HeaderMap,
    ) -> Result<Admitted<'l>, Refusal> {
        let method = &served.method;
        let slug = peer::slug(&seen.uri, headers, &self.mesh.config.domain)?;
        let host = match slug {
            Some(slug) if method.access != Access::Operator => Some(self.mesh.directory.by_slug(&slug).await?),
            _ => None,
        };
        let caller = self.guard.admit(method, headers).await?;
        seen.principal = Some(caller.principal.clone());
        seen.tenant = caller.tenant_id;
        match (&host, method.access) {
            (Some(tenant), Access::Public) => {
                // Who owes money must still be able to sign in and pay.
                tenant.admit(true)?;
                seen.tenant = Some(tenant.id);
            }
            (Some(tenant), _) if caller.tenant_id != Some(tenant.id) => {
                let why = "the token is of another tenant than this host";
                return Err(Fault::new(Code::PermissionDenied, "TENANT_HOST_MISMATCH", why).into());
            }
            _ => {}
        }
        Ok(Admitted { served, caller, host })
    }

    async fn forward(
        &self,
        route: &Route,
        seen: &Seen,
        headers: &HeaderMap,
        admitted: &Admitted<'_>,
        body: Incoming,
        deadline: Instant,
    ) -> Result<Response<Bytes>, Refusal> {
        let key = request::idempotency_key(headers)?;
        let body = if body.is_end_stream() {
            Bytes::new()
        } else {
            if !route.binding.takes_any_media() {
                request::json_only(headers)?;
            }
            request::body(body, Duration::from_secs(self.config.edge_body_timeout_s)).await?
        };
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let body = Media { kind: kind.to_owned(), data: body };
        let message = route.binding.request(&route.template, seen.uri.path(), seen.uri.query(), body)?;
        let Served { target, path, handed_on, .. } = admitted.served;
        let mut out = self.outgoing(route, seen, headers, admitted);
        if let Some(key) = key {
            out.insert(IDEMPOTENCY_KEY, key.clone());
        }
        for name in handed_on {
            out.extend(headers.get_all(name).iter().map(|value| (name.clone(), value.clone())));
        }
        out.insert(GRPC_TIMEOUT, timeout_header(deadline.saturating_duration_since(Instant::now())));
        let repeat = route.method.effect == Effect::None;
        let answer = target.call(path, out, upstreams::frame(&message), deadline, repeat).await?;
        let Media { kind, data } = route.binding.response(answer.message)?;
        let mut response = Response::new(data);
        let to = response.headers_mut();
        to.reserve(16);
        to.insert(header::CONTENT_TYPE, if route.binding.gives_any_media() { media(&kind) } else { JSON });
        if let Some(replayed) = answer.headers.get(REPLAYED) {
            to.insert(REPLAYED, replayed.clone());
        }
        if route.method.access != Access::Public {
            to.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        Ok(response)
    }

    /// The headers of the call behind: made anew, so that nothing of what the client sent passes unseen.
    fn outgoing(&self, route: &Route, seen: &Seen, headers: &HeaderMap, admitted: &Admitted<'_>) -> HeaderMap {
        let mut out = HeaderMap::with_capacity(16);
        out.insert(header::CONTENT_TYPE, GRPC);
        out.insert(header::TE, HeaderValue::from_static("trailers"));
        out.insert(REQUEST_ID, seen.request_id.clone());
        let client = HeaderValue::try_from(seen.client.to_string()).expect("an address is printable ASCII");
        out.insert(peer::FORWARDED_FOR, client);
        telemetry::inject(&mut out);
        if !out.contains_key(TRACEPARENT)
            && let Some(parent) = headers.get(TRACEPARENT).filter(|parent| is_traceparent(parent))
        {
            out.insert(TRACEPARENT, parent.clone());
        }
        let Admitted { served, caller, host } = admitted;
        match (route.method.access, &caller.principal) {
            (Access::Operator, _) => {
                if let Some(key) = headers.get(OPERATOR_KEY) {
                    out.insert(OPERATOR_KEY, key.clone());
                }
            }
            (Access::Tenant, Principal::User { .. }) => {
                if let Some(token) = headers.get(header::AUTHORIZATION) {
                    out.insert(header::AUTHORIZATION, token.clone());
                }
            }
            _ => {
                let tenant = host.as_ref().map(|host| host.id).or(caller.tenant_id);
                let token = self.mesh.key.mint(PART, &served.target.audience, tenant, &caller.roles);
                let bearer = HeaderValue::try_from(format!("Bearer {token}")).expect("a JWT is printable ASCII");
                out.insert(header::AUTHORIZATION, bearer);
            }
        }
        if let Some(tenant) = host.as_ref().map(|host| host.id).or(caller.tenant_id) {
            let tenant = HeaderValue::try_from(tenant.to_string()).expect("an id is printable ASCII");
            out.insert(TENANT_ID, tenant);
        }
        out
    }

    /// The headers that every answer carries.
    fn finish(&self, response: Response<Bytes>, seen: &Seen, asked: &HeaderMap) -> Response<Full<Bytes>> {
        let mut response = response;
        let length = response.body().len();
        let to = response.headers_mut();
        to.insert(REQUEST_ID, seen.request_id.clone());
        to.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        to.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        to.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        let is_page = to.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
        let csp =
            HeaderValue::from_static(if is_page { PAGE_CSP } else { "default-src 'none'; frame-ancestors 'none'" });
        to.insert(header::CONTENT_SECURITY_POLICY, csp);
        if self.config.public_https {
            to.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
        }
        self.cors.write(asked, to);
        if seen.verb == Verb::HEAD {
            // As GET would have answered, without the body.
            to.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            return response.map(|_| Full::default());
        }
        response.map(Full::new)
    }
}

/// The media type of a service's own body. What a browser could guess at is named as bytes.
fn media(kind: &str) -> HeaderValue {
    let known = HeaderValue::from_str(kind).ok().filter(|kind| !kind.is_empty());
    known.unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

enum Step {
    Answer(Response<Bytes>),
    Call(Arc<Route>),
}

/// A call that was let through.
struct Admitted<'l> {
    served: &'l Served,
    caller: Caller,
    /// The tenant that the host names.
    host: Option<Arc<Tenant>>,
}

fn empty(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

fn is_traceparent(value: &HeaderValue) -> bool {
    let plain = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    value.len() == 55 && value.as_bytes().starts_with(b"00-") && value.as_bytes().iter().all(plain)
}
