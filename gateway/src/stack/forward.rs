//! The way of a call that was let through: its headers made anew, its body in gRPC frames, its answer in the client's words.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Response, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use tenon_chassis::{
    Caller,
    caller::Principal,
    client::{GRPC_TIMEOUT, IDEMPOTENCY_KEY, timeout_header},
    directory::Tenant,
    guard::{OPERATOR_KEY, TENANT_ID},
    telemetry::{self, TRACEPARENT},
};
use tenon_proto::{
    options::v1::policy::Access,
    policy::{Effect, Method},
};
use tokio::time::Instant;
use tonic::{Code, body::Body};

use super::{
    Edge, GRPC, JSON, PART, REPLAYED, REQUEST_ID, accept, connect,
    frames::{Frames, MAX_MESSAGE, PREFIX, Text, Watch, are_zipped, malformed},
    intake::{Intake, Reader},
    keyed::Sending,
    line::Line,
    metadata,
    passed::Passed,
    peer,
    protocol::Protocol,
    relay::{Form, Opening, Relay, Shape, at, refused},
    request,
    seen::Seen,
    slots::Slot,
    values::Values,
};
use crate::{
    errors::{Refusal, status_of},
    routes::Route,
    transcode::Media,
    upstreams::{self, Loaded, Served, UpstreamBody},
};

pub(super) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// A call without a deadline waits this long for the first word of an answer; its silence is bounded apart.
const NO_DEADLINE: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What a request asks for.
pub(super) struct Ask<'l> {
    pub(super) loaded: &'l Arc<Loaded>,
    pub(super) protocol: Protocol,
    pub(super) served: &'l Served,
    /// Of HTTP/JSON.
    pub(super) route: Option<Arc<Route>>,
}

/// A call that was let through.
pub(super) struct Admitted {
    pub(super) caller: Caller,
    /// The tenant that the host names.
    pub(super) host: Option<Arc<Tenant>>,
    pub(super) slot: Option<Slot>,
}

/// An answer to a request.
pub(super) enum Answered {
    Whole(Response<Bytes>),
    /// In gRPC's frames.
    Passed(Box<Passed>),
    /// Headers, and a body that comes behind them.
    Stream(Response<()>, Box<Relay>),
}

impl Ask<'_> {
    /// Whether messages come one after the other: from the client, from the service.
    pub(super) fn streams(&self) -> (bool, bool) {
        let descriptor = &self.served.method.descriptor;
        (descriptor.is_client_streaming(), descriptor.is_server_streaming())
    }
}

impl Edge {
    pub(super) async fn forward(
        &self,
        ask: &Ask<'_>,
        seen: &Seen,
        headers: &HeaderMap,
        admitted: Admitted,
        body: Incoming,
        deadline: Option<Instant>,
    ) -> Result<Answered, Refusal> {
        let out = self.outgoing(ask, seen, headers, &admitted, deadline)?;
        let streams = ask.streams();
        // The mesh's own services count in the transaction of the call.
        let mut use_of = ask.served.target.dial.is_foreign.then(|| self.meter.of(&admitted.caller)).flatten();
        let last = deadline.unwrap_or_else(|| Instant::now() + NO_DEADLINE);
        let key = self.key_of(ask, headers, &admitted);
        // A call under a key goes on without its client, and is counted where it ends.
        let key = key.map(|key| (key, use_of.take()));
        let call = Sending { edge: self, served: ask.served, out, deadline: last, key };
        let mut answered = match (ask.protocol, &ask.route) {
            (Protocol::Json, Some(route)) if streams == (false, false) => {
                self.unary(ask, route, seen, headers, body, call).await.map(Answered::Whole)
            }
            (Protocol::Connect { json }, _) => {
                if streams != (false, false) {
                    return Err(connect::other_kind("application/connect+json or application/connect+proto"));
                }
                let within = Duration::from_secs(self.config.edge_body_timeout_s);
                Box::pin(connect::unary(ask, json, seen, headers, body, call, within)).await.map(Answered::Whole)
            }
            (Protocol::ConnectStream { .. }, _) if streams == (false, false) => {
                return Err(connect::other_kind("application/json or application/proto"));
            }
            _ if streams == (false, false) => self.pass(ask, seen, headers, body, call).await,
            _ => Box::pin(self.stream(ask, seen, headers, admitted, body, call, deadline)).await,
        }?;
        if let Some(use_of) = use_of {
            let is_due = match &mut answered {
                Answered::Whole(response) => is_counted(response.headers()),
                Answered::Passed(passed) => passed.told.is_none() && is_counted(&passed.head),
                Answered::Stream(response, relay) if is_counted(response.headers()) && !relay.is_over() => {
                    relay.use_of = Some(use_of);
                    return Ok(answered);
                }
                Answered::Stream(response, _) => is_counted(response.headers()),
            };
            if is_due {
                Box::pin(use_of.count(deadline)).await;
            }
        }
        Ok(answered)
    }

