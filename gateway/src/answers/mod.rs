//! Answers under an `Idempotency-Key`, kept for services that keep none themselves: a call that is sent again is made once.
//!
//! They are kept in Redis when it is configured, so that all edges know them, else in this process. A call is claimed in
//! the process first, so Redis going away costs what other edges know and nothing else.

mod local;

mod shared;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use prost::Message;
use redis::aio::ConnectionManager;
use sha2::{Digest, Sha256};
use tenon_chassis::{Caller, Clock, Fault, TenantId, caller::Principal};
use tonic::{Code, Status};

use self::{local::Local, shared::Shared};
use crate::{errors::Refusal, stack::REPLAYED, upstreams::Answer};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3_600);

type Hash = [u8; 32];

/// The answers of this edge, and of those that it shares Redis with.
pub(crate) struct Answers {
    local: Local,
    shared: Option<Shared>,
}

/// What one key stands for: whose it is, for which method, and with what request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    id: Hash,
    request: Hash,
}

/// What is known under a key.
enum Known {
    /// Nothing: the caller is the one who makes the call.
    Nothing,
    InFlight,
    /// The key came with another request before.
    Other,
    Answer(Bytes),
}

/// A key of which nothing was known. Dropped without an answer, it is free again.
pub(crate) struct Claim<'a> {
    answers: &'a Answers,
    key: Key,
    is_shared: bool,
    is_done: bool,
}

impl Key {
    /// A user's key is the same in all of his sessions. Who calls without a token has nothing but the key and the request
    /// to be known by, within the tenant of the host.
    pub(crate) fn new(caller: &Caller, tenant: Option<TenantId>, key: &HeaderValue) -> Self {
        let who = match &caller.principal {
            Principal::Anyone => "anyone".to_owned(),
            Principal::Operator => "operator".to_owned(),
            Principal::User { user, .. } => user.to_string(),
            Principal::Key { key } => format!("key:{key}"),
            Principal::Service { name } => format!("svc:{name}"),
        };
        let tenant = tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
        let parts = [tenant.as_bytes(), who.as_bytes(), caller.method.path.as_bytes(), key.as_bytes()];
        // None of the parts holds a line feed.
        Self { id: Sha256::digest(parts.join(&b'\n')).into(), request: [0; 32] }
    }

    /// The key of this very request.
    pub(crate) fn with(self, request: &[u8]) -> Self {
        Self { request: Sha256::digest(request).into(), ..self }
    }
}

impl Answers {
    pub(crate) fn new(clock: Clock, redis: Option<ConnectionManager>) -> Self {
        Self { local: Local::new(clock), shared: redis.map(Shared::new) }
    }

    /// Takes a key, or finds the answer that was given under it. A claim is forgotten after `lease`, should this process
    /// end before the call.
    ///
    /// # Errors
    /// What was refused before; that the key is in flight or stands for another request.
    pub(crate) async fn claim(&self, key: Key, lease: Duration) -> Result<Result<Claim<'_>, Answer>, Refusal> {
        if let Some(found) = known(self.local.claim(key)) {
            return found.map(Err);
        }
        let mut claim = Claim { answers: self, key, is_shared: false, is_done: false };
        if let Some(shared) = &self.shared
            && let Some(told) = shared.claim(key, lease).await
        {
            if let Some(found) = known(told) {
                return found.map(Err);
            }
            claim.is_shared = true;
        }
        Ok(Ok(claim))
    }
}

impl Claim<'_> {
    /// Keeps what was answered, if that is how it is to stay; else the key is free again.
    pub(crate) async fn end(mut self, outcome: &Result<Answer, Refusal>) {
        let kept = match outcome {
            Ok(answer) => Some(Kept::of_answer(answer)),
            Err(refusal) => is_definite(refusal.status.code()).then(|| Kept::of_refusal(refusal)),
        };
        let kept = kept.map(|kept| Bytes::from(kept.encode_to_vec()));
        self.is_done = true;
        let Answers { local, shared } = self.answers;
        let mut is_told = false;
        if let (true, Some(shared)) = (self.is_shared, shared) {
            is_told = shared.end(self.key, kept.as_ref()).await;
        }
        match kept {
            Some(kept) if !is_told => local.keep(self.key, kept),
            _ => local.release(self.key),
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Redis forgets by itself, at the end of the lease.
        if !self.is_done {
            self.answers.local.release(self.key);
        }
    }
}

