//! A worker's stream: tasks out as far as its credits reach, answers in, and an end that loses nothing.

use std::pin::pin;

use futures::{
    StreamExt,
    future::{BoxFuture, FutureExt, OptionFuture},
    stream::{FuturesUnordered, Stream},
};
use tenon_chassis::{Caller, Fault, fault};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tonic::{Code, Status};

use super::{
    Activities,
    hub::Place,
    model::{Attempt, Ending, Task},
};
use crate::error::Error;

/// Tasks that a stream has open at once, and answers of it that are on their way to the disk.
const OPEN_MAX: usize = 1_000;
/// Tasks that one transaction claims.
const CLAIMED_MAX: usize = 200;

/// What a worker says.
#[derive(Debug)]
pub(super) enum Said {
    Credits(usize),
    Answer(Attempt, Ending),
    Heartbeat(Attempt),
    Release(Attempt),
    /// Something about a task that is not as it must be.
    Wrong(String, Fault),
}

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Told {
    Task(Box<Task>),
    /// The token; the reason and its words, empty when all is well.
    Outcome(String, String, String),
}

type Tell = mpsc::Sender<Result<Told, Status>>;

/// One stream, while it stands.
pub(super) struct Worker {
    pub(super) activities: Activities,
    pub(super) caller: Caller,
    pub(super) place: Place,
    /// Who it is, for people.
    pub(super) name: String,
    /// When its token does.
    pub(super) ends_at: Option<Instant>,
}

impl Worker {
    /// Talks until the worker hangs up, its token ends or this process does; then says why.
    pub(super) async fn talk(self, said: impl Stream<Item = Result<Said, Status>>, tell: Tell) {
        let ended = self.talked(said, &tell).await;
        if let Err(why) = ended {
            // Nobody hears it when the worker is gone.
            let _ = tell.send(Err(why)).await;
        }
    }

    async fn talked(&self, said: impl Stream<Item = Result<Said, Status>>, tell: &Tell) -> Result<(), Status> {
        let mut said = pin!(said);
        let mut outcomes: FuturesUnordered<BoxFuture<'_, Option<Told>>> = FuturesUnordered::new();
        let mut claim: OptionFuture<BoxFuture<'_, Result<Vec<Task>, Error>>> = None.into();
        let (mut credits, mut waits, mut claims, mut listens) = (0, false, false, true);
        let draining = &self.activities.0.mesh.draining;
        while listens || !outcomes.is_empty() {
            if listens && credits > 0 && !waits && !claims {
                self.place.wait(credits);
                waits = true;
            }
            tokio::select! {
                message = said.next(), if listens && outcomes.len() < OPEN_MAX => match message.transpose()? {
                    Some(Said::Credits(more)) => credits = (credits + more).min(OPEN_MAX),
                    Some(message) => outcomes.push(self.hear(message).boxed()),
                    None => (listens, waits) = (false, false),
                },
                Some(outcome) = outcomes.next(), if !outcomes.is_empty() => {
                    if let Some(outcome) = outcome {
                        tell.send(Ok(outcome)).await.map_err(|_| gone())?;
                    }
                }
                queues = self.place.ready(), if waits => {
                    (waits, claims) = (false, true);
                    let queues: Vec<String> = queues.into_iter().collect();
                    claim = Some(self.claim(queues, credits).boxed()).into();
                }
                Some(tasks) = &mut claim, if claims => {
                    (claims, claim) = (false, None.into());
                    let tasks = tasks?;
                    credits -= tasks.len();
                    self.hand_out(tasks, tell).await?;
                }
                () = draining.cancelled() => return Err(Status::unavailable("this process stops: connect again")),
                () = expired(self.ends_at) => return Err(token_expired()),
            }
        }
        Ok(())
    }

    async fn claim(&self, queues: Vec<String>, credits: usize) -> Result<Vec<Task>, Error> {
        self.activities.admitted(self.caller.tenant_id()?).await?;
        let mut tasks: Vec<Task> = Vec::new();
        for queue in queues {
            let left = credits.min(CLAIMED_MAX).saturating_sub(tasks.len());
            if left == 0 {
                break;
            }
            tasks.extend(self.activities.claim(&self.caller, &queue, &self.name, left).await?);
        }
        Ok(tasks)
    }

    /// What does not reach the worker goes back at once.
    async fn hand_out(&self, tasks: Vec<Task>, tell: &Tell) -> Result<(), Status> {
        let attempts: Vec<Attempt> = tasks.iter().map(|task| task.attempt).collect();
        for (index, task) in tasks.into_iter().enumerate() {
            if tell.send(Ok(Told::Task(Box::new(task)))).await.is_err() {
                let _ = self.activities.release(&self.caller, &attempts[index..]).await;
                return Err(gone());
            }
        }
        Ok(())
    }

    async fn hear(&self, message: Said) -> Option<Told> {
        let (token, heard) = match message {
            Said::Credits(_) => return None,
            Said::Wrong(token, fault) => (token, Err(fault.into())),
            Said::Answer(attempt, ending) => {
                (attempt.to_token(), self.activities.answer(&self.caller, attempt, ending).await)
            }
            Said::Heartbeat(attempt) => {
                let alive = self.activities.heartbeat(&self.caller, &[attempt]).await;
                let stands = alive.and_then(|alive| if alive.is_empty() { Err(Error::AttemptOver) } else { Ok(()) });
                // Only bad news: most heartbeats are none.
                let bad = stands.err()?;
                (attempt.to_token(), Err(bad.into()))
            }
            Said::Release(attempt) => {
                let released = self.activities.release(&self.caller, &[attempt]).await;
                (attempt.to_token(), released.map_err(Status::from))
            }
        };
        Some(match heard {
            Ok(()) => Told::Outcome(token, String::new(), String::new()),
            Err(status) => {
                let reason = fault::reason(&status).unwrap_or_else(|| fault::code_name(status.code()).to_owned());
                Told::Outcome(token, reason, status.message().to_owned())
            }
        })
    }
}

async fn expired(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn gone() -> Status {
    Status::cancelled("the worker is gone")
}

fn token_expired() -> Status {
    Fault::new(Code::Unauthenticated, "TOKEN_EXPIRED", "the token has expired: connect again with a new one").into()
}