    /// A route of one message each way.
    async fn unary(
        &self,
        ask: &Ask<'_>,
        route: &Route,
        seen: &Seen,
        headers: &HeaderMap,
        body: Incoming,
        call: Sending<'_>,
    ) -> Result<Response<Bytes>, Refusal> {
        let frame = self.json_frame(route, seen, headers, body).await?;
        let answer = call.send(frame).await?;
        json_answer(ask, route, &answer)
    }

    /// A JSON body as the one message that it is.
    async fn json_frame(
        &self,
        route: &Route,
        seen: &Seen,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Bytes, Refusal> {
        let body = if body.is_end_stream() {
            Bytes::new()
        } else {
            let raw = route.binding.takes_any_media();
            let encoding = if raw { None } else { request::json_only(headers)? };
            let body = request::body(body, Duration::from_secs(self.config.edge_body_timeout_s), MAX_MESSAGE).await?;
            seen.took(body.len());
            request::decoded(body, encoding)?
        };
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let body = Media { kind: kind.to_owned(), data: body };
        route.binding.request(&route.template, seen.uri.path(), seen.uri.query(), body)
    }

    /// A call whose messages come one after the other, and are written while they come.
    #[expect(clippy::too_many_arguments, reason = "a call is all of these")]
    async fn stream(
        &self,
        ask: &Ask<'_>,
        seen: &Seen,
        headers: &HeaderMap,
        admitted: Admitted,
        body: Incoming,
        call: Sending<'_>,
        deadline: Option<Instant>,
    ) -> Result<Answered, Refusal> {
        let (client, server) = ask.streams();
        let form = if server && ask.protocol == Protocol::Json { accept::form(headers)? } else { Form::Lines };
        let idle = self.config.edge_stream_idle_s;
        let line = Arc::new(Line::new((idle > 0).then(|| Duration::from_secs(idle))));
        self.standing.enter(&admitted.caller, &line);
        let (target, path) = (ask.served.target.clone(), ask.served.path.clone());
        let Sending { out, deadline: by, .. } = call;
        let mut opening: Opening = if client {
            let body = Body::new(Intake::new(body, reader(ask, seen, headers)?, line.clone()));
            Box::pin(async move { target.open(&path, out, body, by).await })
        } else {
            let frames = self.collected(ask, seen, headers, body).await?;
            let again = may_repeat(&ask.served.method, headers);
            Box::pin(async move { target.whole(&path, out, frames, by, again).await })
        };
        let zip_from = Some(self.config.edge_gzip_from).filter(|from| *from > 0 && connect::takes_zipped(headers));
        let beat = (form == Form::Events).then(|| Duration::from_secs(self.config.edge_keep_alive_s.max(1)));
        let relay = Relay {
            draining: Some(self.draining()),
            beat,
            slot: admitted.slot,
            ..Relay::new(ask.loaded.clone(), shape(ask, form, zip_from), line.clone(), deadline)
        };
        let response = tokio::select! {
            response = &mut opening => response,
            refusal = line.ended() => return Err(refusal),
            () = at(beat.map(|beat| Instant::now() + beat)) => {
                // Many services say nothing at all before their first message; the client must see a stream all the same.
                return Ok(Answered::Stream(events(), Box::new(relay.begun_without(opening))));
            }
        };
        let response = response.map_err(|failed| line.fault().unwrap_or_else(|| failed.into()))?;
        if let (Protocol::Json, Some(route), false) = (ask.protocol, &ask.route, server) {
            let answer = tokio::select! {
                answer = upstreams::one(response, by) => answer.map_err(|refusal| line.fault().unwrap_or(refusal))?,
                refusal = line.ended() => return Err(refusal),
            };
            return json_answer(ask, route, &answer).map(Answered::Whole);
        }
        relayed(seen, response, relay, form).await
    }

    /// The frames of a request of one message.
    pub(super) async fn collected(
        &self,
        ask: &Ask<'_>,
        seen: &Seen,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Bytes, Refusal> {
        if let (Protocol::Json, Some(route)) = (ask.protocol, &ask.route) {
            return self.json_frame(route, seen, headers, body).await;
        }
        let within = Duration::from_secs(self.config.edge_body_timeout_s);
        // Base64 makes four bytes of three.
        let most = if ask.protocol == (Protocol::Web { text: true }) { MAX_MESSAGE / 3 * 4 } else { MAX_MESSAGE };
        let mut body = request::body(body, within, most + 2 * PREFIX).await?;
        seen.took(body.len());
        if ask.protocol == (Protocol::Web { text: true }) {
            let mut text = Text::default();
            body = text.push(&body)?;
            if !text.is_between() {
                return Err(malformed("the body ended inside a group of base64"));
            }
        }
        if let Protocol::ConnectStream { json } = ask.protocol {
            return connect::enveloped(json.then_some(&*ask.served.codec), connect::is_zipped(headers)?, &body);
        }
        if are_zipped(headers) {
            return connect::enveloped(None, true, &body);
        }
        let mut watch = Watch::default();
        watch.pass(&body)?;
        if !watch.is_between() {
            return Err(malformed("the body ended inside a message"));
        }
        Ok(body)
    }

    /// The headers of the call behind: made anew, so that nothing of what the client sent passes unseen.
    fn outgoing(
        &self,
        ask: &Ask<'_>,
        seen: &Seen,
        headers: &HeaderMap,
        admitted: &Admitted,
        deadline: Option<Instant>,
    ) -> Result<HeaderMap, Refusal> {
        let mut out = HeaderMap::with_capacity(24);
        metadata::inward(ask.protocol, headers, &mut out)?;
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
        if matches!(ask.protocol, Protocol::Grpc | Protocol::Web { .. }) {
            // What is not unpacked here passes as it is: how it is compressed is between the two ends, as with answers.
            metadata::copy(&[GRPC_ACCEPT_ENCODING], headers, &mut out);
            if !are_zipped(headers) {
                metadata::copy(&[GRPC_ENCODING], headers, &mut out);
            }
        }
        self.identity(ask, headers, admitted, &mut out);
        if let Some(key) = request::idempotency_key(headers)? {
            out.insert(IDEMPOTENCY_KEY, key.clone());
        }
        let listed = metadata::Listed::of(headers);
        for name in ask.served.handed_on.iter().filter(|name| !listed.holds(name)) {
            out.remove(name);
            out.extend(headers.get_all(name).iter().map(|value| (name.clone(), value.clone())));
        }
        if let Some(deadline) = deadline {
            out.insert(GRPC_TIMEOUT, timeout_header(deadline.saturating_duration_since(Instant::now())));
        }
        Ok(out)
    }

    /// In whose name the call goes on.
    fn identity(&self, ask: &Ask<'_>, headers: &HeaderMap, admitted: &Admitted, out: &mut HeaderMap) {
        let Admitted { caller, host, .. } = admitted;
        let tenant = host.as_ref().map(|host| host.id).or(caller.tenant_id);
        match (ask.served.method.access, &caller.principal) {
            // No service but the mesh's own learns the operator credential, or is told more of who calls than it asks.
            (Access::Public, _) if ask.served.target.dial.is_foreign => {}
            (Access::Operator, _) if !ask.served.target.dial.is_foreign => {
                metadata::copy(&[OPERATOR_KEY], headers, out);
            }
            (Access::Tenant, Principal::User { .. } | Principal::Key { .. }) => {
                metadata::copy(&[header::AUTHORIZATION], headers, out);
            }
            _ => {
                let token = self.mesh.key.mint(PART, &ask.served.target.dial.audience, tenant, &caller.roles);
                let bearer = HeaderValue::try_from(format!("Bearer {token}")).expect("a JWT is printable ASCII");
                out.insert(header::AUTHORIZATION, bearer);
            }
        }
        if let Some(tenant) = tenant {
            let tenant = HeaderValue::try_from(tenant.to_string()).expect("an id is printable ASCII");
            out.insert(TENANT_ID, tenant);
        }
    }
}

/// Whether a call may be sent twice: by its method, or because its key makes the second one answer as the first.
pub(super) fn may_repeat(method: &Method, headers: &HeaderMap) -> bool {
    method.effect != Effect::Once || headers.contains_key(IDEMPOTENCY_KEY)
}

/// An answer that is repeated was counted when it was made.
fn is_counted(headers: &HeaderMap) -> bool {
    !headers.contains_key(REPLAYED)
}

/// How a stream of requests is read.
fn reader(ask: &Ask<'_>, seen: &Seen, headers: &HeaderMap) -> Result<Reader, Refusal> {
    Ok(match (ask.protocol, &ask.route) {
        (Protocol::Json, Some(route)) => {
            let array = request::json_values(headers)?;
            Reader::Values(Values::new(array), route.clone(), seen.uri.clone())
        }
        (Protocol::ConnectStream { json }, _) => Reader::Envelopes {
            frames: Frames::default(),
            codec: json.then(|| ask.served.codec.clone()),
            is_zipped: connect::is_zipped(headers)?,
        },
        (Protocol::Web { text: true }, _) => Reader::Text(Text::default(), Watch::default()),
        _ if are_zipped(headers) => Reader::unpacked(),
        _ => Reader::Frames(Watch::default()),
    })
}

/// How a stream of answers is written.
pub(super) fn shape(ask: &Ask<'_>, form: Form, zip_from: Option<usize>) -> Shape {
    match (ask.protocol, &ask.route) {
        (Protocol::Json, Some(route)) if route.binding.gives_any_media() => Shape::Raw(route.clone()),
        (Protocol::Json, Some(route)) => Shape::Json(form, route.clone()),
        (Protocol::ConnectStream { json }, _) if json || zip_from.is_some() => {
            Shape::Envelopes { codec: json.then(|| ask.served.codec.clone()), zip_from }
        }
        (protocol, _) => Shape::Frames(protocol),
    }
}

/// The headers of an event stream whose service has said nothing yet.
fn events() -> Response<()> {
    let mut answer = Response::new(());
    streamed(answer.headers_mut());
    answer.headers_mut().insert(header::CONTENT_TYPE, Form::Events.media());
    answer
}

fn streamed(to: &mut HeaderMap) {
    to.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A proxy that gathers an answer before it hands it on would hold the stream back.
    to.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
}

/// The headers of a streamed answer, with the stream behind them.
pub(super) async fn relayed(
    seen: &Seen,
    response: Response<UpstreamBody>,
    mut relay: Relay,
    form: Form,
) -> Result<Answered, Refusal> {
    let (parts, body) = response.into_parts();
    relay.body = body;
    if let Some(status) = status_of(&parts.headers) {
        if status.code() != Code::Ok {
            return Err(refused(&status, &relay.line, relay.deadline));
        }
        // The whole answer was in its headers.
        relay.end(Ok(HeaderMap::new()));
    }
    let mut answer = Response::new(());
    let to = answer.headers_mut();
    to.reserve(16);
    let metadata = metadata::outward(&parts.headers);
    match seen.protocol {
        Protocol::Json => {
            metadata::spelt_for_json(metadata, false, to);
            streamed(to);
            let media = match &relay.shape {
                Shape::Raw(route) => {
                    let route = route.clone();
                    first_piece(&route, &mut relay).await?
                }
                _ => form.media(),
            };
            to.insert(header::CONTENT_TYPE, media);
        }
        protocol => {
            to.extend(metadata);
            to.insert(header::CONTENT_TYPE, protocol.media());
            metadata::copy(&[GRPC_ENCODING], &parts.headers, to);
            if matches!(relay.shape, Shape::Envelopes { zip_from: Some(_), .. }) {
                to.insert(connect::STREAM_ENCODING, HeaderValue::from_static("gzip"));
            }
        }
    }
    metadata::copy(&[REPLAYED], &parts.headers, to);
    if seen.verb == Verb::HEAD {
        return Ok(Answered::Whole(answer.map(|()| Bytes::new())));
    }
    Ok(Answered::Stream(answer, Box::new(relay)))
}

/// The media type of a body in pieces is that of its first.
async fn first_piece(route: &Route, relay: &mut Relay) -> Result<HeaderValue, Refusal> {
    let kind = match relay.first().await? {
        None => {
            relay.end(Ok(HeaderMap::new()));
            String::new()
        }
        Some(message) => {
            relay.put(&message)?;
            route.binding.response(&message)?.kind
        }
    };
    Ok(media(&kind))
}

/// The one message of an answer as JSON, or as the body that it holds.
fn json_answer(ask: &Ask<'_>, route: &Route, answer: &upstreams::Answer) -> Result<Response<Bytes>, Refusal> {
    let Media { kind, data } = route.binding.response(&answer.message)?;
    let mut response = Response::new(data);
    let to = response.headers_mut();
    to.reserve(12);
    metadata::spelt_for_json(metadata::outward(&answer.headers), false, to);
    metadata::spelt_for_json(metadata::outward(&answer.trailers), true, to);
    to.insert(header::CONTENT_TYPE, if route.binding.gives_any_media() { media(&kind) } else { JSON });
    metadata::copy(&[REPLAYED], &answer.headers, to);
    if ask.served.method.access != Access::Public {
        to.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    Ok(response)
}

/// The media type of a service's own body. What a browser could guess at is named as bytes.
fn media(kind: &str) -> HeaderValue {
    let known = HeaderValue::from_str(kind).ok().filter(|kind| !kind.is_empty());
    known.unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

pub(super) fn is_traceparent(value: &HeaderValue) -> bool {
    let plain = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    value.len() == 55 && value.as_bytes().starts_with(b"00-") && value.as_bytes().iter().all(plain)
}

/// Says that a path takes another media type.
pub(super) fn unsupported(why: String) -> Refusal {
    let refusal = Refusal::new(Code::Unimplemented, "UNSUPPORTED_MEDIA_TYPE", why);
    refusal.http(StatusCode::UNSUPPORTED_MEDIA_TYPE)
}
