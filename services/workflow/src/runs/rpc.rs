//! RunService.

use std::time::Duration;

use serde_json::{Value, json};
use tenon_chassis::{Caller, Fault, TenantId, caller::Principal, clock::timestamp, paging::Page, telemetry};
use tenon_proto::workflow::v1::{
    CancelRunRequest, CreateRunRequest, GetRunRequest, HistoryEvent, ListRunHistoryRequest, ListRunHistoryResponse,
    ListRunsRequest, ListRunsResponse, Run, run::State, run_service_server::RunService,
};
use tokio::{
    sync::broadcast::Receiver,
    time::{Instant, timeout_at},
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    Runs,
    mail::{self, Message},
    model::{self, Filter, NewRun, RunId},
    store,
};
use crate::{engine::births::NotBorn, error::Error, json as pb_json, workflows};

/// How long CancelRun waits for the engine.
const CANCEL_MAX: Duration = Duration::from_secs(2);
/// How often it looks meanwhile, should the engine be another process's.
const CANCEL_LOOK: Duration = Duration::from_millis(100);
/// Characters of a reason.
const REASON_MAX: usize = 500;

#[tonic::async_trait]
impl RunService for Runs {
    async fn create_run(&self, request: Request<CreateRunRequest>) -> Result<Response<Run>, Status> {
        let caller = Caller::of(&request)?;
        let tenant = caller.tenant_id()?;
        let request = request.into_inner();
        let workflow_id = workflows::model::id_of(&request.workflow).ok_or(Error::WorkflowNotFound)?;
        let entity_id = model::entity_id(&request.entity_id)?;
        let input = request.input.map_or_else(|| json!({}), pb_json::from_pb);
        workflows::model::bounded("input", &input)?;

        let mut run = NewRun {
            workflow_id: workflow_id.to_owned(),
            entity_id: entity_id.to_owned(),
            input,
            created_by: starter(&caller),
            roles: caller.roles.clone(),
            traceparent: telemetry::traceparent(),
        };
        // The engine of this process adds many runs at once, with their first steps. What has to be remembered beside the
        // run is written here, and the run is then due for whoever owns its partition.
        if caller.idempotency.is_none() {
            match self.waker.start(tenant, run, caller.method.meter.clone()).await {
                Ok(run) => return Ok(Response::new(run.into())),
                Err(NotBorn::Refused(error)) => return Err(error.into()),
                Err(NotBorn::Elsewhere(same)) => run = *same,
            }
        }

        let mut tx = self.db.begin(&caller).await?;
        let id = RunId::new(tx.clock());
        let partition = model::partition(tenant, id, self.partitions);
        let run = store::insert(&mut tx, (id, partition), &run).await?.ok_or(Error::WorkflowNotFound)?;
        tx.emit(run.state.event(), format!("runs/{id}"), created(&run));
        let response = tx.reply(Run::from(run)).await?;
        self.waker.wake();
        Ok(response)
    }

    async fn get_run(&self, request: Request<GetRunRequest>) -> Result<Response<Run>, Status> {
        let caller = Caller::of(&request)?;
        let id = model::id_of(&request.into_inner().name).ok_or(Error::RunNotFound)?;

        let mut tx = self.db.begin(&caller).await?;
        let run = store::get(&mut tx, id).await?.ok_or(Error::RunNotFound)?;
        Ok(tx.reply(run.into()).await?)
    }

    async fn list_runs(&self, request: Request<ListRunsRequest>) -> Result<Response<ListRunsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let page = Page::<Uuid>::parse(request.page_size, &request.page_token)?;
        let filter = filter(&request)?;