fn known(told: Known) -> Option<Result<Answer, Refusal>> {
    match told {
        Known::Nothing => None,
        Known::InFlight => Some(Err(Fault::in_flight().into())),
        Known::Other => {
            let why = "the Idempotency-Key was used with another request; send a new key";
            Some(Err(Refusal::new(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED", why)))
        }
        // What another release wrote, and this one cannot read, was answered all the same.
        Known::Answer(kept) => Some(Kept::decode(kept).map_or_else(
            |_| Err(Refusal::new(Code::Aborted, "CONFLICT", "the answer of this Idempotency-Key cannot be read")),
            Kept::into_answer,
        )),
    }
}

/// Whether asking again would get the same: not what passes with time, nor what nobody knows the end of.
fn is_definite(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
    )
}

/// An answer as it is stored.
#[derive(Clone, PartialEq, Message)]
struct Kept {
    /// 0 of a success.
    #[prost(int32, tag = "1")]
    code: i32,
    /// Of a refusal.
    #[prost(string, tag = "2")]
    words: String,
    /// The message of a success, the details of a refusal.
    #[prost(bytes = "bytes", tag = "3")]
    body: Bytes,
    #[prost(message, repeated, tag = "4")]
    headers: Vec<Line>,
    #[prost(message, repeated, tag = "5")]
    trailers: Vec<Line>,
    /// The HTTP status of a refusal that has another than its code's; else 0.
    #[prost(uint32, tag = "6")]
    http: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

impl Kept {
    fn of_answer(answer: &Answer) -> Self {
        let (headers, trailers) = (lines(&answer.headers), lines(&answer.trailers));
        Self { body: answer.message.clone(), headers, trailers, ..Self::default() }
    }

    fn of_refusal(refusal: &Refusal) -> Self {
        let Refusal { status, .. } = refusal;
        let body = Bytes::copy_from_slice(status.details());
        let headers = refusal.said().map(lines).unwrap_or_default();
        let http = refusal.own_http().map_or(0, |status| u32::from(status.as_u16()));
        Self { code: status.code().into(), words: status.message().to_owned(), body, headers, http, ..Self::default() }
    }

    fn into_answer(self) -> Result<Answer, Refusal> {
        let (mut headers, trailers) = (headers(self.headers), headers(self.trailers));
        let yes = HeaderValue::from_static("true");
        if self.code == 0 {
            headers.insert(REPLAYED, yes);
            return Ok(Answer { headers, message: self.body, trailers });
        }
        let status = Status::with_details(Code::from_i32(self.code), self.words, self.body);
        let refusal = Refusal::from(status).metadata(headers).header(REPLAYED, yes);
        let http = u16::try_from(self.http).ok().and_then(|status| StatusCode::from_u16(status).ok());
        Err(match http {
            Some(http) => refusal.http(http),
            None => refusal,
        })
    }
}

/// What may go out of it; the rest is of the connection that it came by.
fn lines(headers: &HeaderMap) -> Vec<Line> {
    let line = |(name, value): (&HeaderName, &HeaderValue)| Line {
        name: name.to_string(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    crate::stack::outward(headers).iter().map(line).collect()
}

fn headers(lines: Vec<Line>) -> HeaderMap {
    let pair =
        |line: Line| Some((HeaderName::try_from(line.name).ok()?, HeaderValue::from_maybe_shared(line.value).ok()?));
    let mut headers = HeaderMap::new();
    for (name, value) in lines.into_iter().filter_map(pair) {
        headers.append(name, value);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_back_as_it_was_given() {
        let mut headers = HeaderMap::new();
        headers.append("x-colour", HeaderValue::from_static("red"));
        headers.append("x-colour", HeaderValue::from_static("blue"));
        let answer = Answer { headers: headers.clone(), message: Bytes::from_static(b"m"), trailers: HeaderMap::new() };
        let kept = Kept::of_answer(&answer).encode_to_vec();
        let again = Kept::decode(kept.as_slice()).unwrap().into_answer().unwrap();
        assert_eq!(again.message, "m");
        assert_eq!(again.headers.get_all("x-colour").iter().count(), 2);
        assert_eq!(again.headers[REPLAYED], "true");
        let refusal = Refusal::new(Code::NotFound, "THING_NOT_FOUND", "no such thing").metadata(headers);
        let again = Kept::of_refusal(&refusal).into_answer().err().unwrap().told();
        assert_eq!((again.code, &*again.reason), (Code::NotFound, "THING_NOT_FOUND"));
        assert_eq!(again.metadata.len(), 2);
    }

    #[test]
    fn what_may_yet_end_otherwise_is_not_kept() {
        for code in (1..=16).map(Code::from_i32) {
            let passes = [
                Code::Unavailable,
                Code::DeadlineExceeded,
                Code::Cancelled,
                Code::Internal,
                Code::Unknown,
                Code::DataLoss,
                Code::Aborted,
                Code::ResourceExhausted,
                Code::Unauthenticated,
                Code::Unimplemented,
            ];
            assert_eq!(is_definite(code), !passes.contains(&code), "{code:?}");
        }
    }
}
