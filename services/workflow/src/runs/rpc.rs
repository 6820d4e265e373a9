//! RunService.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tenon_chassis::{Caller, Fault, TenantId, TenantTx, caller::Principal, fail, paging::Page};
use tenon_proto::workflow::v1::{
    BatchCreateRunsRequest, BatchCreateRunsResponse, CancelRunRequest, CreateRunRequest, ExplainRunRequest,
    ExplainRunResponse, GetRunRequest, HistoryEvent, ListRunHistoryRequest, ListRunHistoryResponse, ListRunsRequest,
    ListRunsResponse, PauseRunRequest, ResumeRunRequest, RetryRunRequest, Run, SignalRunRequest, SignalRunResponse,
    TerminateRunRequest, WatchRunRequest, WatchRunResponse, run_service_server::RunService,
};
use tokio::{
    sync::{broadcast::Receiver, mpsc},
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    Runs,
    explain::Situation,
    mail::{self, Message},
    model::{self, RunId},
    pb,
    start::Started,
    store,
    watch::{Seen, Watch},
};
use crate::{
    asl::Execution,
    engine::{Hold, births::NotBorn},
    error::Error,
    fair, json as pb_json, payloads, quotas, workflows,
};

/// How long a call waits for the engine to do what it was told.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks meanwhile, should the engine be another process's.
const LOOK: Duration = Duration::from_millis(100);
/// What a browser sends that opens an event stream again.
const LAST_EVENT_ID: &str = "last-event-id";
/// Changes that a watcher may lag behind before the watch waits for it.
const WATCHED_AHEAD: usize = 16;
/// Characters of a reason.
const REASON_MAX: usize = 500;
/// Runs of one batch.
const BATCH_MAX: usize = 1_000;
/// Signals that wait in the mailbox of a run at most.
const SIGNALS_MAX: i64 = 100;
/// Characters of the name of a signal, and of its id.
const SIGNAL_MAX: usize = 128;

#[tonic::async_trait]
impl RunService for Runs {
    async fn create_run(&self, request: Request<CreateRunRequest>) -> Result<Response<Run>, Status> {
        let caller = Caller::of(&request)?;
        let mut run = pb::new_run(&caller, request.into_inner())?;

        // The engine of this process adds many runs at once, with their first steps. What has to be looked up or
        // remembered beside the run is written here, and the run is then due for whoever owns its partition.
        if caller.idempotency.is_none() && run.idempotency_key.is_none() && run.concurrency.is_none() {
            let tenant = (caller.tenant_id()?, fair::weight(caller.tenant.as_deref()));
            match self.waker.start(tenant, run, caller.method.meter.clone(), None).await {
                Ok(run) => return Ok(Response::new(run.into())),
                Err(NotBorn::Refused(error)) => return Err(error.into()),
                Err(NotBorn::Delivered) => unreachable!("it answers no delivery"),
                Err(NotBorn::Elsewhere(same)) => run = *same,
            }
        }

        let mut tx = self.db.begin(&caller).await?;
        let response = match self.starter.start(&mut tx, run).await? {
            Started::New(run) => {
                fail::at("start.commit.before").await?;
                tx.reply(Run::from(run)).await?
            }
            // It was counted when it was started.
            Started::Same(run) => {
                tx.commit().await?;
                Response::new(run.into())
            }
        };
        fail::at("start.commit.after").await?;
        self.waker.wake();
        Ok(response)
    }

    async fn batch_create_runs(
        &self,
        request: Request<BatchCreateRunsRequest>,
    ) -> Result<Response<BatchCreateRunsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let requests = request.into_inner().requests;
        if requests.is_empty() || requests.len() > BATCH_MAX {
            return Err(Fault::invalid("requests", "must be 1 to 1,000").into());
        }
        let at = |index: usize| move |error: Error| error.at(&format!("requests[{index}]"));
        let mut new = Vec::with_capacity(requests.len());
        for (index, request) in requests.into_iter().enumerate() {
            new.push(pb::new_run(&caller, request).map_err(at(index))?);
        }

