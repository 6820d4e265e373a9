//! ActivityService.

use std::{pin::Pin, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::stream::{Stream, StreamExt};
use serde_json::Value;
use tenon_chassis::{Caller, Fault, clock::timestamp};
use tenon_proto::workflow::v1::{
    ActivityTask, ClaimActivitiesRequest, ClaimActivitiesResponse, CompleteActivityRequest, FailActivityRequest,
    HeartbeatActivityRequest, PollActivitiesRequest, PollActivitiesResponse,
    activity_service_server::ActivityService,
    poll_activities_request::Message as Heard,
    poll_activities_response::{Message as Answer, Outcome},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    Activities,
    hub::Place,
    model::{self, Attempt, Ending, Task},
    store,
    worker::{Said, Told, Worker},
};
use crate::{error::Error, json};

/// How long a stream may take to say what it is for.
const SUBSCRIBE_MAX: Duration = Duration::from_secs(10);
/// Messages to a worker that it has not read yet.
const UNREAD: usize = 64;
/// Tasks that one unary call claims.
const CLAIM_MAX: i32 = 100;
/// Credits that one message gives.
const CREDITS_MAX: i32 = 1_000;

type Tasks = Pin<Box<dyn Stream<Item = Result<PollActivitiesResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ActivityService for Activities {
    type PollActivitiesStream = Tasks;

    async fn poll_activities(
        &self,
        request: Request<Streaming<PollActivitiesRequest>>,
    ) -> Result<Response<Tasks>, Status> {
        let caller = Caller::of(&request)?;
        let tenant = caller.tenant_id()?;
        let ends_at = expiry(request.metadata()).map(|at| self.until(at));
        let mut said = request.into_inner();
        let first = timeout(SUBSCRIBE_MAX, said.message()).await;
        let first =
            first.map_err(|_| Status::from(Fault::invalid("subscribe", "must be the first message, within 10 s")))?;
        let Some(PollActivitiesRequest { message: Some(Heard::Subscribe(subscribe)) }) = first? else {
            return Err(Fault::invalid("subscribe", "must be the first message").into());
        };
        let queues = model::subscription(subscribe.queues, &subscribe.worker)?;

        let place = Place::take(self, tenant, queues)?;
        let (tell, told) = mpsc::channel(UNREAD);
        let worker = Worker { activities: self.clone(), caller, place, name: subscribe.worker, ends_at };
        self.0.mesh.tasks.spawn(worker.talk(said.map(|message| message.and_then(heard)), tell));
        let told = ReceiverStream::new(told).map(|told| told.map(Into::into));
        Ok(Response::new(Box::pin(told)))
    }

    async fn claim_activities(
        &self,
        request: Request<ClaimActivitiesRequest>,
    ) -> Result<Response<ClaimActivitiesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let queues = model::subscription(request.queues, &request.worker)?;
        if !(0..=CLAIM_MAX).contains(&request.max_tasks) {
            return Err(Fault::invalid("max_tasks", "must be 1 to 100").into());
        }
        let limit = usize::try_from(request.max_tasks.max(1)).unwrap_or(1);

        let mut tx = self.0.db.begin(&caller).await?;
        self.0.hub.called(caller.tenant_id()?, &queues);
        let mut tasks: Vec<Task> = Vec::new();
        for queue in &queues {
            let left = i64::try_from(limit - tasks.len()).unwrap_or_default();
            if left > 0 {
                tasks.extend(store::claim(&mut tx, queue, &request.worker, left).await?);
            }
        }
        let watched: Vec<Attempt> = tasks.iter().filter(|task| task.is_watched).map(|task| task.attempt).collect();
        let reply = tx.reply(ClaimActivitiesResponse { tasks: tasks.into_iter().map(Into::into).collect() }).await?;
        if !watched.is_empty() {
            self.heartbeat(&caller, &watched).await?;
        }
        Ok(reply)
    }

    async fn complete_activity(&self, request: Request<CompleteActivityRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let (attempt, ending) = completed(request.into_inner())?;
        self.answer_now(&caller, attempt, ending).await
    }

    async fn fail_activity(&self, request: Request<FailActivityRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let (attempt, ending) = failed(request.into_inner())?;
        self.answer_now(&caller, attempt, ending).await
    }

    async fn heartbeat_activity(&self, request: Request<HeartbeatActivityRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let attempt = Attempt::parse(&request.into_inner().task_token)?;

        let alive = self.heartbeat(&caller, &[attempt]).await?;
        if alive.is_empty() { Err(Error::AttemptOver.into()) } else { Ok(Response::new(())) }
    }
}

