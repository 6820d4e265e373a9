//! What calls cost: usage events whose ids follow from the attempt, so that a call that is made again after a crash counts once.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tenon_chassis::{EventId, bus, fail};
use uuid::{Builder, Version};

use super::{Call, Tasks};
use crate::{asl::Failure, error::Error};

/// Calls that left the mesh.
pub(super) const CONNECTOR_CALLS: &str = "connector_calls";
/// Tokens of language models.
pub(super) const AI_TOKENS: &str = "ai_tokens";
/// The pause before an event that was not written is written again.
const AGAIN: Duration = Duration::from_millis(250);

impl Tasks {
    /// Counts a call that was answered, also with an error of the other side's.
    pub(super) async fn metered(&self, call: &Call, answer: Result<Value, Failure>) -> Result<Value, Failure> {
        let was_answered = match &answer {
            Ok(_) => true,
            Err(failure) => failure.error.starts_with("Http.StatusCode."),
        };
        if was_answered {
            self.meter(call, CONNECTOR_CALLS, 1).await;
        }
        answer
    }

    /// Counts use of a meter, once for this attempt. Returns when it is on disk: the deadline of the call bounds it.
    pub(super) async fn meter(&self, call: &Call, meter: &str, quantity: i64) {
        let data = json!({ "meter": meter, "quantity": quantity });
        let event = self.outgoing(call, (bus::USAGE_RECORDED, meter.to_owned()), data);
        while let Err(error) = self.emit(&event).await {
            tracing::warn!(%error, meter, "use of a meter was not written; it is tried again");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// An event of this attempt: the same each time that it is made.
    pub(super) fn outgoing(&self, call: &Call, about: (&str, String), data: Value) -> bus::Event {
        let id = id_of(call, about.0, &about.1);
        let mut event = bus::Event::new(&self.mesh.clock, crate::NAME, call.tenant, about, data);
        event.id = id;
        event
    }

    pub(super) async fn emit(&self, event: &bus::Event) -> Result<(), Error> {
        let mut tx = self.db.system().await?;
        tx.emit(std::slice::from_ref(event)).await?;
        fail::at("emit.commit.before").await?;
        tx.commit().await?;
        Ok(fail::at("emit.commit.after").await?)
    }
}

/// Consumers count an id once, and this attempt always comes to the same (RFC 9562 section 5.8). Its last byte is how many
/// events led to the run: so those that start runs by events know when they go round.
fn id_of(call: &Call, kind: &str, subject: &str) -> EventId {
    let hash = Sha256::digest(format!("{}/{}/{kind}/{subject}", call.tenant, call.idempotency_key));
    let mut bytes: [u8; 16] = hash[..16].try_into().expect("a SHA-256 has more than 16 bytes");
    bytes[15] = call.events_above;
    Builder::from_custom_bytes(bytes).into_uuid().into()
}

/// The events that led to the run whose task made this id; `None` when no task did.
pub(crate) fn events_above(id: EventId) -> Option<u8> {
    let id = id.uuid();
    (id.get_version() == Some(Version::Custom)).then(|| id.as_bytes()[15])
}
