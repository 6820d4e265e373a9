//! Runs as the contract carries them.

use serde_json::{Map, Value};
use tenon_chassis::{Caller, Fault, clock, clock::timestamp, telemetry};
use tenon_proto::workflow::v1::{
    CreateRunRequest, HistoryEvent, ListRunsRequest, Reason, Run, reason::Code as PbCode, run::State,
};

use super::{
    explain::{Code, Why},
    model::{self, Depth, Filter, NewRun, Trigger},
    rpc::starter,
    start::KEY_MAX,
};
use crate::{error::Error, json as pb_json, workflows};

/// Characters of a concurrency key.
const CONCURRENCY_KEY_MAX: usize = 256;
const CONCURRENCY_MAX: i32 = 10_000;
const ATTRIBUTES_MAX: usize = 16;
const ATTRIBUTE_MAX: usize = 256;
/// Attributes that a list is filtered by.
const FILTERS_MAX: usize = 8;

/// The run that a caller asks for.
pub(super) fn new_run(caller: &Caller, request: CreateRunRequest) -> Result<NewRun, Error> {
    let workflow_id = workflows::model::id_of(&request.workflow).ok_or(Error::WorkflowNotFound)?;
    let entity_id = model::entity_id(&request.entity_id)?;
    let input = request.input.map_or_else(|| Value::Object(Map::new()), pb_json::from_pb);
    workflows::model::bounded("input", &input)?;
    text("idempotency_key", &request.idempotency_key, KEY_MAX)?;
    if request.attributes.len() > ATTRIBUTES_MAX {
        return Err(Fault::invalid("attributes", "there are 16 at most").into());
    }
    for (name, value) in &request.attributes {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if !(1..=63).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(Fault::invalid("attributes", "a name is 1 to 63 of a-z, 0-9 and underscores").into());
        }
        text(&format!("attributes.{name}"), value, ATTRIBUTE_MAX)?;
    }
    let concurrency = match request.concurrency {
        Some(concurrency) => {
            text("concurrency.key", &concurrency.key, CONCURRENCY_KEY_MAX)?;
            if !(1..=CONCURRENCY_MAX).contains(&concurrency.limit) {
                return Err(Fault::invalid("concurrency.limit", "must be 1 to 10,000").into());
            }
            Some((concurrency.key, concurrency.limit))
        }
        None => None,
    };
    Ok(NewRun {
        workflow_id: workflow_id.to_owned(),
        entity_id: entity_id.to_owned(),
        input,
        created_by: starter(caller),
        roles: caller.roles.clone(),
        traceparent: telemetry::traceparent(),
        trigger: Trigger::Api,
        attributes: request.attributes.into_iter().map(|(name, value)| (name, Value::String(value))).collect(),
        concurrency,
        idempotency_key: (!request.idempotency_key.is_empty()).then_some(request.idempotency_key),
        parent: None,
        depth: Depth::default(),
    })
}

/// Refuses a text that is too long, or holds what does not print.
pub(super) fn text(field: &str, text: &str, most: usize) -> Result<(), Fault> {
    if text.chars().count() <= most && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Fault::invalid(field, format!("must have at most {most} characters and none that control")))
}

pub(super) fn filter(request: &ListRunsRequest) -> Result<Filter, Fault> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    // What cannot be an id filters everything out, as an id that nobody has does.
    let workflow = some(&request.workflow);
    let workflow_id = workflow.map(|name| workflows::model::id_of(&name).unwrap_or("-").to_owned());
    model::entity_id(&request.entity_id)?;
    let unknown = || Fault::invalid("state", "is not a state of a run");
    let state = match State::try_from(request.state).map_err(|_| unknown())? {
        State::Unspecified => None,
        State::Running => Some(model::State::Running),
        State::Queued => Some(model::State::Queued),
        State::Succeeded => Some(model::State::Succeeded),
        State::Failed => Some(model::State::Failed),
        State::TimedOut => Some(model::State::TimedOut),
        State::Cancelled => Some(model::State::Cancelled),
    };
    if request.attributes.len() > FILTERS_MAX {
        return Err(Fault::invalid("attributes", "at most 8 filter a list"));
    }
    let mut attributes = Vec::new();
    for attribute in &request.attributes {
        text("attributes", attribute, 64 + ATTRIBUTE_MAX)?;
        let pair = attribute.split_once('=').ok_or_else(|| Fault::invalid("attributes", "must be name=value"))?;
        attributes.push((pair.0.to_owned(), pair.1.to_owned()));
    }
    let time = |field: &str, at| Option::map(at, |at| clock::time(field, at)).transpose();
    let parent = some(&request.parent).map(|name| model::id_of(&name).unwrap_or_else(|| uuid::Uuid::nil().into()));
    Ok(Filter {
        workflow_id,
        entity_id: some(&request.entity_id),
        state,
        attributes,
        created_from: time("create_time_from", request.create_time_from)?,
        created_before: time("create_time_before", request.create_time_before)?,
        parent,
    })
}

