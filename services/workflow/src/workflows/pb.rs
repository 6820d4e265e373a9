//! The envelope as the contract has it.

use prost_types::Duration;
use tenon_chassis::{Fault, clock::timestamp};
use tenon_proto::workflow::v1::{
    Concurrency as ConcurrencyPb, CronTrigger, Envelope as EnvelopePb, EventTrigger, Limits as LimitsPb,
    Overlap as OverlapPb, Trigger as TriggerPb, WebhookTrigger, Workflow, trigger::Kind,
};

use super::{
    envelope::{Concurrency, Cron, Envelope, Limits, Source, Trigger},
    model,
};
use crate::{
    json,
    schedules::model::{Overlap, Timetable},
};

/// Reads an envelope; what is wrong in it but has a form is for `Envelope::faults`.
///
/// # Errors
/// INVALID_FIELD for what the model has no form for.
pub(super) fn read(from: EnvelopePb) -> Result<Envelope, Fault> {
    let trigger = |(index, trigger): (usize, TriggerPb)| {
        let kind = trigger
            .kind
            .ok_or_else(|| Fault::invalid(format!("envelope/triggers/{index}"), "needs cron, event or webhook"))?;
        Ok(match kind {
            Kind::Cron(cron) => Trigger::Cron(cron_of(cron, &format!("envelope/triggers/{index}/cron/overlap"))?),
            Kind::Event(event) => {
                Trigger::Event(Source { name: event.r#type, filter: event.filter, input: event.input })
            }
            Kind::Webhook(hook) => {
                let name = hook.hook.strip_prefix("hooks/").unwrap_or(&hook.hook).to_owned();
                Trigger::Webhook(Source { name, filter: hook.filter, input: hook.input })
            }
        })
    };
    let limits = from.limits.unwrap_or_default();
    Ok(Envelope {
        description: from.description,
        triggers: from.triggers.into_iter().enumerate().map(trigger).collect::<Result<_, Fault>>()?,
        input_schema: from.input_schema.map(json::from_struct),
        concurrency: from.concurrency.map(|concurrency| Concurrency { key: concurrency.key, limit: concurrency.limit }),
        entity_id: from.entity_id,
        search_attributes: from.search_attributes.into_iter().collect(),
        run_timeout_s: from.run_timeout.map(|timeout| if timeout.nanos == 0 { timeout.seconds } else { 0 }),
        retention_days: from.retention_days,
        limits: Limits { input_bytes: limits.input_bytes, history_events: limits.history_events },
        idempotency_key: from.idempotency_key,
    })
}

fn cron_of(from: CronTrigger, field: &str) -> Result<Cron, Fault> {
    let timetable = Timetable {
        cron: from.cron,
        time_zone: from.time_zone,
        overlap: overlap_of(from.overlap, field)?,
        jitter_s: from.jitter_seconds,
    };
    Ok(Cron { timetable, input: from.input.map_or_else(|| serde_json::json!({}), json::from_pb) })
}

/// Reads what happens when starts overlap.
///
/// # Errors
/// INVALID_FIELD for a number that is none of them.
pub(crate) fn overlap_of(number: i32, field: &str) -> Result<Overlap, Fault> {
    Ok(
        match OverlapPb::try_from(number).map_err(|_| Fault::invalid(field, "is none of SKIP, BUFFER_ONE and ALLOW"))? {
            OverlapPb::Unspecified | OverlapPb::Skip => Overlap::Skip,
            OverlapPb::BufferOne => Overlap::BufferOne,
            OverlapPb::Allow => Overlap::Allow,
        },
    )
}

pub(crate) fn overlap(overlap: Overlap) -> OverlapPb {
    match overlap {
        Overlap::Skip => OverlapPb::Skip,
        Overlap::BufferOne => OverlapPb::BufferOne,
        Overlap::Allow => OverlapPb::Allow,
    }
}

fn write(from: Envelope) -> EnvelopePb {
    let trigger = |trigger: Trigger| {
        let kind = match trigger {
            Trigger::Cron(Cron { timetable, input }) => Kind::Cron(CronTrigger {
                cron: timetable.cron,
                time_zone: timetable.time_zone,
                overlap: overlap(timetable.overlap).into(),
                jitter_seconds: timetable.jitter_s,
                input: Some(json::to_pb(input)),
            }),
            Trigger::Event(Source { name, filter, input }) => Kind::Event(EventTrigger { r#type: name, filter, input }),
            Trigger::Webhook(Source { name, filter, input }) => {
                Kind::Webhook(WebhookTrigger { hook: format!("hooks/{name}"), filter, input })
            }
        };
        TriggerPb { kind: Some(kind) }
    };
    let Limits { input_bytes, history_events } = from.limits;
    let limits = (from.limits != Limits::default()).then_some(LimitsPb { input_bytes, history_events });
    let input_schema = match from.input_schema {
        Some(serde_json::Value::Object(fields)) => Some(json::to_struct(fields)),
        _ => None,
    };
    EnvelopePb {
        description: from.description,
        triggers: from.triggers.into_iter().map(trigger).collect(),
        input_schema,
        concurrency: from.concurrency.map(|Concurrency { key, limit }| ConcurrencyPb { key, limit }),
        entity_id: from.entity_id,
        search_attributes: from.search_attributes.into_iter().collect(),
        run_timeout: from.run_timeout_s.map(|seconds| Duration { seconds, nanos: 0 }),
        retention_days: from.retention_days,
        limits,
        idempotency_key: from.idempotency_key,
    }
}

impl From<model::Workflow> for Workflow {
    fn from(row: model::Workflow) -> Self {
        let definition = match row.definition {
            serde_json::Value::Object(fields) => Some(json::to_struct(fields)),
            _ => None,
        };
        // What is kept was written by this service.
        let envelope: Envelope = serde_json::from_value(row.envelope).unwrap_or_default();
        Self {
            name: format!("workflows/{}", row.workflow_id),
            version: row.version,
            definition,
            create_time: Some(timestamp(row.created_at)),
            warnings: Vec::new(),
            envelope: (envelope != Envelope::default()).then(|| write(envelope)),
        }
    }
}
