//! What is seen of a request: one access log line, three metrics, one span. Never a query, a body or a secret.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{HeaderValue, Method, StatusCode, Uri};
use tenon_chassis::{TenantId, caller::Principal, telemetry};
use tokio::time::Instant;
use tonic::Code;
use tracing::Span;

use super::{counts, forward::is_traceparent, line::Line, protocol::Protocol};
use crate::{errors::Told, upstreams::Target};

/// A request from its first byte to its answer; it is logged and counted when it is dropped, so also when the client
/// goes away.
pub(super) struct Seen {
    started: Instant,
    pub(super) verb: Method,
    pub(super) uri: Uri,
    pub(super) request_id: HeaderValue,
    pub(super) client: IpAddr,
    pub(super) protocol: Protocol,
    /// The name of the route or method in logs and metrics.
    pub(super) label: Option<Arc<str>>,
    pub(super) tenant: Option<TenantId>,
    pub(super) principal: Option<Principal>,
    /// The name of the service behind.
    pub(super) upstream: Option<Arc<Target>>,
    /// Both halves of a stream.
    pub(super) line: Option<Arc<Line>>,
    received: AtomicU64,
    sent: u64,
    code: Option<Code>,
    trace: Option<String>,
    /// 499 until there is an answer.
    status: u16,
    reason: Option<String>,
    span: Option<Span>,
}

impl Seen {
    pub(super) fn start(verb: Method, uri: Uri, request_id: HeaderValue, client: IpAddr) -> Self {
        counts::in_flight(1.0);
        Self {
            started: Instant::now(),
            verb,
            uri,
            request_id,
            client,
            protocol: Protocol::Json,
            label: None,
            tenant: None,
            principal: None,
            upstream: None,
            line: None,
            received: AtomicU64::new(0),
            sent: 0,
            code: None,
            trace: None,
            status: 499,
            reason: None,
            span: None,
        }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// The server span of a request whose route is known.
    pub(super) fn span(&mut self, headers: &http::HeaderMap) -> Span {
        let label = self.label.as_deref().unwrap_or_default();
        let span = tracing::info_span!(
            "http",
            otel.name = label,
            otel.kind = "server",
            tenon.part = "gateway",
            otel.status_code = tracing::field::Empty,
            http.request.method = self.verb.as_str(),
            http.route = label,
            url.path = self.uri.path(),
            network.protocol.name = self.protocol.name(),
            http.response.status_code = tracing::field::Empty,
            tenant.id = tracing::field::Empty
        );
        if !span.is_disabled() {
            telemetry::extract(&span, headers);
            self.trace = span.in_scope(telemetry::traceparent);
            self.span = Some(span.clone());
        }
        if self.trace.is_none() {
            // No trace of our own; the client's goes on to the service as it came.
            let parent = headers.get(telemetry::TRACEPARENT).filter(|parent| is_traceparent(parent));
            self.trace = parent.and_then(|parent| parent.to_str().ok()).map(str::to_owned);
        }
        span
    }

    /// Bytes of a request body were read.
    pub(super) fn took(&self, bytes: usize) {
        self.received.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Bytes of the answer's body were handed on.
    pub(super) fn gave(&mut self, bytes: usize) {
        self.sent += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// A service's answer to a call is there, whole.
    pub(super) fn succeeded(&mut self, status: StatusCode) {
        self.code = self.upstream.is_some().then_some(Code::Ok);
        self.answered(status);
    }

    /// The whole answer is there.
    fn answered(&mut self, status: StatusCode) {
        self.status = status.as_u16();
        let Some(span) = self.span.take() else { return };
        span.record("http.response.status_code", self.status);
        if let Some(tenant) = self.tenant {
            span.record("tenant.id", tracing::field::display(tenant));
        }
        if status >= StatusCode::INTERNAL_SERVER_ERROR {
            span.record("otel.status_code", "ERROR");
        }
    }

    /// The answer has ended, well or with a refusal. Whatever the protocol, the status is the one that HTTP/JSON has.
    pub(super) fn ended(&mut self, told: Option<&Told>) {
        self.reason = told.map(|told| told.reason.clone());
        self.code = Some(told.map_or(Code::Ok, |told| told.code));
        self.answered(told.map_or(StatusCode::OK, Told::http));
    }

    fn log(&self) {
        let route = self.label.as_deref();
        let principal = self.principal.as_ref().map(|principal| match principal {
            Principal::Anyone => "anyone".to_owned(),
            Principal::Operator => "operator".to_owned(),
            Principal::User { user, .. } => user.to_string(),
            Principal::Key { key } => format!("key:{key}"),
            Principal::Service { name } => format!("svc:{name}"),
        });
        let streamed = self.line.as_ref().map_or(0, |line| line.received());
        let received = self.received.load(Ordering::Relaxed) + streamed;
        let micros = self.started.elapsed().as_micros();
        tracing::event!(
            target: "tenon_gateway::access",
            tracing::Level::INFO,
            {
                http.request.method = self.verb.as_str(),
                url.path = self.uri.path(),
                http.route = route,
                network.protocol.name = self.protocol.name(),
                http.response.status_code = self.status,
                rpc.grpc.status_code = self.code.map(i32::from),
                error.reason = self.reason.as_deref(),
                duration_us = u64::try_from(micros).unwrap_or(u64::MAX),
                http.request.body.size = received,
                http.response.body.size = self.sent,
                upstream.name = self.upstream.as_ref().map(|target| target.dial.name.as_str()),
                client.address = %self.client,
                tenant.id = self.tenant.map(|tenant| tenant.to_string()).as_deref(),
                principal = principal.as_deref(),
                request.id = self.request_id.to_str().unwrap_or_default(),
                // 00-<trace>-<span>-<flags>
                trace.id = self.trace.as_deref().and_then(|parent| parent.get(3..35)),
            },
            "request"
        );
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        if tracing::enabled!(target: "tenon_gateway::access", tracing::Level::INFO) {
            self.log();
        }
        counts::in_flight(-1.0);
        let none = || NO_ROUTE.with(Arc::clone);
        let route = self.label.take().unwrap_or_else(none);
        counts::answered(&route, self.protocol.name(), self.status, self.started.elapsed());
    }
}

thread_local! {
    /// The name of what is no route.
    static NO_ROUTE: Arc<str> = Arc::from("none");
}
