//! What a worker has on its desk, and the stream on which it says so. The desk outlives the stream: what was begun before a
//! connection was lost is answered on the next one.

use std::{collections::HashMap, future::Future, pin::Pin, time::Duration};

use serde_json::Value;
use tenon_proto::workflow::v1::{
    ActivityTask, CompleteActivityRequest, FailActivityRequest, HeartbeatActivityRequest, PollActivitiesRequest,
    activity_service_client::ActivityServiceClient,
    poll_activities_request::{Message as Say, Subscribe},
    poll_activities_response::{Message as Told, Outcome},
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, transport::Channel};

use crate::{
    task::{Task, TaskError, to_pb},
    worker::Handler,
};

/// How often leases are looked at.
const TICK: Duration = Duration::from_millis(500);
/// When an answer that could not be taken just now is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// What a handler came to, with the token of its task.
type Handled = (String, Result<Value, TaskError>);

/// How a session ended.
pub(crate) enum Ended {
    Stopped,
    Broken { why: Status, stood: bool },
}

/// A task in work, or answered and not yet confirmed.
struct Open {
    cancelled: CancellationToken,
    handler: AbortHandle,
    lease: Duration,
    beat_at: Instant,
    answer: Option<Say>,
    /// When the answer is sent (again).
    send_at: Option<Instant>,
}

/// Everything that a worker works on.
pub(crate) struct Desk {
    client: ActivityServiceClient<Channel>,
    name: String,
    queues: HashMap<String, Handler>,
    concurrency: usize,
    drain: Duration,
    open: HashMap<String, Open>,
    done: JoinSet<Handled>,
    tokens: HashMap<Id, String>,
    stops_at: Option<Instant>,
}

impl Desk {
    pub(crate) fn new(
        channel: Channel,
        name: String,
        queues: HashMap<String, Handler>,
        concurrency: usize,
        drain: Duration,
    ) -> Self {
        Self {
            client: ActivityServiceClient::new(channel),
            name,
            queues,
            concurrency,
            drain,
            open: HashMap::new(),
            done: JoinSet::new(),
            tokens: HashMap::new(),
            stops_at: None,
        }
    }

    pub(crate) fn stop(&mut self) {
        self.stops_at = Some(Instant::now() + self.drain);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stops_at.is_some()
    }

    pub(crate) fn is_clear(&self) -> bool {
        self.open.is_empty() || self.stops_at.is_some_and(|at| at <= Instant::now())
    }

