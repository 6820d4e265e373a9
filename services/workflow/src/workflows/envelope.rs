//! The envelope of a template: what starts it and within which bounds, and everything that can be wrong with it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::model;
use crate::{asl::Fault, cel, schedules::model::Timetable};

/// Triggers of one workflow.
const TRIGGERS_MAX: usize = 20;
/// Attributes that runs of one workflow can be searched by.
const ATTRIBUTES_MAX: usize = 16;
/// Characters of the description.
const DESCRIPTION_MAX: usize = 1_000;
/// Bytes of the schema of inputs, as JSON.
const SCHEMA_MAX_BYTES: usize = 64 * 1024;
/// Characters of the type of an event.
const TYPE_MAX: usize = 255;
/// The longest that a run may take, in seconds (the States Language).
const TIMEOUT_MAX_S: i64 = 99_999_999;
const RETENTION_MAX_DAYS: i32 = 3_650;
const CONCURRENCY_MAX: i32 = 10_000;
const EVENTS_MAX: i32 = 25_000;

/// What surrounds a template. As JSON it is what the database keeps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Envelope {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<Trigger>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub entity_id: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub search_attributes: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_timeout_s: Option<i64>,
    #[serde(skip_serializing_if = "is_zero")]
    pub retention_days: i32,
    #[serde(skip_serializing_if = "Limits::is_default")]
    pub limits: Limits,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub idempotency_key: String,
}

/// What starts runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    Cron(Cron),
    Event(Source),
    Webhook(Source),
}

/// A run at each time of a cron expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cron {
    #[serde(flatten)]
    pub timetable: Timetable,
    pub input: Value,
}

/// A run for each event of a type, or for each delivery to a hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The type of the event, or the id of the hook.
    pub name: String,
    pub filter: String,
    pub input: String,
}

/// How many runs may be at work at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    pub key: String,
    pub limit: i32,
}

/// Bounds of each run; 0 is the service's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub input_bytes: i32,
    pub history_events: i32,
}

impl Limits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

impl Envelope {
    /// Everything that is wrong, with pointers below the envelope. `contract_name` spells fields as JSON does.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.when(
            self.description.chars().count() > DESCRIPTION_MAX,
            "/description",
            "must have at most 1,000 characters",
        );
        faults.when(self.triggers.len() > TRIGGERS_MAX, "/triggers", "there are 20 at most");
        for (index, trigger) in self.triggers.iter().enumerate() {
            faults.trigger(&format!("/triggers/{index}"), trigger);
        }
        if let Some(schema) = &self.input_schema {
            let size = schema.to_string().len();
            faults.when(size > SCHEMA_MAX_BYTES, "/inputSchema", "must have at most 65,536 bytes as JSON");
            if size <= SCHEMA_MAX_BYTES
                && let Err(why) = super::rules::schema(schema)
            {
                faults.add("/inputSchema", why);
            }
        }
        if let Some(Concurrency { key, limit }) = &self.concurrency {
            faults.expression("/concurrency/key", key, &["input"]);
            faults.when(!(1..=CONCURRENCY_MAX).contains(limit), "/concurrency/limit", "must be 1 to 10,000");
        }
        faults.expression("/entityId", &self.entity_id, &["input"]);
        faults.expression("/idempotencyKey", &self.idempotency_key, &["input"]);
        faults.when(self.search_attributes.len() > ATTRIBUTES_MAX, "/searchAttributes", "there are 16 at most");
        for (name, source) in &self.search_attributes {
            let pointer = format!("/searchAttributes/{}", name.replace('~', "~0").replace('/', "~1"));
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            let named = (1..=63).contains(&name.len()) && name.bytes().all(plain);
            faults.when(!named, &pointer, "a name is 1 to 63 of a-z, 0-9 and underscores");
            faults.when(source.is_empty(), &pointer, "needs an expression");
            faults.expression(&pointer, source, &["input"]);
        }
        let timed = self.run_timeout_s.is_some_and(|seconds| !(1..=TIMEOUT_MAX_S).contains(&seconds));
        faults.when(timed, "/runTimeout", "must be 1 s to 99,999,999 s");
        faults.when(
            !(0..=RETENTION_MAX_DAYS).contains(&self.retention_days),
            "/retentionDays",
            "must be 1 to 3,650, or 0",
        );
        let input_max = i32::try_from(model::JSON_MAX_BYTES).unwrap_or(i32::MAX);
        faults.when(
            !(0..=input_max).contains(&self.limits.input_bytes),
            "/limits/inputBytes",
            "must be at most 262,144",
        );
        let events = self.limits.history_events;
        faults.when(!(0..=EVENTS_MAX).contains(&events), "/limits/historyEvents", "must be at most 25,000");
        faults.0
    }

    /// The hooks that triggers name, with the pointer of each.
    pub fn hooks(&self) -> impl Iterator<Item = (String, &str)> {
        self.triggers.iter().enumerate().filter_map(|(index, trigger)| match trigger {
            Trigger::Webhook(source) => Some((format!("/triggers/{index}/webhook/hook"), source.name.as_str())),
            Trigger::Cron(_) | Trigger::Event(_) => None,
        })
    }
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, pointer: impl Into<String>, reason: impl Into<String>) {
        self.0.push(Fault { pointer: pointer.into(), reason: reason.into() });
    }

    fn when(&mut self, wrong: bool, pointer: &str, reason: &str) {
        if wrong {
            self.add(pointer, reason);
        }
    }

    fn expression(&mut self, pointer: &str, source: &str, names: &[&str]) {
        if !source.is_empty()
            && let Err(why) = cel::compile(source, names)
        {
            self.add(pointer, why);
        }
    }

    fn trigger(&mut self, pointer: &str, trigger: &Trigger) {
        match trigger {
            Trigger::Cron(cron) => {
                for (field, why) in cron.timetable.faults() {
                    self.add(format!("{pointer}/cron/{field}"), why);
                }
                let bounded = model::bounded("input", &cron.input);
                self.when(
                    bounded.is_err(),
                    &format!("{pointer}/cron/input"),
                    "must have at most 262,144 bytes as JSON",
                );
            }
            Trigger::Event(source) => {
                let at = format!("{pointer}/event");
                self.when(
                    !is_type(&source.name),
                    &format!("{at}/type"),
                    "must be the type of an event, with dots, and a star at the end at most",
                );
                self.expression(&format!("{at}/filter"), &source.filter, &["event"]);
                self.expression(&format!("{at}/input"), &source.input, &["event"]);
            }
            Trigger::Webhook(source) => {
                let at = format!("{pointer}/webhook");
                self.when(model::new_id(&source.name).is_err(), &format!("{at}/hook"), "must be the id of a hook");
                self.expression(&format!("{at}/filter"), &source.filter, &["request"]);
                self.expression(&format!("{at}/input"), &source.input, &["request"]);
            }
        }
    }
}