        let mut tx = self.db.begin(&caller).await?;
        let rows = store::list(&mut tx, &filter, page.after, page.fetch()).await?;
        let (rows, next_page_token) = page.cut(rows, |row| row.id.uuid());
        let runs = rows.into_iter().map(Into::into).collect();
        Ok(tx.reply(ListRunsResponse { runs, next_page_token }).await?)
    }

    async fn list_run_history(
        &self,
        request: Request<ListRunHistoryRequest>,
    ) -> Result<Response<ListRunHistoryResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let id = model::id_of(&request.parent).ok_or(Error::RunNotFound)?;
        let page = Page::<i64>::parse(request.page_size, &request.page_token)?;

        let mut tx = self.db.begin(&caller).await?;
        store::get(&mut tx, id).await?.ok_or(Error::RunNotFound)?;
        let rows = store::list_history(&mut tx, id, page.after.unwrap_or(0), page.fetch()).await?;
        let (rows, next_page_token) = page.cut(rows, |row| row.id);
        let events = rows.into_iter().map(Into::into).collect();
        Ok(tx.reply(ListRunHistoryResponse { events, next_page_token }).await?)
    }

    async fn cancel_run(&self, request: Request<CancelRunRequest>) -> Result<Response<Run>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let id = model::id_of(&request.name).ok_or(Error::RunNotFound)?;
        if request.reason.chars().count() > REASON_MAX || request.reason.contains('\0') {
            let why = format!("must have at most {REASON_MAX} characters and no NUL");
            return Err(Fault::invalid("reason", why).into());
        }

        let mut tx = self.db.begin(&caller).await?;
        store::get(&mut tx, id).await?.ok_or(Error::RunNotFound)?;
        mail::send(&mut tx, id, &Message::Cancel { reason: request.reason }).await?;
        let mut changes = self.waker.changes();
        tx.commit().await?;
        self.waker.wake();
        // The owner of the run, here or elsewhere, ends it; who asks sees it ended unless that takes long.
        let patience = Instant::now() + CANCEL_MAX;
        loop {
            let mut tx = self.db.begin(&caller).await?;
            let run = store::get(&mut tx, id).await?.ok_or(Error::RunNotFound)?;
            if run.state.has_ended() || Instant::now() >= patience {
                return Ok(tx.reply(run.into()).await?);
            }
            tx.commit().await?;
            let next = (Instant::now() + CANCEL_LOOK).min(patience);
            let _ = timeout_at(next, changed(&mut changes, (caller.tenant_id()?, id))).await;
        }
    }
}

/// Returns when the engine of this process has written the run, or may have.
async fn changed(changes: &mut Receiver<(TenantId, RunId)>, run: (TenantId, RunId)) {
    while changes.recv().await.is_ok_and(|changed| changed != run) {}
}

/// Who calls, as runs and what starts them remember it.
pub(crate) fn starter(caller: &Caller) -> String {
    match &caller.principal {
        Principal::User { user, .. } => user.to_string(),
        Principal::Service { name } => format!("svc:{name}"),
        Principal::Operator => "operator".to_owned(),
        Principal::Anyone => String::new(),
    }
}

fn filter(request: &ListRunsRequest) -> Result<Filter, Fault> {
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
    Ok(Filter { workflow_id, entity_id: some(&request.entity_id), state })
}

/// What the event of a new run tells.
pub(crate) fn created(run: &model::Run) -> Value {
    json!({
        "run": format!("runs/{}", run.id),
        "workflow": format!("workflows/{}", run.workflow_id),
        "version": run.version,
        "entityId": run.entity_id,
        "state": run.state.as_str(),
    })
}

impl From<model::Run> for Run {
    fn from(row: model::Run) -> Self {
        let state = match row.state {
            model::State::Queued => State::Queued,
            model::State::Running => State::Running,
            model::State::Succeeded => State::Succeeded,
            model::State::Failed => State::Failed,
            model::State::TimedOut => State::TimedOut,
            model::State::Cancelled => State::Cancelled,
        };
        Self {
            name: format!("runs/{}", row.id),
            workflow: format!("workflows/{}", row.workflow_id),
            version: row.version,
            entity_id: row.entity_id,
            state: state.into(),
            input: Some(pb_json::to_pb(row.input)),
            output: row.output.map(pb_json::to_pb),
            error: row.error.unwrap_or_default(),
            cause: row.cause.unwrap_or_default(),
            create_time: Some(timestamp(row.created_at)),
            end_time: row.ended_at.map(timestamp),
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
