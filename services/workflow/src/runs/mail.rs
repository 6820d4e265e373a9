//! The mailbox of a run: whoever has something for a run puts it here, and the run takes it with its next step.

use serde_json::{Value, json};
use tenon_chassis::{TenantTx, fail};
use uuid::Uuid;

use super::{model::RunId, store};
use crate::{asl::Failure, error::Error};

/// Something for a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// What it waits for under this token came.
    TaskDone { token: u64, result: Value },
    /// What it waits for under this token failed.
    TaskFailed { token: u64, failure: Failure },
    /// Who works on what it waits for is alive.
    Heartbeat { token: u64 },
    /// A signal, which stays until a state waits for one of its name.
    Signal { name: String, payload: Value },
    /// Stop, and undo what has an undo.
    Cancel { reason: String },
    /// Stop at once.
    Terminate { reason: String },
    /// Take no further step.
    Pause { by: String },
    /// Go on after a pause.
    Resume,
    /// Go on after a failure.
    Retry,
}

/// A message as the engine finds it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Letter {
    pub(crate) id: Uuid,
    /// The order in which the messages of a run are taken.
    pub(crate) seq: i64,
    pub(crate) message: Message,
}

/// A message as the database keeps it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Kept {
    pub(crate) kind: String,
    pub(crate) token: Option<i64>,
    pub(crate) name: Option<String>,
    /// JSON text.
    pub(crate) payload: Option<String>,
}

/// Puts a message into the mailbox of a run; false when there is no such run or it has ended. An answer that nothing waits
/// for changes nothing. Once the transaction is committed, wake the engine: `Waker::wake`.
///
/// # Errors
/// When the database does not take it.
pub async fn send(tx: &mut TenantTx, run: RunId, message: &Message) -> Result<bool, Error> {
    let sent = store::insert_message(tx, run, &Kept::from(message)).await?;
    fail::at("mail.commit.before").await?;
    Ok(sent)
}

impl From<&Message> for Kept {
    fn from(message: &Message) -> Self {
        let token = |token: &u64| i64::try_from(*token).ok();
        let (kind, token, name, payload) = match message {
            Message::TaskDone { token: of, result } => ("TASK_DONE", token(of), None, Some(result.to_string())),
            Message::TaskFailed { token: of, failure } => {
                let failure = serde_json::to_string(failure).expect("plain data with string keys is JSON");
                ("TASK_FAILED", token(of), None, Some(failure))
            }
            Message::Heartbeat { token: of } => ("HEARTBEAT", token(of), None, None),
            Message::Signal { name, payload } => ("SIGNAL", None, Some(name.clone()), Some(payload.to_string())),
            Message::Cancel { reason } => ("CANCEL", None, None, Some(json!(reason).to_string())),
            Message::Terminate { reason } => ("TERMINATE", None, None, Some(json!(reason).to_string())),
            Message::Pause { by } => ("PAUSE", None, None, Some(json!(by).to_string())),
            Message::Resume => ("RESUME", None, None, None),
            Message::Retry => ("RETRY", None, None, None),
        };
        Self { kind: kind.to_owned(), token, name, payload }
    }
}

impl Kept {
    /// The message; `None` when it is not one that this version wrote.
    pub(crate) fn read(self) -> Option<Message> {
        let token = self.token.and_then(|token| u64::try_from(token).ok());
        let payload: Option<Value> = self.payload.and_then(|text| serde_json::from_str(&text).ok());
        let text = |value: Option<Value>| value.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(match self.kind.as_str() {
            "TASK_DONE" => Message::TaskDone { token: token?, result: payload? },
            "TASK_FAILED" => {
                let failure = serde_json::from_value(payload?).ok()?;
                Message::TaskFailed { token: token?, failure }
            }
            "HEARTBEAT" => Message::Heartbeat { token: token? },
            "SIGNAL" => Message::Signal { name: self.name?, payload: payload? },
            "CANCEL" => Message::Cancel { reason: text(payload) },
            "TERMINATE" => Message::Terminate { reason: text(payload) },
            "PAUSE" => Message::Pause { by: text(payload) },
            "RESUME" => Message::Resume,
            "RETRY" => Message::Retry,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asl::Pushback;

    #[test]
    fn a_message_reads_back_and_nonsense_does_not() {
        for message in [
            Message::TaskDone { token: 7, result: json!({"a": [1, null]}) },
            Message::TaskFailed { token: 7, failure: Failure::new("Bad", "it was") },
            Message::TaskFailed {
                token: 7,
                failure: Failure::new("Http.StatusCode.429", "")
                    .pushed_back(Some(Pushback { after_ms: 5, limited_by: Some("a.test".to_owned()) })),
            },
            Message::Heartbeat { token: 0 },
            Message::Signal { name: "paid".to_owned(), payload: json!(null) },
            Message::Cancel { reason: "no \"more\"".to_owned() },
            Message::Terminate { reason: String::new() },
            Message::Pause { by: "usr_1".to_owned() },
            Message::Resume,
            Message::Retry,
        ] {
            assert_eq!(Kept::from(&message).read(), Some(message));
        }
        assert_eq!(Kept { kind: "TASK_DONE".to_owned(), ..Kept::default() }.read(), None);
        assert_eq!(Kept { kind: "NEW".to_owned(), ..Kept::default() }.read(), None);
    }
}