    /// Talks on one stream until it ends or the worker has stopped.
    pub(crate) async fn session(
        &mut self,
        token: &str,
        mut stop: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Ended {
        // Not bounded by a channel, but by the desk: a worker that cannot send for having to read first would stand still.
        let (say, said) = mpsc::unbounded_channel();
        let mut request = Request::new(UnboundedReceiverStream::new(said));
        match format!("Bearer {token}").parse() {
            Ok(bearer) => drop(request.metadata_mut().insert("authorization", bearer)),
            Err(_) => return Ended::Broken { why: Status::unauthenticated("the token is no header"), stood: false },
        }
        let queues = self.queues.keys().cloned().collect();
        let subscribe = Say::Subscribe(Subscribe { queues, worker: self.name.clone() });
        let _ = say.send(message(subscribe));
        let mut told = match self.client.poll_activities(request).await {
            Ok(told) => told.into_inner(),
            Err(why) => return Ended::Broken { why, stood: false },
        };
        // What was answered before goes first: the stream before this one may not have delivered it.
        self.open
            .values_mut()
            .filter(|open| open.answer.is_some())
            .for_each(|open| open.send_at = Some(Instant::now()));
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut credits = 0;
        loop {
            if self.is_stopping() && self.is_clear() {
                self.give_back(&say).await;
                return Ended::Stopped;
            }
            let free = self.concurrency.saturating_sub(self.open.len() + credits);
            let mut out = Vec::new();
            if free > 0 && !self.is_stopping() {
                out.push(Say::Credits(i32::try_from(free).unwrap_or(1)));
                credits += free;
            }
            out.extend(self.due());
            for one in out {
                if say.send(message(one)).is_err() {
                    break;
                }
            }
            let (next_send, stops) = (self.next_send(), self.is_stopping());
            tokio::select! {
                heard = told.message() => match heard {
                    Ok(Some(heard)) => match heard.message {
                        Some(Told::Task(task)) => {
                            credits = credits.saturating_sub(1);
                            self.take(task, &say);
                        }
                        Some(Told::Outcome(outcome)) => self.settle(outcome),
                        None => {}
                    },
                    Ok(None) => return Ended::Broken { why: Status::unavailable("the stream ended"), stood: true },
                    Err(why) => return Ended::Broken { why, stood: true },
                },
                Some(done) = self.done.join_next_with_id() => self.finish(done),
                _ = tick.tick() => {}
                () = sleep_until(next_send) => {}
                () = stop.as_mut(), if !stops => self.stop(),
            }
        }
    }

    fn take(&mut self, task: ActivityTask, say: &mpsc::UnboundedSender<PollActivitiesRequest>) {
        let token = task.task_token.clone();
        let handler = self.queues.get(&task.queue).filter(|_| self.stops_at.is_none()).cloned();
        let Some(handler) = handler else {
            let _ = say.send(message(Say::Release(token)));
            return;
        };
        let lease = Duration::from_secs(u64::try_from(task.lease_seconds).unwrap_or(1).max(1));
        let cancelled = CancellationToken::new();
        let work = handler(Task::of(task, cancelled.clone()));
        let (key, of) = (token.clone(), cancelled.clone());
        let handler = self.done.spawn(async move {
            let result = of.run_until_cancelled(work).await;
            (key, result.unwrap_or_else(|| Err(TaskError::new("Worker.Cancelled", "nobody waits for it any more"))))
        });
        self.tokens.insert(handler.id(), token.clone());
        let (beat_at, answer, send_at) = (Instant::now() + lease / 3, None, None);
        self.open.insert(token, Open { cancelled, handler, lease, beat_at, answer, send_at });
    }

    /// A handler is through, or has panicked.
    fn finish(&mut self, done: Result<(Id, Handled), JoinError>) {
        let (token, result) = match done {
            Ok((id, (token, result))) => {
                self.tokens.remove(&id);
                (token, result)
            }
            Err(error) => {
                let Some(token) = self.tokens.remove(&error.id()) else { return };
                (token, Err(TaskError::new("Worker.Panicked", "the handler panicked")))
            }
        };
        // One that was taken away has nothing to answer.
        let Some(open) = self.open.get_mut(&token) else { return };
        open.answer = Some(answer(token, result));
        open.send_at = Some(Instant::now());
    }

    /// What has to be said now: answers, and heartbeats of what is still worked on.
    fn due(&mut self) -> Vec<Say> {
        let now = Instant::now();
        let mut due = Vec::new();
        for (token, open) in &mut self.open {
            if open.send_at.is_some_and(|at| at <= now) {
                open.send_at = None;
                due.extend(open.answer.clone());
            }
            if open.beat_at <= now && open.answer.is_none() {
                open.beat_at = now + open.lease / 3;
                due.push(Say::Heartbeat(HeartbeatActivityRequest { task_token: token.clone() }));
            }
        }
        due
    }

    fn next_send(&self) -> Instant {
        let next = self.open.values().filter_map(|open| open.send_at).min();
        next.unwrap_or_else(|| Instant::now() + TICK)
    }

    fn settle(&mut self, outcome: Outcome) {
        let Outcome { task_token, reason, message } = outcome;
        match reason.as_str() {
            "" => drop(self.open.remove(&task_token)),
            "ATTEMPT_OVER" => {
                tracing::debug!(message, "a task went to another worker, or nobody waits for it");
                if let Some(open) = self.open.remove(&task_token) {
                    open.cancelled.cancel();
                    open.handler.abort();
                }
            }
            // An answer that is not as it must be would be refused again: the task fails with the reason.
            "INVALID_FIELD" => {
                if let Some(open) = self.open.get_mut(&task_token) {
                    open.answer = Some(answer(task_token, Err(TaskError::new("Worker.InvalidAnswer", message))));
                    open.send_at = Some(Instant::now());
                }
            }
            _ => {
                if let Some(open) = self.open.get_mut(&task_token).filter(|open| open.answer.is_some()) {
                    open.send_at = Some(Instant::now() + AGAIN);
                }
            }
        }
    }

    /// What is not done goes back, so that others need not wait for the leases.
    async fn give_back(&mut self, say: &mpsc::UnboundedSender<PollActivitiesRequest>) {
        for (token, open) in self.open.drain() {
            open.cancelled.cancel();
            open.handler.abort();
            let _ = say.send(message(Say::Release(token)));
        }
        // The server reads what was sent until the stream is closed from here.
        tokio::time::sleep(TICK).await;
    }
}

fn message(say: Say) -> PollActivitiesRequest {
    PollActivitiesRequest { message: Some(say) }
}

fn answer(task_token: String, result: Result<Value, TaskError>) -> Say {
    match result {
        Ok(output) => Say::Complete(CompleteActivityRequest { task_token, output: Some(to_pb(output)) }),
        Err(TaskError { error, cause }) => {
            // Longer ones would be refused.
            let (error, cause) = (error.chars().take(256).collect(), cause.chars().take(8_000).collect());
            Say::Fail(FailActivityRequest { task_token, error, cause })
        }
    }
}
