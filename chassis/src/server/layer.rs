//! What stands around every handler: span, metrics, deadline, guard, idempotency.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use sha2::{Digest, Sha256};
use tenon_proto::policy::{Contract, Effect, Method, UNGUARDED};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body, service::Routes};
use tower::Service;
use tracing::{Instrument, Span};

use crate::{
    Caller, Fault, Mesh,
    caller::Idempotency,
    client::{DEADLINE, GRPC_TIMEOUT, IDEMPOTENCY_KEY, parse_timeout},
    db::REPLAY,
    guard::Guard,
    telemetry,
};

/// Bytes of one request message at most, as everywhere in the mesh.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Characters of an idempotency key.
const MAX_KEY: usize = 255;
/// A deadline that a caller may ask for at most.
const MAX_DEADLINE: Duration = Duration::from_secs(3_600);

/// Routes that no call reaches but through the guard.
#[derive(Clone)]
pub struct Guarded {
    part: &'static str,
    routes: Routes,
    shared: Arc<Around>,
}

struct Around {
    contract: Arc<Contract>,
    guard: Arc<Guard>,
    call_timeout: Duration,
}

impl Guarded {
    #[must_use]
    pub fn new(mesh: &Mesh, part: &'static str, routes: Routes) -> Self {
        let call_timeout = Duration::from_secs(mesh.config.call_timeout_s);
        let (contract, guard) = (mesh.contract.clone(), mesh.guard(part));
        Self { part, routes, shared: Arc::new(Around { contract, guard, call_timeout }) }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Service<Request<Incoming>> for Guarded {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answer {
        let mut routes = self.routes.clone();
        let Some(method) = self.shared.contract.method(request.uri().path()).cloned() else {
            let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
            if UNGUARDED.contains(&service) {
                return Box::pin(routes.call(request.map(Body::new)));
            }
            let path = request.uri().path().to_owned();
            let fault = Fault::new(Code::Unimplemented, "METHOD_UNKNOWN", format!("no method {path} is served here"));
            return Box::pin(async move { Ok(Status::from(fault).into_http()) });
        };
        let (part, shared) = (self.part, self.shared.clone());
        let span = span(part, &method, request.headers());
        Box::pin(
            async move {
                let seen = Seen::start(part, &method);
                let response = shared.admitted(routes, &method, request).await;
                let response = response.unwrap_or_else(Status::into_http);
                let code = code(&response);
                Span::current().record("rpc.grpc.status_code", i32::from(code));
                seen.end(code);
                Ok(response)
            }
            .instrument(span),
        )
    }
}

impl Around {
    async fn admitted(
        &self,
        mut routes: Routes,
        method: &Arc<Method>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let asked = request.headers().get(GRPC_TIMEOUT).and_then(parse_timeout).map(|asked| asked.min(MAX_DEADLINE));
        let streaming = method.descriptor.is_server_streaming();
        // A stream without a deadline lives as long as both ends want.
        let limit = if streaming { asked.unwrap_or(MAX_DEADLINE) } else { asked.unwrap_or(self.call_timeout) };
        let call = async {
            let mut caller = self.guard.admit(method, request.headers()).await?;
            let (request, idempotency) = keyed(method, request).await?;
            caller.idempotency = idempotency;
            let (mut parts, body) = request.into_parts();
            parts.extensions.insert::<Caller>(caller);
            let response = routes.call(Request::from_parts(parts, body)).await;
            let Ok(response) = response;
            Ok::<_, Status>(replayed(response))
        };
        let call = DEADLINE.scope(Instant::now() + limit, call);
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the deadline passed").into()),
        }
    }
}

fn span(part: &'static str, method: &Method, headers: &HeaderMap) -> Span {
    let name = &method.path[1..];
    let span = tracing::info_span!(
        "rpc",
        otel.name = name,
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.method = name,
        tenon.part = part,
        rpc.grpc.status_code = tracing::field::Empty
    );
    telemetry::extract(&span, headers);
    span
}

/// Counts a call in, and out when it ends, also by being dropped.
struct Seen {
    part: &'static str,
    method: String,
    started: Instant,
    code: Code,
}

impl Seen {
    fn start(part: &'static str, method: &Method) -> Self {
        let method = method.path.clone();
        metrics::gauge!("tenon_rpc_in_flight", "part" => part).increment(1.0);
        Self { part, method, started: Instant::now(), code: Code::Cancelled }
    }

    fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        let (part, method, code) = (self.part, std::mem::take(&mut self.method), i32::from(self.code).to_string());
        metrics::gauge!("tenon_rpc_in_flight", "part" => part).decrement(1.0);
        metrics::counter!("tenon_rpc_total", "part" => part, "method" => method.clone(), "code" => code).increment(1);
        metrics::histogram!("tenon_rpc_duration_seconds", "part" => part, "method" => method)
            .record(self.started.elapsed());
    }
}

fn code(response: &Response<Body>) -> Code {
    let code = response.headers().get(Status::GRPC_STATUS);
    code.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// For a request with an idempotency key: reads it whole, to know it again.
async fn keyed(method: &Method, request: Request<Incoming>) -> Result<(Request<Body>, Option<Idempotency>), Status> {
    let key = request.headers().get(IDEMPOTENCY_KEY).filter(|_| method.effect != Effect::None);
    let Some(key) = key else { return Ok((request.map(Body::new), None)) };
    let valid = |key: &&str| !key.is_empty() && key.len() <= MAX_KEY && key.bytes().all(|b| b.is_ascii_graphic());
    let key = key.to_str().ok().filter(valid);
    let key = key.ok_or_else(|| Fault::invalid("idempotency-key", "must be 1 to 255 visible ASCII characters"))?;
    let key = key.to_owned();
    let (parts, body) = request.into_parts();
    let too_large = |_| Fault::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", "a message may have 4 MiB at most");
    let bytes = Limited::new(body, MAX_MESSAGE).collect().await.map_err(too_large)?.to_bytes();
    let request_hash = Sha256::digest(&bytes).to_vec();
    let request = Request::from_parts(parts, Body::new(Full::new(bytes)));
    Ok((request, Some(Idempotency { key, request_hash })))
}

/// Turns the stored answer that a transaction found into the answer of this call.
fn replayed(mut response: Response<Body>) -> Response<Body> {
    let Some(stored) = response.headers_mut().remove(REPLAY) else { return response };
    let Some(answer) = decode(&stored) else { return response };
    let mut frame = BytesMut::with_capacity(answer.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(answer.len()).unwrap_or(u32::MAX));
    frame.put_slice(&answer);
    let mut trailers = HeaderMap::new();
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    let frames = [Ok::<_, Infallible>(Frame::data(frame.freeze())), Ok(Frame::trailers(trailers))];
    let body = StreamBody::new(futures::stream::iter(frames));
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    response
}

/// Binary metadata is base64 without padding (gRPC over HTTP/2, "Custom-Metadata").
fn decode(value: &HeaderValue) -> Option<Bytes> {
    BASE64_STANDARD_NO_PAD.decode(value.as_bytes()).ok().map(Bytes::from)
}
