//! Calls to the services behind: a stream of gRPC frames each way, and the unary call that stands on it.

use std::{
    error::Error as StdError,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tenon_chassis::{Fault, client};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt};

use super::Upstream;
use crate::{
    errors::{Refusal, status_of},
    stack,
};

/// Bytes of one response message at most, as everywhere in the mesh.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Compressed flag and length in front of a gRPC message.
const PREFIX: usize = 5;

/// A connection to one upstream.
pub(crate) struct Target {
    /// The `aud` of tokens that are minted for it.
    pub(crate) audience: String,
    channel: Channel,
}

/// The answer to a unary call that succeeded.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) message: Bytes,
    pub(crate) trailers: HeaderMap,
}

/// Whether a call may be sent again while nothing of its answer has come.
#[derive(Debug, Clone)]
pub(crate) enum Retry {
    Never,
    /// The whole body once more: the method has no side effects or is idempotent, or the request has a key.
    Again(Bytes),
}

/// Why no response came.
#[derive(Debug, Clone)]
pub(crate) enum Failed {
    /// No connection, or it ended before the response began.
    Unreachable,
    /// The deadline passed.
    Expired,
    /// The answer is none of gRPC's.
    Refused(Status),
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unreachable => {
                Fault::new(Code::Unavailable, "UPSTREAM_UNAVAILABLE", "the service cannot be reached just now")
                    .retry_after(Duration::from_secs(1))
                    .into()
            }
            Failed::Expired => expired().into(),
            Failed::Refused(status) => status.into(),
        }
    }
}

/// The response body of a call: gRPC frames as they come, trailers at the end.
pub(crate) struct UpstreamBody(Body);

impl UpstreamBody {
    pub(crate) fn new(body: Body) -> Self {
        Self(body)
    }
}

impl http_body::Body for UpstreamBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Target {
    pub(crate) fn new(upstream: &Upstream) -> Result<Self, tonic::transport::Error> {
        let channel = client::channel(&upstream.url)?;
        Ok(Self { audience: upstream.audience.clone(), channel })
    }

    /// Opens a call of any kind: `body` goes out as it is made, the response comes back once its headers are there. What
    /// the service refuses at once (trailers only) is a response too: its status stands in the headers.
    ///
    /// The deadline bounds the wait for the headers only; dropping the body cancels the call.
    pub(crate) async fn open(
        &self,
        path: &Uri,
        headers: HeaderMap,
        body: Body,
        deadline: Instant,
        retry: Retry,
    ) -> Result<Response<UpstreamBody>, Failed> {
        let Retry::Again(whole) = retry else { return self.send(path, headers, body, deadline).await };
        match self.send(path, headers.clone(), body, deadline).await {
            Err(Failed::Unreachable) => self.send(path, headers, Body::new(Full::new(whole)), deadline).await,
            result => result,
        }
    }

    /// Sends one message and waits for one.
    pub(crate) async fn call(
        &self,
        path: &Uri,
        headers: HeaderMap,
        frame: Bytes,
        deadline: Instant,
        retry: bool,
    ) -> Result<Answer, Refusal> {
        let retry = if retry { Retry::Again(frame.clone()) } else { Retry::Never };
        let response = self.open(path, headers, Body::new(Full::new(frame)), deadline, retry).await?;
        one(response, deadline).await
    }

    async fn send(
        &self,
        path: &Uri,
        headers: HeaderMap,
        body: Body,
        deadline: Instant,
    ) -> Result<Response<UpstreamBody>, Failed> {
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = Version::HTTP_2;
        request.uri_mut().clone_from(path);
        *request.headers_mut() = headers;
        let mut channel = self.channel.clone();
        let answer = async { channel.ready().await?.call(request).await };
        let response = timeout_at(deadline, answer).await.map_err(|_| Failed::Expired)?;
        let response = response.map_err(|error| self.unreachable(&error))?;
        if response.status() != StatusCode::OK {
            let status = format!("the service answered with HTTP {}", response.status().as_u16());
            return Err(Failed::Refused(Status::new(Code::Unavailable, status)));
        }
        Ok(response.map(UpstreamBody))
    }