impl Activities {
    /// An answer in a transaction of its own, which keeps it under the caller's idempotency key.
    async fn answer_now(&self, caller: &Caller, attempt: Attempt, ending: Ending) -> Result<Response<()>, Status> {
        let mut tx = self.0.db.begin(caller).await?;
        if store::delete_answered(&mut tx, &[(attempt, ending)]).await?.is_empty() {
            return Err(Error::AttemptOver.into());
        }
        let reply = tx.reply(()).await?;
        self.0.waker.wake();
        Ok(reply)
    }

    fn until(&self, unix: i64) -> Instant {
        let left = u64::try_from(unix - self.0.mesh.clock.unix()).unwrap_or_default();
        Instant::now() + Duration::from_secs(left)
    }
}

/// When the bearer token ends. The guard has verified it; this only reads it.
fn expiry(metadata: &MetadataMap) -> Option<i64> {
    let token = metadata.get("authorization")?.to_str().ok()?;
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Value>(&claims).ok()?["exp"].as_i64()
}

fn completed(request: CompleteActivityRequest) -> Result<(Attempt, Ending), Fault> {
    let attempt = Attempt::parse(&request.task_token)?;
    Ok((attempt, model::done(request.output.map_or(Value::Null, json::from_pb))?))
}

fn failed(request: FailActivityRequest) -> Result<(Attempt, Ending), Fault> {
    let attempt = Attempt::parse(&request.task_token)?;
    Ok((attempt, model::failed(request.error, request.cause)?))
}

/// A message of a worker's. One about a task is answered, also when it is wrong; another wrong one ends the stream.
fn heard(request: PollActivitiesRequest) -> Result<Said, Status> {
    let about = |token: String, said: Result<Said, Fault>| said.unwrap_or_else(|fault| Said::Wrong(token, fault));
    Ok(match request.message {
        Some(Heard::Credits(credits)) if (1..=CREDITS_MAX).contains(&credits) => {
            Said::Credits(usize::try_from(credits).unwrap_or_default())
        }
        Some(Heard::Credits(_)) => return Err(Fault::invalid("credits", "must be 1 to 1,000").into()),
        Some(Heard::Subscribe(_)) => return Err(Fault::invalid("subscribe", "is the first message only").into()),
        None => return Err(Fault::invalid("message", "must be set").into()),
        Some(Heard::Complete(answer)) => {
            let token = answer.task_token.clone();
            about(token, completed(answer).map(|(attempt, ending)| Said::Answer(attempt, ending)))
        }
        Some(Heard::Fail(answer)) => {
            let token = answer.task_token.clone();
            about(token, failed(answer).map(|(attempt, ending)| Said::Answer(attempt, ending)))
        }
        Some(Heard::Heartbeat(beat)) => {
            let attempt = Attempt::parse(&beat.task_token).map(Said::Heartbeat);
            about(beat.task_token, attempt)
        }
        Some(Heard::Release(token)) => {
            let attempt = Attempt::parse(&token).map(Said::Release);
            about(token, attempt)
        }
    })
}

impl From<Told> for PollActivitiesResponse {
    fn from(told: Told) -> Self {
        let message = match told {
            Told::Task(task) => Answer::Task((*task).into()),
            Told::Outcome(task_token, reason, message) => Answer::Outcome(Outcome { task_token, reason, message }),
        };
        Self { message: Some(message) }
    }
}

impl From<Task> for ActivityTask {
    fn from(task: Task) -> Self {
        Self {
            task_token: task.attempt.to_token(),
            queue: task.queue,
            run: format!("runs/{}", task.attempt.run),
            input: Some(json::to_pb(task.input)),
            attempt: task.attempts,
            lease_seconds: task.lease_seconds,
            deadline: task.deadline.map(timestamp),
            idempotency_key: format!("{}/{}", task.attempt.run, task.attempt.token),
            traceparent: task.traceparent.unwrap_or_default(),
        }
    }
}
