//! The span of one try of a call, as OpenTelemetry's conventions for RPC clients have it; none where no trace is kept.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Uri};
use tenon_chassis::telemetry::{self, TRACEPARENT};
use tonic::{Code, Status};
use tracing::{Span, field::Empty};

/// Ends when it is dropped: by then the call has ended, or was given up.
#[derive(Default)]
pub(super) struct Traced(Option<Span>);

impl Traced {
    /// Begins under the request's own span, and becomes the parent of the service's.
    pub(super) fn start(path: &Uri, address: SocketAddr, headers: &mut HeaderMap) -> Self {
        if !telemetry::is_sampled() {
            return Self(None);
        }
        let name = path.path().trim_start_matches('/');
        let (service, method) = name.split_once('/').unwrap_or((name, ""));
        let span = tracing::info_span!(
            "call",
            otel.name = name,
            otel.kind = "client",
            otel.status_code = Empty,
            tenon.part = "gateway",
            rpc.system = "grpc",
            rpc.service = service,
            rpc.method = method,
            rpc.grpc.status_code = Empty,
            server.address = %address.ip(),
            server.port = address.port(),
        );
        let parent = span.in_scope(telemetry::traceparent);
        if let Some(parent) = parent.and_then(|parent| HeaderValue::try_from(parent).ok()) {
            headers.insert(TRACEPARENT, parent);
        }
        Self(Some(span))
    }

    /// The status in an answer's headers or trailers, when it has come.
    pub(super) fn heard(&mut self, headers: &HeaderMap) {
        if self.0.is_some()
            && let Some(code) = headers.get(Status::GRPC_STATUS)
        {
            self.ended(Code::from_bytes(code.as_bytes()));
        }
    }

    /// How the call ended; the first word counts.
    pub(super) fn ended(&mut self, code: Code) {
        let Some(span) = self.0.take() else { return };
        span.record("rpc.grpc.status_code", i32::from(code));
        if code != Code::Ok {
            span.record("otel.status_code", "ERROR");
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.ended(Code::Cancelled);
    }
}