    fn unreachable(&self, error: &tonic::transport::Error) -> Failed {
        let mut text = error.to_string();
        let mut source = StdError::source(error);
        while let Some(cause) = source {
            // The channel reads the deadline that goes out with the call, and may be first to see it pass.
            if cause.is::<tonic::TimeoutExpired>() {
                return Failed::Expired;
            }
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        tracing::warn!(upstream.name = self.audience, error = text, "upstream cannot be reached");
        Failed::Unreachable
    }
}

/// The answer to a call that has one message.
///
/// # Errors
/// The service's own refusal, or that its answer is not one message.
pub(crate) async fn one(response: Response<UpstreamBody>, deadline: Instant) -> Result<Answer, Refusal> {
    let (parts, body) = response.into_parts();
    let refuse = |status: Status| {
        let metadata = stack::outward(status.metadata().as_ref());
        Refusal::from(remap(status, deadline)).metadata(metadata)
    };
    if let Some(status) = status_of(&parts.headers) {
        // Trailers only: a refusal, since a success has a message.
        return Err(refuse(if status.code() == Code::Ok { broken("has no message") } else { status }));
    }
    let (message, trailers) = receive(body).await.map_err(refuse)?;
    Ok(Answer { headers: parts.headers, message, trailers })
}

/// Reads the one message and the status behind it.
async fn receive(mut body: UpstreamBody) -> Result<(Bytes, HeaderMap), Status> {
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) if first.is_empty() => first = data,
            Ok(data) => {
                let all = rest.get_or_insert_with(|| BytesMut::from(first.as_ref()));
                if all.len() + data.len() > MAX_MESSAGE + PREFIX {
                    return Err(broken("is larger than 4 MiB"));
                }
                all.put(data);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let status = trailers.as_ref().and_then(status_of);
    match status {
        None => return Err(broken("has no status")),
        Some(status) if status.code() != Code::Ok => return Err(status),
        Some(_) => {}
    }
    let message = unframe(&rest.map_or(first, BytesMut::freeze))?;
    Ok((message, trailers.unwrap_or_default()))
}

/// The message of a body that holds exactly one, not compressed.
fn unframe(frame: &Bytes) -> Result<Bytes, Status> {
    let Some((prefix, message)) = frame.split_first_chunk::<PREFIX>() else { return Err(broken("has no message")) };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || usize::try_from(length) != Ok(message.len()) {
        return Err(broken("is not one plain message"));
    }
    Ok(frame.slice(PREFIX..))
}

fn broken(what: &str) -> Status {
    Fault::new(Code::Internal, "INVALID_RESPONSE", format!("the service's answer {what}")).into()
}

/// A server that gives up in time says CANCELLED ("Timeout expired" is tonic's); so does one that we gave up on.
pub(crate) fn remap(status: Status, deadline: Instant) -> Status {
    let late = status.message() == "Timeout expired" || Instant::now() >= deadline;
    if status.code() == Code::Cancelled && late { expired().into() } else { status }
}

/// What a call gets that was not answered in time.
pub(crate) fn expired() -> Fault {
    Fault::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the deadline passed before the answer came")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_plain_message_is_a_body() {
        assert_eq!(unframe(&Bytes::from_static(b"\0\0\0\0\x02ab")).unwrap(), "ab");
        assert_eq!(unframe(&Bytes::from_static(b"\0\0\0\0\0")).unwrap(), "");
        for bad in [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\x02ab", b"\0\0\0\0\x03ab", b"\0\0\0\0\x01ab"] {
            assert_eq!(unframe(&Bytes::from_static(bad)).unwrap_err().code(), Code::Internal, "{bad:?}");
        }
    }

    #[test]
    fn a_timeout_that_says_cancelled_is_a_deadline() {
        let later = Instant::now() + Duration::from_secs(60);
        let code = |status, deadline| remap(status, deadline).code();
        assert_eq!(code(Status::cancelled("Timeout expired"), later), Code::DeadlineExceeded);
        assert_eq!(code(Status::cancelled("x"), Instant::now()), Code::DeadlineExceeded);
        assert_eq!(code(Status::cancelled("x"), later), Code::Cancelled);
        assert_eq!(code(Status::not_found("Timeout expired"), later), Code::NotFound);
    }
}
