//! Calls to the services behind: a stream of gRPC frames each way, and the unary call that stands on it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use prost::Message;
use rand::Rng;
use tenon_chassis::Fault;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status, body::Body};

use super::{
    Ground,
    attempt::{Gone, Missed, Payload, Try, exchange},
    balance::Balance,
    budget::Budget,
    dial::Dial,
    link::Incoming,
    replica::{Flight, Replica},
    room::{Place, Room},
    traced::Traced,
};
use crate::{
    errors::{Refusal, status_of},
    stack,
};

/// Bytes of one response message at most, as everywhere in the mesh.
pub(super) const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Compressed flag and length in front of a gRPC message.
const PREFIX: usize = 5;
/// The wait before the first repetition, on average; each next one is twice as long.
const BACKOFF: Duration = Duration::from_millis(20);
/// A timeout is laid to a replica only when it had this long to answer.
const FAIR_WAIT: Duration = Duration::from_secs(1);
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("tenon-edge/", env!("CARGO_PKG_VERSION")));
/// gRPC retry design (A6): how often the call was sent before, and when the service wants it again.
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// One upstream, ready to be called.
pub(crate) struct Target {
    pub(crate) dial: Dial,
    balance: Arc<Balance>,
    budget: Budget,
    room: Room,
}

/// The answer to a unary call that succeeded.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) message: Bytes,
    pub(crate) trailers: HeaderMap,
}

/// Why no response came.
#[derive(Debug, Clone)]
pub(crate) enum Failed {
    /// No connection, or it ended before the response began.
    Unreachable,
    /// The deadline passed.
    Expired,
    /// As many calls are in flight as the upstream may have.
    Overloaded,
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
            Failed::Overloaded => overloaded().into(),
            Failed::Refused(status) => status.into(),
        }
    }
}

/// The response body of a call: gRPC frames as they come, trailers at the end. The call is in flight until it is dropped.
pub(crate) struct UpstreamBody(Source);

enum Source {
    Call {
        body: Incoming,
        flight: Flight,
        _place: Place,
    },
    /// Made by the edge itself.
    Own(Body),
}

impl UpstreamBody {
    /// An answer of the edge's own.
    pub(crate) fn new(body: Body) -> Self {
        Self(Source::Own(body))
    }
}

