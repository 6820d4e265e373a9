//! Calls to the services behind: raw message bytes over a gRPC channel, the status of the answer, deadlines remapped.

use std::{error::Error as StdError, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use prost::Message;
use prost_reflect::DynamicMessage;
use tenon_chassis::{Fault, client};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt};

use crate::errors::Refusal;

/// Bytes of one response message at most, as everywhere in the mesh.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Compressed flag and length in front of a gRPC message.
const PREFIX: usize = 5;

/// Where the methods of a proto package are served.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// What the full name of a method starts with: `shop.orders.`; the longest that fits is taken.
    pub prefix: String,
    /// The `aud` of tokens that are minted for it.
    pub audience: String,
    /// `http://host:port`
    pub url: String,
}

/// A connection to one upstream.
pub(crate) struct Target {
    pub(crate) prefix: String,
    pub(crate) audience: String,
    channel: Channel,
}

/// The answer to a call that succeeded.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) message: Bytes,
}

impl Target {
    pub(crate) fn new(upstream: Upstream) -> Result<Self, tonic::transport::Error> {
        let channel = client::channel(&upstream.url)?;
        Ok(Self { prefix: upstream.prefix, audience: upstream.audience, channel })
    }

    /// Sends one message and waits for one. With `repeat`, a call that did not reach the service is sent once more.
    pub(crate) async fn call(
        &self,
        path: &Uri,
        headers: HeaderMap,
        frame: Bytes,
        deadline: Instant,
        repeat: bool,
    ) -> Result<Answer, Refusal> {
        let again = repeat.then(|| headers.clone());
        let result = match self.send(path, headers, frame.clone()).await {
            Err(Failed::Unreachable(_)) if let Some(headers) = again => self.send(path, headers, frame).await,
            result => result,
        };
        result.map_err(|failed| match failed {
            Failed::Unreachable(why) => {
                tracing::warn!(upstream.name = self.audience, error = why, "upstream cannot be reached");
                Fault::new(Code::Unavailable, "UPSTREAM_UNAVAILABLE", "the service cannot be reached just now")
                    .retry_after(Duration::from_secs(1))
                    .into()
            }
            Failed::Refused(status) => remap(status, deadline).into(),
        })
    }

    async fn send(&self, path: &Uri, headers: HeaderMap, frame: Bytes) -> Result<Answer, Failed> {
        let mut request = Request::new(Body::new(Full::new(frame)));
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = Version::HTTP_2;
        request.uri_mut().clone_from(path);
        *request.headers_mut() = headers;
        let mut channel = self.channel.clone();
        let response = channel.ready().await.map_err(|error| unreachable(&error))?.call(request).await;
        let response = response.map_err(|error| unreachable(&error))?;
        let (parts, body) = response.into_parts();
        if let Some(status) = Status::from_header_map(&parts.headers) {
            // Trailers only: a refusal, since a success has a message.
            return Err(Failed::Refused(if status.code() == Code::Ok { broken("has no message") } else { status }));
        }
        if parts.status != StatusCode::OK {
            let status = format!("the service answered with HTTP {}", parts.status.as_u16());
            return Err(Failed::Refused(Status::new(Code::Unavailable, status)));
        }
        let message = receive(body).await.map_err(Failed::Refused)?;
        Ok(Answer { headers: parts.headers, message })
    }
}

enum Failed {
    Unreachable(String),
    Refused(Status),
}

fn unreachable(error: &tonic::transport::Error) -> Failed {
    let mut text = error.to_string();
    let mut source = StdError::source(error);
    while let Some(cause) = source {
        // The channel reads the deadline that goes out with the call, and may be first to see it pass.
        if cause.is::<tonic::TimeoutExpired>() {
            return Failed::Refused(expired().into());
        }
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Failed::Unreachable(text)
}

/// Reads the one message and the status behind it.
async fn receive(mut body: Body) -> Result<Bytes, Status> {
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
    let status = trailers.as_ref().and_then(Status::from_header_map);
    match status {
        None => return Err(broken("has no status")),
        Some(status) if status.code() != Code::Ok => return Err(status),
        Some(_) => {}
    }
    unframe(&rest.map_or(first, BytesMut::freeze))
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
fn remap(status: Status, deadline: Instant) -> Status {
    let late = status.message() == "Timeout expired" || Instant::now() >= deadline;
    if status.code() == Code::Cancelled && late { expired().into() } else { status }
}

/// What a call gets that was not answered in time.
pub(crate) fn expired() -> Fault {
    Fault::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the deadline passed before the answer came")
}

/// A message as the body of a gRPC call.
pub(crate) fn frame(message: &DynamicMessage) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a request that was read under 4 MiB does not grow to 4 GiB"));
    message.encode_raw(&mut frame);
    frame.freeze()
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
