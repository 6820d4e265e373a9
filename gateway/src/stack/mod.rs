//! The edge stack: what every request goes through on its way to a service and back.
//!
//! In order: request id and client address, protocol, preflight, route or method, span, the address's limit, the host's
//! tenant, an API key exchanged for a token, the guard (token and policy), agreement of host and token, the tenant's limit,
//! body, transcoding, upstream.

mod protocol;

mod peer;

mod request;

mod credential;

mod accept;

mod metadata;

mod cors;

mod limits;

mod slots;

mod standing;

mod forward;

mod keyed;

mod passed;

mod connect;

mod own;

mod frames;

mod values;

mod pack;

mod line;

mod intake;

mod relay;

mod body;

mod answer;

mod seen;

mod counts;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use tenon_chassis::{
    Fault, Mesh,
    caller::Principal,
    client::DEADLINE,
    guard::{Guard, TENANT_ID},
    id,
};
use tenon_proto::options::v1::policy::{Access, Rate};
use tokio::{runtime::Handle, time::timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Code, body::Body};
use tracing::Instrument;

use self::{
    body::AnswerBody,
    cors::Cors,
    forward::{Admitted, Answered, Ask},
    limits::Draws,
    line::Line,
    peer::Named,
    protocol::Protocol,
    relay::{Form, Relay, Shape},
    seen::Seen,
    slots::Slots,
    standing::Standing,
};
use crate::{
    acme,
    answers::Answers,
    api_keys::ApiKeys,
    config::Config,
    errors::Refusal,
    limit::{self, Limiter},
    openapi::{self, Page},
    routes::Found,
    upstreams::{self, Loaded, Room},
    usage::Meter,
};
pub(crate) use frames::split;
pub(crate) use metadata::outward;
pub use peer::Cidr;
pub(crate) use request::handed_on;

/// The name of the edge in mesh tokens.
pub(crate) const PART: &str = "gateway";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Characters of a request id that a client chooses.
const MAX_REQUEST_ID: usize = 64;
const HOOKS: &str = "/hooks/";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The edge, ready to answer.
pub(crate) struct Edge {
    config: Config,
    mesh: Mesh,
    /// Replaced as a whole when the upstreams are read anew.
    loaded: Arc<ArcSwap<Loaded>>,
    guard: Arc<Guard>,
    cors: Cors,
    slots: Slots,
    standing: Arc<Standing>,
    draining: OnceLock<CancellationToken>,
    room: Room,
    meter: Meter,
    answers: Arc<Answers>,
    api_keys: Arc<ApiKeys>,
    limiter: Arc<Limiter>,
    /// Where work goes on that no connection waits for.
    home: Handle,
}