        let mut tx = self.db.begin(&caller).await?;
        let mut runs = Vec::with_capacity(new.len());
        let mut fresh = 0;
        for started in self.starter.start_all(&mut tx, new).await.map_err(|(index, error)| at(index)(error))? {
            fresh += i64::from(matches!(started, Started::New(_)));
            runs.push(started.run().into());
        }
        if fresh > 0 {
            tx.meter("workflow_runs", fresh);
        }
        let response = tx.reply(BatchCreateRunsResponse { runs }).await?;
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
        let filter = pb::filter(&request)?;

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
        let CancelRunRequest { name, reason } = request.into_inner();
        pb::text("reason", &reason, REASON_MAX)?;
        self.told(&caller, &name, Message::Cancel { reason }, |run| run.state.has_ended()).await
    }

    async fn terminate_run(&self, request: Request<TerminateRunRequest>) -> Result<Response<Run>, Status> {
        let caller = Caller::of(&request)?;
        let TerminateRunRequest { name, reason } = request.into_inner();
        pb::text("reason", &reason, REASON_MAX)?;
        self.told(&caller, &name, Message::Terminate { reason }, |run| run.state.has_ended()).await
    }

    async fn pause_run(&self, request: Request<PauseRunRequest>) -> Result<Response<Run>, Status> {
        let caller = Caller::of(&request)?;
        let (name, by) = (request.into_inner().name, starter(&caller));
        self.must_be_at_work(&caller, &name).await?;
        self.told(&caller, &name, Message::Pause { by }, |run| run.paused.is_some()).await
    }

    async fn resume_run(&self, request: Request<ResumeRunRequest>) -> Result<Response<Run>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        self.must_be_at_work(&caller, &name).await?;
        // A pause of its workflow or tenant is not the run's to end: it is answered as it is.
        let done = |run: &model::Run| !matches!(run.paused.as_deref(), Some(by) if !Hold::is_wide_name(by));
        self.told(&caller, &name, Message::Resume, done).await
    }

    async fn signal_run(&self, request: Request<SignalRunRequest>) -> Result<Response<SignalRunResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let id = model::id_of(&request.name).ok_or(Error::RunNotFound)?;

        let mut tx = self.db.begin(&caller).await?;
        let run = store::get(&mut tx, id).await?.ok_or(Error::RunNotFound)?;
        if request.signal.is_empty() {
            return Err(Fault::invalid("signal", "must be 1 to 128 characters").into());
        }
        pb::text("signal", &request.signal, SIGNAL_MAX)?;
        pb::text("signal_id", &request.signal_id, SIGNAL_MAX)?;
        let payload = request.payload.map_or_else(|| json!({}), pb_json::from_pb);
        workflows::model::bounded("payload", &payload)?;
        if !request.signal_id.is_empty() {
            let hash = Sha256::digest(json!([request.signal, payload]).to_string());
            let key = format!("signal/{id}/{}", request.signal_id);
            let expires_at = self.starter.key_expires_at(&tx);
            if let Some((_, same)) = store::insert_key(&mut tx, &key, (&hash, id), expires_at).await? {
                return if same { Ok(tx.reply(SignalRunResponse {}).await?) } else { Err(Error::KeyReused.into()) };
            }
        }
        if run.state.has_ended() {
            return Err(Error::RunEnded.into());
        }
        if store::count_signals(&mut tx, id).await? >= SIGNALS_MAX {
            return Err(Error::MailboxFull.into());
        }
        if !mail::send(&mut tx, id, &Message::Signal { name: request.signal, payload }).await? {
            return Err(Error::RunEnded.into());
        }
        let response = tx.reply(SignalRunResponse {}).await?;
        fail::at("mail.commit.after").await?;
        self.waker.wake();
        Ok(response)
    }

    async fn retry_run(&self, request: Request<RetryRunRequest>) -> Result<Response<Run>, Status> {
        let caller = Caller::of(&request)?;
        let id = model::id_of(&request.into_inner().name).ok_or(Error::RunNotFound)?;

        let mut tx = self.db.begin(&caller).await?;
        let run = store::get(&mut tx, id).await?.ok_or(Error::RunNotFound)?;
        if let Some(key) = &run.concurrency_key {
            store::lock_turn(&mut tx, caller.tenant_id()?.uuid(), (&run.workflow_id, key)).await?;
        }
        if !store::update_failed(&mut tx, id).await? {
            return Err(Error::RunNotFailed.into());
        }
        mail::send(&mut tx, id, &Message::Retry).await?;
        let run = store::get(&mut tx, id).await?.ok_or(Error::RunNotFound)?;
        let response = tx.reply(Run::from(run)).await?;
        self.waker.wake();
        Ok(response)
    }

    type WatchRunStream = Pin<Box<dyn Stream<Item = Result<WatchRunResponse, Status>> + Send>>;

    async fn watch_run(&self, request: Request<WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let caller = Caller::of(&request)?;
        let last = request.metadata().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok());
        let request = request.into_inner();
        let id = model::id_of(&request.name).ok_or(Error::RunNotFound)?;
        let mut tx = self.db.begin(&caller).await?;
        store::get(&mut tx, id).await?.ok_or(Error::RunNotFound)?;
        tx.commit().await?;
        let after = last.unwrap_or(request.after_event_id);
        let (sender, told) = mpsc::channel(WATCHED_AHEAD);
        let watch = Watch { db: self.db.clone(), mesh: self.mesh.clone(), caller, id, after };
        let (changes, stop) = (self.waker.changes(), self.mesh.draining.clone());
        self.mesh.tasks.spawn(async move {
            // A process that is about to stop lets go of its watchers: they come to another.
            let watched = stop.run_until_cancelled(watch.run(changes, &sender)).await;
            if let Some(Err(status)) = watched {
                // Whoever watched has gone away when this fails.
                let _ = sender.send(Err(status)).await;
            }
        });
        let told = ReceiverStream::new(told).map(|told| {
            let Seen { run, events } = told?;
            let events: Vec<HistoryEvent> = events.into_iter().map(Into::into).collect();
            let event_id = events.last().map_or(0, |event| event.id);
            Ok(WatchRunResponse { run: Some(run.into()), events, event_id })
        });
        Ok(Response::new(Box::pin(told)))
    }

    async fn explain_run(&self, request: Request<ExplainRunRequest>) -> Result<Response<ExplainRunResponse>, Status> {
        let caller = Caller::of(&request)?;
        let id = model::id_of(&request.into_inner().name).ok_or(Error::RunNotFound)?;

        let mut tx = self.db.begin(&caller).await?;
        let situation = self.situation(&mut tx, id).await?;
        let state = tenon_proto::workflow::v1::run::State::from(situation.state).into();
        let reasons = situation.explain().into_iter().map(Into::into).collect();
        Ok(tx.reply(ExplainRunResponse { state, reasons }).await?)
    }
}