/// Whether a text is the type of an event, or the beginning of one with a star.
#[must_use]
pub fn is_type(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = text.strip_suffix('*').unwrap_or(text);
    !text.is_empty() && text.len() <= TYPE_MAX && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(envelope: Value) -> Vec<String> {
        let envelope: Envelope = serde_json::from_value(envelope).unwrap();
        envelope.faults().into_iter().map(|fault| format!("{} {}", fault.pointer, fault.reason)).collect()
    }

    #[test]
    fn an_envelope_is_checked_whole() {
        let cron =
            json!({"cron": "0 9 * * 1-5", "time_zone": "Europe/Berlin", "overlap": "SKIP", "jitter_s": 0, "input": {}});
        let good = json!({
            "triggers": [{"cron": cron}, {"event": {"name": "shop.order.*", "filter": "event.data.n > 1", "input": ""}}],
            "input_schema": {"type": "object", "required": ["customer"]},
            "concurrency": {"key": "input.customer", "limit": 1},
            "search_attributes": {"region": "input.region"},
            "run_timeout_s": 60,
        });
        assert_eq!(faults(good), Vec::<String>::new());
        assert_eq!(faults(json!({})), Vec::<String>::new());
        let bad_cron =
            json!({"cron": "* * *", "time_zone": "Mars/Base", "overlap": "SKIP", "jitter_s": -1, "input": {}});
        let bad = json!({
            "triggers": [{"cron": bad_cron}, {"event": {"name": "a b", "filter": "evnt", "input": ""}}, {"webhook": {"name": "X", "filter": "", "input": "("}}],
            "input_schema": {"type": 7},
            "concurrency": {"key": "input.", "limit": 0},
            "search_attributes": {"Bad-Name": ""},
            "run_timeout_s": 0,
            "retention_days": -1,
            "limits": {"input_bytes": 999_999_999, "history_events": 0},
        });
        let found = faults(bad);
        for pointer in [
            "/triggers/0/cron/cron",
            "/triggers/0/cron/timeZone",
            "/triggers/0/cron/jitterSeconds",
            "/triggers/1/event/type",
            "/triggers/1/event/filter",
            "/triggers/2/webhook/hook",
            "/triggers/2/webhook/input",
            "/inputSchema",
            "/concurrency/key",
            "/concurrency/limit",
            "/searchAttributes/Bad-Name",
            "/runTimeout",
            "/retentionDays",
            "/limits/inputBytes",
        ] {
            assert!(found.iter().any(|fault| fault.starts_with(&format!("{pointer} "))), "{pointer}: {found:#?}");
        }
    }
}
