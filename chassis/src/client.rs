//! Calls between services: lazy channels that find replicas anew, and on each call a token, the trace, what is left of
//! the deadline.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Request, Response, header::AUTHORIZATION};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tonic::{
    Code, Status, TimeoutExpired,
    body::Body,
    transport::{Channel, Endpoint, Error as TransportError},
};
use tower::Service;

use crate::{TenantId, guard::TENANT_ID, telemetry, token::MeshKey};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// A call outside any request gets this long.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// gRPC's own deadline header.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Makes a repeated call answer as the first did.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

tokio::task_local! {
    /// When the call that is being served must be answered; calls made meanwhile get what is left.
    pub static DEADLINE: Instant;
}

/// What is left of the current call's deadline.
#[must_use]
pub fn remaining() -> Option<Duration> {
    DEADLINE.try_with(|at| at.saturating_duration_since(Instant::now())).ok()
}

/// A channel that connects on first use, and again, with a fresh look at DNS, whenever the connection ends: servers
/// send GOAWAY when one is old, so that new replicas are found.
///
/// # Errors
/// When the URL is malformed.
pub fn channel(url: &str) -> Result<Channel, TransportError> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_adaptive_window(true);
    Ok(endpoint.connect_lazy())
}

/// A connection to one service, and in whose name calls go out on it.
#[derive(Clone)]
pub struct Peer {
    channel: Channel,
    key: Arc<MeshKey>,
    from: &'static str,
    to: &'static str,
    tenant: Option<TenantId>,
    roles: Arc<[String]>,
    idempotency: Option<HeaderValue>,
}

impl Peer {
    #[must_use]
    pub fn new(channel: Channel, key: Arc<MeshKey>, from: &'static str, to: &'static str) -> Self {
        Self { channel, key, from, to, tenant: None, roles: Arc::new([]), idempotency: None }
    }

    /// Calls go out for a tenant, with these roles.
    #[must_use]
    pub fn acting_for(mut self, tenant: TenantId, roles: &[String]) -> Self {
        (self.tenant, self.roles) = (Some(tenant), roles.into());
        self
    }

    /// Calls go out with an idempotency key: printable ASCII.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: &str) -> Self {
        self.idempotency = HeaderValue::try_from(key).ok();
        self
    }

    fn prepare(&self, request: &mut Request<Body>) {
        let headers = request.headers_mut();
        let token = self.key.mint(self.from, self.to, self.tenant, &self.roles);
        let bearer = HeaderValue::try_from(format!("Bearer {token}")).expect("a JWT is printable ASCII");
        headers.insert(AUTHORIZATION, bearer);
        if let Some(tenant) = self.tenant {
            headers.insert(TENANT_ID, HeaderValue::try_from(tenant.to_string()).expect("an id is printable ASCII"));
        }
        if let Some(key) = &self.idempotency {
            headers.insert(IDEMPOTENCY_KEY, key.clone());
        }
        telemetry::inject(headers);
    }
}

/// The header of a deadline (gRPC over HTTP/2, "Timeout"): at most 8 digits and a unit.
#[must_use]
pub fn timeout_header(left: Duration) -> HeaderValue {
    let micros = left.as_micros();
    let text =
        if micros < 100_000_000 { format!("{micros}u") } else { format!("{}m", left.as_millis().min(99_999_999)) };
    HeaderValue::try_from(text).expect("digits and a letter")
}

/// An answer whose rest may still be lost with the connection.
fn reachable(body: Body) -> Body {
    Body::new(body.map_err(|status| if status.code() == Code::Unknown { unreachable(&status) } else { status }))
}

/// A connection that could not be made, or ended under the call: tonic calls the latter UNKNOWN, which nobody repeats.
fn unreachable(error: &(dyn std::error::Error + 'static)) -> Status {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return Status::deadline_exceeded("the deadline passed before the answer came");
        }
        cause = error.source();
    }
    tracing::debug!(error, "service cannot be reached");
    Status::unavailable("the service cannot be reached just now")
}

impl Service<Request<Body>> for Peer {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context).map_err(|error| unreachable(&error))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        self.prepare(&mut request);
        // Streams live as long as both ends want, unless their caller said otherwise; they set the header themselves.
        let left = remaining().unwrap_or(DEFAULT_DEADLINE);
        let own = request.headers().get(GRPC_TIMEOUT).and_then(parse_timeout);
        let left = own.map_or(left, |own| own.min(left));
        request.headers_mut().insert(GRPC_TIMEOUT, timeout_header(left));
        let call = self.channel.call(request);
        Box::pin(async move {
            match tokio::time::timeout(left, call).await {
                Ok(answer) => answer.map(|answer| answer.map(reachable)).map_err(|error| unreachable(&error)),
                Err(_) => Err(Status::deadline_exceeded("the deadline passed before the answer came")),
            }
        })
    }
}

/// Reads a `grpc-timeout`; `None` when it is not one.
#[must_use]
pub fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3_600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_reads_back() {
        for left in [Duration::from_micros(1), Duration::from_millis(1_500), Duration::from_secs(3_600)] {
            assert_eq!(parse_timeout(&timeout_header(left)), Some(left));
        }
        assert_eq!(parse_timeout(&HeaderValue::from_static("123456789S")), None);
        assert_eq!(parse_timeout(&HeaderValue::from_static("S")), None);
        assert_eq!(parse_timeout(&HeaderValue::from_static("5x")), None);
    }
}