impl http_body::Body for UpstreamBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut self.0 {
            Source::Own(body) => Pin::new(body).poll_frame(context),
            Source::Call { body, flight, .. } => {
                let polled = Pin::new(body).poll_frame(context);
                if let Poll::Ready(Some(Ok(frame))) = &polled
                    && let Some(trailers) = frame.trailers_ref()
                {
                    flight.traced.heard(trailers);
                }
                polled.map_err(|error| {
                    let status = Status::from_error(Box::new(error));
                    // A connection that ended under the answer: tonic calls it UNKNOWN, which nobody repeats.
                    let status = if status.code() == Code::Unknown { lost() } else { status };
                    flight.traced.ended(status.code());
                    status
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Own(body) => body.is_end_stream(),
            Source::Call { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Own(body) => body.size_hint(),
            Source::Call { body, .. } => body.size_hint(),
        }
    }
}

impl Target {
    pub(crate) fn new(ground: &Ground, dial: Dial) -> Result<Self, String> {
        let balance = Balance::new(ground, &dial)?;
        let budget = Budget::new(dial.retries);
        let room = Room::new(dial.max_requests);
        Ok(Self { dial, balance, budget, room })
    }

    /// Opens a call whose `body` goes out as it is made; the response comes back once its headers are there. What the
    /// service refuses at once (trailers only) is a response too: its status stands in the headers.
    ///
    /// The deadline bounds the wait for the headers only; dropping the body cancels the call.
    pub(crate) async fn open(
        &self,
        path: &Uri,
        headers: HeaderMap,
        body: Body,
        deadline: Instant,
    ) -> Result<Response<UpstreamBody>, Failed> {
        let body = Payload::Stream(Some(body));
        self.run(path, Try { headers, body, may_repeat: false, tried: Vec::new() }, deadline).await
    }

    /// As [`Self::open`], with a body that is there. It may be sent again while nothing of its answer has come when the
    /// method has no side effects or is idempotent, or the request has a key.
    pub(crate) async fn whole(
        &self,
        path: &Uri,
        headers: HeaderMap,
        frames: Bytes,
        deadline: Instant,
        may_repeat: bool,
    ) -> Result<Response<UpstreamBody>, Failed> {
        self.run(path, Try { headers, body: Payload::Whole(frames), may_repeat, tried: Vec::new() }, deadline).await
    }

    /// Sends one message and waits for one.
    pub(crate) async fn call(
        &self,
        path: &Uri,
        headers: HeaderMap,
        frame: Bytes,
        deadline: Instant,
        may_repeat: bool,
    ) -> Result<Answer, Refusal> {
        one(self.whole(path, headers, frame, deadline, may_repeat).await?, deadline).await
    }

    async fn run(&self, path: &Uri, mut call: Try, deadline: Instant) -> Result<Response<UpstreamBody>, Failed> {
        let place = self.room.enter().ok_or(Failed::Overloaded)?;
        self.budget.deposit();
        call.headers.insert(header::USER_AGENT, USER_AGENT);
        for (name, value) in &self.dial.headers {
            // In the place of what a client sent by that name.
            call.headers.insert(name, value.clone());
        }
        for attempt in 0..=self.dial.retries.max {
            let Some(replica) = self.balance.pick(&call.tried).await else { break };
            call.tried.push(replica.address);
            let missed = match self.send(path, &mut call, replica, deadline).await {
                Ok((response, flight)) => return accept(response, flight, place),
                Err(Missed::Expired) => return Err(Failed::Expired),
                Err(missed) => missed,
            };
            let is_last = attempt == self.dial.retries.max;
            match (self.again(&missed, &call, attempt, deadline), missed) {
                (Some(wait), _) if !is_last => {
                    call.headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(attempt + 1));
                    sleep(wait).await;
                }
                (_, Missed::Unavailable(response, flight)) => return accept(*response, flight, place),
                _ => break,
            }
        }
        Err(Failed::Unreachable)
    }

    /// How long to wait before the next try, if there may be one.
    fn again(&self, missed: &Missed, call: &Try, attempt: u32, deadline: Instant) -> Option<Duration> {
        if matches!(missed, Missed::Unsent) {
            // Nobody has seen it: whatever the method is, and outside of the budget.
            return call.body.is_whole().then_some(Duration::ZERO);
        }
        let wanted = match missed {
            Missed::Unavailable(response, _) => response.headers().get(PUSHBACK),
            _ => None,
        };
        let wait = match wanted {
            // Negative or no number: not again.
            Some(wanted) => Duration::from_millis(wanted.to_str().ok()?.parse().ok()?),
            None => BACKOFF.mul_f64(2_f64.powi(attempt.cast_signed()) * rand::rng().random_range(0.5..1.5)),
        };
        if !call.may_repeat || Instant::now() + wait >= deadline {
            return None;
        }
        let granted = self.budget.withdraw();
        let result = if granted { "sent" } else { "over_budget" };
        let upstream = self.dial.name.clone();
        metrics::counter!("tenon_edge_upstream_retries_total", "upstream" => upstream, "result" => result).increment(1);
        granted.then_some(wait)
    }

    /// One try at one replica, with what it tells of the replica.
    async fn send(
        &self,
        path: &Uri,
        call: &mut Try,
        replica: Arc<Replica>,
        deadline: Instant,
    ) -> Result<(Response<Incoming>, Flight), Missed> {
        let mut flight = replica.enter();
        flight.traced = Traced::start(path, replica.address, &mut call.headers);
        let Ok(exchanged) = timeout_at(deadline, exchange(path, call, &replica)).await else {
            if flight.elapsed() >= FAIR_WAIT {
                self.balance.failed(&replica);
            }
            flight.traced.ended(Code::DeadlineExceeded);
            return Err(Missed::Expired);
        };
        match exchanged {
            Ok(response) => {
                flight.traced.heard(response.headers());
                let code = response.headers().get(Status::GRPC_STATUS).map(HeaderValue::as_bytes);
                if code == Some(b"14") {
                    flight.failed();
                    self.balance.failed(&replica);
                    return Err(Missed::Unavailable(Box::new(response), flight));
                }
                if response.status().is_server_error() {
                    flight.failed();
                    self.balance.failed(&replica);
                } else {
                    flight.answered();
                    replica.succeeded();
                }
                Ok((response, flight))
            }
            Err(Gone { is_unsent, why, is_connect }) => {
                flight.failed();
                flight.traced.ended(Code::Unavailable);
                // A server that leaves politely has not failed.
                let failures = if is_connect || !is_unsent { self.balance.failed(&replica) } else { 0 };
                let (upstream, address) = (&self.dial.name, replica.address);
                if failures == 1 {
                    tracing::warn!(upstream.name = upstream, upstream.address = %address, error = why, "upstream cannot be reached");
                } else {
                    tracing::debug!(upstream.name = upstream, upstream.address = %address, failures, error = why, "call was lost");
                }
                if failures > 0 {
                    self.balance.suspect();
                }
                Err(if is_unsent { Missed::Unsent } else { Missed::Lost })
            }
        }
    }
}

fn accept(response: Response<Incoming>, flight: Flight, place: Place) -> Result<Response<UpstreamBody>, Failed> {
    if response.status() != StatusCode::OK {
        let status = format!("the service answered with HTTP {}", response.status().as_u16());
        return Err(Failed::Refused(Status::new(Code::Unavailable, status)));
    }
    Ok(response.map(|body| UpstreamBody(Source::Call { body, flight, _place: place })))
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

/// What a call gets that there is no room for.
pub(crate) fn overloaded() -> Fault {
    let why = "too many calls are being served just now; try again after the time in Retry-After";
    Fault::new(Code::Unavailable, "OVERLOADED", why).retry_after(Duration::from_secs(1))
}

fn lost() -> Status {
    Fault::new(Code::Unavailable, "UPSTREAM_UNAVAILABLE", "the connection to the service ended under the answer").into()
}

/// The first message of a body that may not be complete yet.
pub(super) fn unframe_first(read: &[u8]) -> Option<Bytes> {
    let (prefix, rest) = read.split_first_chunk::<PREFIX>()?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    rest.get(..usize::try_from(length).ok()?).map(Bytes::copy_from_slice)
}

/// A message as the body of a gRPC call.
pub(super) fn frame_of(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("what the edge asks is short"));
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