impl Runs {
    /// Sends a run a message, and answers with the run once it shows what was asked for, or patience ends. One that has
    /// ended is answered as it is.
    async fn told(
        &self,
        caller: &Caller,
        name: &str,
        message: Message,
        done: impl Fn(&model::Run) -> bool + Send,
    ) -> Result<Response<Run>, Status> {
        let id = model::id_of(name).ok_or(Error::RunNotFound)?;
        let mut tx = self.db.begin(caller).await?;
        store::get(&mut tx, id).await?.ok_or(Error::RunNotFound)?;
        mail::send(&mut tx, id, &message).await?;
        let mut changes = self.waker.changes();
        tx.commit().await?;
        self.waker.wake();
        // The owner of the run, here or elsewhere, reads its mail.
        let patience = Instant::now() + PATIENCE;
        loop {
            let mut tx = self.db.begin(caller).await?;
            let run = store::get(&mut tx, id).await?.ok_or(Error::RunNotFound)?;
            if run.state.has_ended() || done(&run) || Instant::now() >= patience {
                return Ok(tx.reply(run.into()).await?);
            }
            tx.commit().await?;
            let next = (Instant::now() + LOOK).min(patience);
            let _ = timeout_at(next, changed(&mut changes, (caller.tenant_id()?, id))).await;
        }
    }

    async fn must_be_at_work(&self, caller: &Caller, name: &str) -> Result<(), Status> {
        let id = model::id_of(name).ok_or(Error::RunNotFound)?;
        let mut tx = self.db.begin(caller).await?;
        let run = store::get(&mut tx, id).await?.ok_or(Error::RunNotFound)?;
        tx.commit().await?;
        if run.state.has_ended() { Err(Error::RunEnded.into()) } else { Ok(()) }
    }

    async fn situation(&self, tx: &mut TenantTx, id: RunId) -> Result<Situation, Error> {
        let stand = store::get_stand(tx, id).await?.ok_or(Error::RunNotFound)?;
        let awaited = store::list_awaited(tx, id).await?;
        let tenant = self.mesh.directory.by_id(tx.tenant()).await.ok();
        let outline = stand.execution.map(payloads::outline);
        let execution = outline.and_then(|state| Execution::restore(&state, Value::Null).ok());
        let meter = stand.paused.as_deref().and_then(|by| by.strip_prefix(quotas::HELD));
        let quota_until = meter.and_then(|meter| self.waker.quotas.used_up(tx.tenant(), meter));
        Ok(Situation {
            quota_until,
            is_crowded: self.waker.crowd.is_full(tx.tenant()),
            state: stand.state.into(),
            workflow_id: stand.workflow_id,
            paused: stand.paused,
            crashes: stand.crashes,
            concurrency_key: stand.concurrency_key,
            ahead: stand.first.map(|first| (first, stand.before)),
            standing: tenant.map(|tenant| tenant.status),
            execution,
            awaited,
        })
    }
}

/// Returns when the engine of this process has written the run, or may have.
pub(super) async fn changed(changes: &mut Receiver<(TenantId, RunId)>, run: (TenantId, RunId)) {
    while changes.recv().await.is_ok_and(|changed| changed != run) {}
}

/// Who calls, as runs and what starts them remember it.
pub(crate) fn starter(caller: &Caller) -> String {
    match &caller.principal {
        Principal::User { user, .. } => user.to_string(),
        Principal::Key { key } => format!("key:{key}"),
        Principal::Service { name } => format!("svc:{name}"),
        Principal::Operator => "operator".to_owned(),
        Principal::Anyone => String::new(),
    }
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
