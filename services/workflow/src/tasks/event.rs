//! `event:TYPE`: an event of the tenant's own on the bus, once for each attempt that succeeds.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Call, Tasks,
    arguments::{Field, Kind, optional},
    parsed,
};
use crate::{
    asl::{Failure, Fault},
    error::Error,
};

pub(super) const FIELDS: &[Field] = &[optional("subject", Kind::Text), optional("data", Kind::Any)];

/// Characters of a type and of a subject.
const TYPE_MAX: usize = 128;
const SUBJECT_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    subject: Option<String>,
    #[serde(default)]
    data: Value,
}

/// The faults of a type: lower-case words with dots between them, and none that looks like ours.
pub(super) fn check(kind: &str) -> Vec<Fault> {
    let word = |word: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        !word.is_empty() && word.bytes().all(inner)
    };
    let fault = |reason: &str| vec![Fault { pointer: "/Resource".to_owned(), reason: reason.to_owned() }];
    if kind.len() > TYPE_MAX || !kind.contains('.') || !kind.split('.').all(word) {
        return fault("must be event: and a type of lower-case words with dots, like event:shop.order.paid.v1");
    }
    if kind.starts_with("tenon.") {
        return fault("must not name an event of tenon's own");
    }
    Vec::new()
}

impl Tasks {
    pub(super) async fn event(&self, call: &Call, kind: &str) -> Result<Value, Failure> {
        if let Some(fault) = check(kind).into_iter().next() {
            return Err(Failure::new(Failure::RUNTIME, fault.reason));
        }
        let arguments: Arguments = parsed(&call.arguments)?;
        let run = call.idempotency_key.split('/').next().unwrap_or_default();
        let subject = arguments.subject.unwrap_or_else(|| format!("runs/{run}"));
        if subject.chars().count() > SUBJECT_MAX || subject.chars().any(char::is_control) {
            let why = "subject must have at most 256 characters and none that control";
            return Err(Failure::new("INVALID_ARGUMENTS", why));
        }
        // Kept as jsonb, which has no NUL.
        if arguments.data.to_string().contains("\\u0000") {
            return Err(Failure::new("INVALID_ARGUMENTS", "data holds a NUL character, which cannot be kept"));
        }
        let event = self.outgoing(call, (kind, subject), arguments.data);
        self.emit(&event).await.map_err(|error| match error {
            Error::Refused(fault) => Failure::new(fault.reason, fault.message),
            error => Failure::new("UNAVAILABLE", error.to_string()),
        })?;
        Ok(json!({ "id": event.id.to_string() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_the_tenants_own() {
        assert!(check("shop.order.paid.v1").is_empty());
        for bad in ["", "paid", "Shop.paid", "shop..paid", "shop.", "tenon.workflow.run.created.v1", "a b.c"] {
            assert_eq!(check(bad).len(), 1, "{bad}");
        }
    }
}