impl From<model::State> for State {
    fn from(state: model::State) -> Self {
        match state {
            model::State::Queued => Self::Queued,
            model::State::Running => Self::Running,
            model::State::Succeeded => Self::Succeeded,
            model::State::Failed => Self::Failed,
            model::State::TimedOut => Self::TimedOut,
            model::State::Cancelled => Self::Cancelled,
        }
    }
}

impl From<model::Run> for Run {
    fn from(row: model::Run) -> Self {
        Self {
            name: format!("runs/{}", row.id),
            workflow: format!("workflows/{}", row.workflow_id),
            version: row.version,
            entity_id: row.entity_id,
            state: State::from(row.state).into(),
            input: Some(pb_json::to_pb(row.input)),
            output: row.output.map(pb_json::to_pb),
            error: row.error.unwrap_or_default(),
            cause: row.cause.unwrap_or_default(),
            create_time: Some(timestamp(row.created_at)),
            end_time: row.ended_at.map(timestamp),
            attributes: row.attributes.as_object().filter(|all| !all.is_empty()).cloned().map(pb_json::to_struct),
            trigger: row.trigger,
            parent: row.parent_run.map(|run| format!("runs/{run}")).unwrap_or_default(),
            concurrency_key: row.concurrency_key.unwrap_or_default(),
            paused: row.paused.is_some(),
        }
    }
}

impl From<model::HistoryEvent> for HistoryEvent {
    fn from(row: model::HistoryEvent) -> Self {
        let details = match row.details {
            Value::Object(fields) => Some(pb_json::to_struct(fields)),
            _ => None,
        };
        let time = Some(timestamp(row.time));
        Self { id: row.id, previous_event_id: row.previous_id, r#type: row.kind, state: row.state, details, time }
    }
}

impl From<Why> for Reason {
    fn from(why: Why) -> Self {
        let code = match why.code {
            Code::Ready => PbCode::Ready,
            Code::RunningTask => PbCode::RunningTask,
            Code::WaitingForWorker => PbCode::WaitingForWorker,
            Code::NoWorker => PbCode::NoWorker,
            Code::WorkerAtWork => PbCode::WorkerAtWork,
            Code::WaitingTimer => PbCode::WaitingTimer,
            Code::WaitingSignal => PbCode::WaitingSignal,
            Code::WaitingApproval => PbCode::WaitingApproval,
            Code::WaitingChild => PbCode::WaitingChild,
            Code::Retry => PbCode::Retry,
            Code::RateLimited => PbCode::RateLimited,
            Code::ConcurrencyLimit => PbCode::ConcurrencyLimit,
            Code::Paused => PbCode::Paused,
            Code::WorkflowPaused => PbCode::WorkflowPaused,
            Code::TenantPaused => PbCode::TenantPaused,
            Code::TenantSuspended => PbCode::TenantSuspended,
            Code::TenantUnpaid => PbCode::TenantUnpaid,
            Code::Crashed => PbCode::Crashed,
            Code::Quota => PbCode::Quota,
            Code::ActiveLimit => PbCode::ActiveLimit,
        };
        let until = why.until.map(timestamp);
        Self { code: code.into(), text: why.text, subject: why.subject, until }
    }
}
