//! Tasks of workers: what an attempt is named by, and what a worker may ask and answer.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde_json::Value;
use tenon_chassis::Fault;
use uuid::Uuid;

use crate::{asl::Failure, runs::model::RunId};

/// Seconds of a claim without a heartbeat, where the state has no HeartbeatSeconds.
pub const LEASE_S: i32 = 30;
/// Bytes of an output, as JSON.
const OUTPUT_MAX: usize = 256 * 1024;
/// Characters of an error's name, and bytes of its text.
const ERROR_MAX: usize = 256;
const CAUSE_MAX: usize = 32 * 1024;
/// Queues of one worker.
const QUEUES_MAX: usize = 50;
/// Characters of a queue and of a worker's name.
const NAME_MAX: usize = 128;

/// One claim of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attempt {
    pub run: RunId,
    pub token: i64,
    pub id: Uuid,
}

impl Attempt {
    /// As workers see it: opaque.
    #[must_use]
    pub fn to_token(self) -> String {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(self.run.uuid().as_bytes());
        bytes[16..24].copy_from_slice(&self.token.to_be_bytes());
        bytes[24..].copy_from_slice(self.id.as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// # Errors
    /// INVALID_FIELD for what is no token of ours.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| <[u8; 40]>::try_from(bytes).ok());
        let bytes = bytes.ok_or_else(|| Fault::invalid("task_token", "is not the token of a task"))?;
        let (run, rest) = bytes.split_first_chunk::<16>().expect("40 bytes are more than 16");
        let (token, id) = rest.split_first_chunk::<8>().expect("24 bytes are more than 8");
        let id = Uuid::from_slice(id).expect("16 bytes are a UUID");
        Ok(Self { run: Uuid::from_bytes(*run).into(), token: i64::from_be_bytes(*token), id })
    }
}

/// A task that was claimed.
#[derive(Debug, Clone)]
pub struct Task {
    pub attempt: Attempt,
    pub queue: String,
    pub input: Value,
    /// 1, 2, 3 ...
    pub attempts: i32,
    pub lease_seconds: i32,
    /// Whether the run itself counts heartbeats.
    pub is_watched: bool,
    pub deadline: Option<DateTime<Utc>>,
    pub traceparent: Option<String>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    Done(Value),
    Failed(Failure),
}

/// Checks an output.
///
/// # Errors
/// INVALID_FIELD when it is too large.
pub fn done(output: Value) -> Result<Ending, Fault> {
    if output.to_string().len() > OUTPUT_MAX {
        return Err(Fault::invalid("output", "must have at most 256 KiB as JSON"));
    }
    Ok(Ending::Done(output))
}

/// Checks an error.
///
/// # Errors
/// INVALID_FIELD for a name or a text that is too long, or a name that only the language itself gives.
pub fn failed(error: String, cause: String) -> Result<Ending, Fault> {
    let length = error.chars().count();
    if length == 0 || length > ERROR_MAX || error.chars().any(char::is_control) {
        return Err(Fault::invalid("error", "must have 1 to 256 characters and none that control"));
    }
    if error.starts_with("States.") && error != Failure::TASK_FAILED {
        return Err(Fault::invalid(
            "error",
            "must not be a name of the language's own, States., but States.TaskFailed",
        ));
    }
    if cause.len() > CAUSE_MAX || cause.contains('\0') {
        return Err(Fault::invalid("cause", "must have at most 32 KiB and no NUL"));
    }
    Ok(Ending::Failed(Failure::new(error, cause)))
}

/// Checks what a worker takes tasks from, and its name.
///
/// # Errors
/// INVALID_FIELD naming the first that is wrong.
pub fn subscription(queues: Vec<String>, worker: &str) -> Result<Vec<String>, Fault> {
    if queues.is_empty() || queues.len() > QUEUES_MAX {
        return Err(Fault::invalid("queues", "must be 1 to 50"));
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let is_name = |queue: &String| (1..=NAME_MAX).contains(&queue.len()) && queue.bytes().all(inner);
    if let Some(index) = queues.iter().position(|queue| !is_name(queue)) {
        let why = "must be 1 to 128 of a-z, A-Z, 0-9, _, - and .";
        return Err(Fault::invalid(format!("queues[{index}]"), why));
    }
    if worker.chars().count() > NAME_MAX || worker.chars().any(char::is_control) {
        return Err(Fault::invalid("worker", "must have at most 128 characters and none that control"));
    }
    let mut queues = queues;
    queues.sort();
    queues.dedup();
    Ok(queues)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tenon_chassis::Clock;

    use super::*;

    #[test]
    fn a_token_reads_back_and_nothing_else_is_one() {
        let clock = Clock::default();
        let attempt = Attempt { run: RunId::new(&clock), token: 7, id: RunId::new(&clock).uuid() };
        assert_eq!(Attempt::parse(&attempt.to_token()).unwrap(), attempt);
        for bad in ["", "x", "AAAA", &"A".repeat(54), &"A".repeat(1_000)] {
            let read = Attempt::parse(bad);
            assert!(read.is_err() || bad.len() == 54, "{bad}: {read:?}");
        }
    }

    #[test]
    fn answers_and_subscriptions_are_bounded() {
        assert!(done(json!({"a": 1})).is_ok() && done(json!("x".repeat(OUTPUT_MAX))).is_err());
        assert!(failed("Bad".to_owned(), String::new()).is_ok());
        assert!(failed("States.TaskFailed".to_owned(), String::new()).is_ok());
        for bad in ["", "States.Timeout", "a\nb"] {
            assert!(failed(bad.to_owned(), String::new()).is_err(), "{bad}");
        }
        assert!(failed("Bad".to_owned(), "x".repeat(CAUSE_MAX + 1)).is_err());
        let queues = |names: &[&str]| subscription(names.iter().map(|name| (*name).to_owned()).collect(), "w");
        assert_eq!(queues(&["b", "a", "b"]).unwrap(), ["a", "b"]);
        assert!(queues(&[]).is_err() && queues(&["a b"]).is_err() && queues(&["a"; 51]).is_err());
        assert!(subscription(vec!["a".to_owned()], &"x".repeat(129)).is_err());
    }
}