enum Step<'l> {
    Answer(Response<Bytes>),
    /// A call of the edge itself.
    Own(&'static str),
    Call(Ask<'l>),
}

impl Edge {
    pub(crate) fn new(config: Config, mesh: Mesh, loaded: Arc<ArcSwap<Loaded>>, meter: Meter) -> Self {
        let (guard, cors) = (mesh.guard(PART), Cors::new(&config.cors_origins));
        let (slots, draining, room) = (Slots::default(), OnceLock::new(), Room::new(config.edge_max_requests));
        let answers = Arc::new(Answers::new(mesh.clock.clone(), mesh.redis.clone()));
        let (api_keys, home) = (ApiKeys::new(&mesh), Handle::current());
        mesh.tasks.spawn(api_keys.clone().watch(mesh.stop.clone()));
        let standing = Arc::<Standing>::default();
        mesh.tasks.spawn(standing.clone().watch(mesh.directory.clone(), api_keys.clone(), mesh.stop.clone()));
        let limiter = Arc::new(Limiter::new(mesh.clock.clone(), mesh.redis.is_some()));
        if let Some(redis) = mesh.redis.clone() {
            mesh.tasks.spawn(limit::share(limiter.clone(), redis, mesh.stop.clone()));
        }
        Self {
            config,
            mesh,
            loaded,
            guard,
            cors,
            slots,
            standing,
            draining,
            room,
            meter,
            answers,
            api_keys,
            limiter,
            home,
        }
    }

    /// Says by what the end of this edge begins: it is no longer healthy then, and silent streams end.
    pub(crate) fn drains_with(&self, stop: CancellationToken) {
        let _first = self.draining.set(stop);
    }

    fn draining(&self) -> CancellationToken {
        self.draining.get().cloned().unwrap_or_default()
    }

    /// Answers one request. Dropped when the client goes away; the call behind is then cancelled.
    pub(crate) async fn handle(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        // One contract from the first look at the request to its last.
        let loaded = self.loaded.load_full();
        let (parts, body) = request.into_parts();
        let mut body = Some(body);
        let address = parts.extensions.get::<SocketAddr>().map_or([0, 0, 0, 0].into(), SocketAddr::ip);
        let client = peer::client(address, &parts.headers, &self.config.trusted_proxies);
        let mut headers = parts.headers;
        // Ours alone to set; the other internal names are never read from outside.
        headers.remove(TENANT_ID);
        let mut seen = Seen::start(parts.method, parts.uri, self.request_id(&headers), client);
        let mut draws = Draws::default();
        // Streams give their place back once they have begun: they are bounded apart.
        let mut place = self.room.enter();
        let found = self.find(&loaded, &mut seen, &headers, parts.version);
        let found = if place.is_some() { found } else { Err(upstreams::overloaded().into()) };
        let answer = match found {
            Ok(Step::Answer(response)) => Ok(Answered::Whole(response)),
            Ok(Step::Own(path)) => Box::pin(self.own(&loaded, path, &seen, &mut draws, &headers, &mut body)).await,
            Ok(Step::Call(ask)) => {
                let span = seen.span(&headers);
                self.call(&ask, &mut seen, &mut draws, &mut headers, &mut body).instrument(span).await
            }
            Err(refusal) => match draws.ip(&self.limiter, &self.config.rates, Rate::Read, client) {
                Ok(()) => Err(refusal),
                Err(limited) => Err(limited.into()),
            },
        };
        if answer.is_err()
            && parts.version < Version::HTTP_2
            && !headers.contains_key(header::EXPECT)
            && let (Some(place), Some(body)) = (place.take(), body.take())
        {
            drop(place);
            Box::pin(request::left(body)).await;
        }
        let answer = match answer {
            // What is sent to a hook is answered in a word, to a machine that knows no encoding.
            Ok(Answered::Whole(whole)) if seen.verb != Verb::HEAD && !seen.uri.path().starts_with(HOOKS) => {
                Ok(Answered::Whole(pack::packed(whole, &headers, self.config.edge_gzip_from).await))
            }
            answer => answer,
        };
        self.answer(answer, &loaded, seen, &draws, &headers)
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

    fn find<'l>(
        &self,
        loaded: &'l Arc<Loaded>,
        seen: &mut Seen,
        headers: &HeaderMap,
        version: Version,
    ) -> Result<Step<'l>, Refusal> {
        let path = seen.uri.path();
        let (served, own) = (loaded.by_path(path), own::label(path));
        let is_method = served.is_some() || own.is_some();
        let spoken = Protocol::of((&seen.verb, &seen.uri, version), headers, is_method);
        seen.protocol = spoken.as_ref().map_or_else(|(protocol, _)| *protocol, |protocol| *protocol);
        request::uri(&seen.uri)?;
        let protocol = spoken.map_err(|(_, refusal)| refusal)?;
        if let Some(asked) = Cors::preflight(&seen.verb, headers) {
            return Ok(Step::Answer(self.preflight(loaded, seen, &asked, headers)));
        }
        match (protocol, served, own) {
            (Protocol::Json, ..) => self.route(loaded, seen, headers),
            (Protocol::Grpc | Protocol::Web { .. } | Protocol::ConnectStream { json: false }, _, Some(own)) => {
                seen.label = Some(own.into());
                Ok(Step::Own(own))
            }
            (_, Some(served), _) => {
                if matches!(protocol, Protocol::Connect { .. } | Protocol::ConnectStream { .. }) {
                    connect::check(headers)?;
                }
                seen.label = Some(served.label.clone());
                Ok(Step::Call(Ask { loaded, protocol, served, route: None }))
            }
            (_, None, Some(_)) => {
                Err(connect::other_kind("application/grpc, application/grpc-web or application/connect+proto"))
            }
            (_, None, None) => {
                Err(Refusal::new(Code::Unimplemented, "METHOD_UNKNOWN", "no method of this name is served here"))
            }
        }
    }

    /// A page of the edge's own, or the answer to a challenge; a route of the same path goes first.
    fn page(&self, loaded: &Loaded, seen: &Seen) -> Option<Page> {
        let challenges = self.config.edge_acme_challenges.as_deref();
        if let Some(challenge) = acme::answer(challenges, &seen.verb, seen.uri.path()) {
            return Some(Page::new("text/plain", challenge));
        }
        let document = || loaded.document().clone();
        openapi::find_page(&seen.verb, seen.uri.path(), document).filter(|_| self.config.edge_docs)
    }

    /// Finds what HTTP/JSON asks for.
    fn route<'l>(&self, loaded: &'l Arc<Loaded>, seen: &mut Seen, headers: &HeaderMap) -> Result<Step<'l>, Refusal> {
        match loaded.routes.find(&seen.verb, seen.uri.path()) {
            Found::Route(route) => {
                seen.label = Some(route.label.clone());
                match route.method.descriptor.is_server_streaming() {
                    _ if route.binding.gives_any_media() => {}
                    true => accept::form(headers).map(|_form| ())?,
                    false => accept::json(headers)?,
                }
                let served = loaded.by_route(route);
                Ok(Step::Call(Ask { loaded, protocol: Protocol::Json, served, route: Some(route.clone()) }))
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
            Found::Nothing if loaded.by_path(seen.uri.path()).is_some() => {
                let refusal = Refusal::new(Code::Unimplemented, "METHOD_NOT_ALLOWED", "a method is called with POST");
                let allow = HeaderValue::from_static("POST");
                Err(refusal.http(StatusCode::METHOD_NOT_ALLOWED).header(header::ALLOW, allow))
            }
            Found::Nothing if let Some(page) = self.page(loaded, seen) => Ok(Step::Answer(page.answer(headers))),
            Found::Nothing => Err(Refusal::new(Code::NotFound, "ROUTE_NOT_FOUND", "nothing is served on this path")),
        }
    }

    fn preflight(&self, loaded: &Loaded, seen: &Seen, asked: &Verb, headers: &HeaderMap) -> Response<Bytes> {
        let mut response = empty(StatusCode::NO_CONTENT);
        let path = seen.uri.path();
        let known = matches!(loaded.routes.find(asked, path), Found::Route(_))
            || ((loaded.by_path(path).is_some() || own::label(path).is_some())
                && (asked == Verb::POST || asked == Verb::GET));
        if known && self.cors.write(headers, &mut HeaderMap::new()) {
            Cors::write_preflight(asked, headers, response.headers_mut());
        }
        response
    }

    /// A call that is known, within its time.
    async fn call(
        &self,
        ask: &Ask<'_>,
        seen: &mut Seen,
        draws: &mut Draws,
        headers: &mut HeaderMap,
        body: &mut Option<Incoming>,
    ) -> Result<Answered, Refusal> {
        seen.upstream = Some(ask.served.target.clone());
        let asked = request::asked_timeout(headers)?;
        let most = Duration::from_secs(self.config.edge_timeout_s);
        let most = most.min(ask.served.target.dial.timeout.unwrap_or(most));
        let most = most.min(ask.served.method.timeout.unwrap_or(most));
        let by = seen.started() + asked.map_or(most, |asked| asked.min(most));
        if ask.streams() != (false, false) {
            // A stream lives as long as its client wants; who it is must be known in time all the same.
            let admitted = DEADLINE.scope(by, self.admitted(ask, seen, draws, headers));
            let mut admitted = timeout_at(by, admitted).await.map_err(|_| upstreams::expired())??;
            admitted.slot = Some(self.slot(seen)?);
            let deadline = asked.map(|asked| seen.started() + asked);
            return Box::pin(self.forward(ask, seen, headers, admitted, taken(body), deadline)).await;
        }
        let forwarded = async {
            let admitted = self.admitted(ask, seen, draws, headers).await?;
            self.forward(ask, seen, headers, admitted, taken(body), Some(by)).await
        };
        timeout_at(by, DEADLINE.scope(by, forwarded)).await.map_err(|_| upstreams::expired())?
    }

    /// Lets a call through, or not: the address's limit, who calls, the tenant's limit.
    async fn admitted(
        &self,
        ask: &Ask<'_>,
        seen: &mut Seen,
        draws: &mut Draws,
        headers: &mut HeaderMap,
    ) -> Result<Admitted, Refusal> {
        let method = &ask.served.method;
        draws.ip(&self.limiter, &self.config.rates, method.rate, seen.client)?;
        self.exchanged(method, seen, draws, headers).await?;
        let admitted = self.admit(ask, seen, headers).await?;
        if let (Some(tenant), false) = (&admitted.caller.tenant, method.access == Access::Public) {
            draws.tenant(&self.limiter, &self.config.rates, method.rate, tenant)?;
            let (limiter, rates) = (&self.limiter, &self.config.rates);
            match admitted.caller.principal {
                Principal::User { user, .. } => draws.user(limiter, rates, method.rate, tenant, &user)?,
                Principal::Key { key } => draws.user(limiter, rates, method.rate, tenant, &key)?,
                _ => {}
            }
        }
        Ok(admitted)
    }

    /// One of the streams that a tenant, or an address without one, may hold open.
    fn slot(&self, seen: &Seen) -> Result<slots::Slot, Refusal> {
        let holder = seen.tenant.map_or_else(|| peer::limited_as(seen.client).to_string(), |tenant| tenant.to_string());
        self.slots.take(holder, self.config.edge_streams)
    }

    /// A call of the edge itself: anyone may make it, as often as the address's limit lets it.
    async fn own(
        &self,
        loaded: &Arc<Loaded>,
        path: &'static str,
        seen: &Seen,
        draws: &mut Draws,
        headers: &HeaderMap,
        body: &mut Option<Incoming>,
    ) -> Result<Answered, Refusal> {
        draws.ip(&self.limiter, &self.config.rates, Rate::Read, seen.client)?;
        let deadline = request::asked_timeout(headers)?.map(|asked| seen.started() + asked);
        let idle = self.config.edge_stream_idle_s;
        let line = Arc::new(Line::new((idle > 0).then(|| Duration::from_secs(idle))));
        let reader = match seen.protocol {
            Protocol::Web { text: true } => intake::Reader::Text(frames::Text::default(), frames::Watch::default()),
            _ if frames::are_zipped(headers) => intake::Reader::unpacked(),
            _ => intake::Reader::Frames(frames::Watch::default()),
        };
        let slot = self.slot(seen)?;
        let body = Body::new(intake::Intake::new(taken(body), reader, line.clone()));
        let mut request = Request::new(body);
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().insert(header::CONTENT_TYPE, GRPC);
        let response = own::call(loaded, &self.draining(), path, request).await;
        let shape = Shape::Frames(seen.protocol);
        let relay = Relay {
            slot: Some(slot),
            draining: Some(self.draining()),
            ..Relay::new(loaded.clone(), shape, line, deadline)
        };
        forward::relayed(seen, response, relay, Form::Lines).await
    }

    /// Proves the caller, and that the host's tenant is the token's.
    async fn admit(&self, ask: &Ask<'_>, seen: &mut Seen, headers: &HeaderMap) -> Result<Admitted, Refusal> {
        let method = &ask.served.method;
        let host = match peer::named(&seen.uri, headers, &self.mesh.config.domain)? {
            _ if method.access == Access::Operator => None,
            Named::Slug(slug) => Some(self.mesh.directory.by_slug(&slug).await?),
            Named::Host(host) => self.mesh.directory.by_host(&host).await?,
            Named::Nobody => None,
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
        Ok(Admitted { caller, host, slot: None })
    }
}

/// The body, which nobody has taken before.
fn taken(body: &mut Option<Incoming>) -> Incoming {
    body.take().expect("a request is forwarded once")
}

fn empty(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}
