//! Answers of streams in batches: what arrived during one commit goes into the next, a tenant at a time.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
};

use tenon_chassis::{Caller, TenantId, fail};
use tokio::sync::oneshot;
use tonic::Status;

use super::{
    Activities,
    model::{Attempt, Ending},
    store,
};
use crate::error::Error;

/// Answers that one transaction takes in.
const BATCH: usize = 500;

type Pending = ((Attempt, Ending), oneshot::Sender<Result<(), Status>>);

/// What waits for the commit before it, by tenant. A lane is there while somebody clears it.
#[derive(Default)]
pub(super) struct Lanes(Mutex<HashMap<TenantId, Vec<Pending>>>);

impl Lanes {
    /// Whether the lane has nobody yet who clears it.
    fn push(&self, tenant: TenantId, pending: Pending) -> bool {
        let mut lanes = self.0.lock().expect("no holder panics");
        match lanes.get_mut(&tenant) {
            Some(lane) => {
                lane.push(pending);
                false
            }
            None => {
                lanes.insert(tenant, vec![pending]);
                true
            }
        }
    }

    /// What has come together; `None` ends the lane.
    fn take(&self, tenant: TenantId) -> Option<Vec<Pending>> {
        let mut lanes = self.0.lock().expect("no holder panics");
        let lane = lanes.get_mut(&tenant)?;
        if lane.is_empty() {
            lanes.remove(&tenant);
            return None;
        }
        let count = lane.len().min(BATCH);
        Some(lane.drain(..count).collect())
    }
}

impl Activities {
    /// Answers an attempt, with others that come at the same time, and returns once that is on disk.
    pub(super) async fn answer(&self, caller: &Caller, attempt: Attempt, ending: Ending) -> Result<(), Status> {
        let (reply, answered) = oneshot::channel();
        let tenant = caller.tenant_id()?;
        if self.0.lanes.push(tenant, ((attempt, ending), reply)) {
            let (activities, caller) = (self.clone(), caller.clone());
            self.0.mesh.tasks.spawn(async move { activities.clear(tenant, &caller).await });
        }
        answered.await.unwrap_or_else(|_| Err(Status::unavailable("the process stops")))
    }

    async fn clear(&self, tenant: TenantId, caller: &Caller) {
        while let Some(batch) = self.0.lanes.take(tenant) {
            let (answers, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            match self.answer_all(caller, &answers).await {
                Ok(mut taken) => {
                    for ((attempt, _), reply) in answers.iter().zip(replies) {
                        // Who sends the same answer twice in one batch is told so as well.
                        let answer = if taken.remove(attempt) { Ok(()) } else { Err(Error::AttemptOver.into()) };
                        let _ = reply.send(answer);
                    }
                }
                Err(error) => {
                    let status = Status::from(error);
                    replies.into_iter().for_each(|reply| drop(reply.send(Err(status.clone()))));
                }
            }
        }
    }

    async fn answer_all(&self, caller: &Caller, answers: &[(Attempt, Ending)]) -> Result<HashSet<Attempt>, Error> {
        let mut tx = self.0.db.begin(caller).await?;
        let taken = store::delete_answered(&mut tx, answers).await?;
        fail::at("answers.commit.before").await?;
        tx.commit().await?;
        fail::at("answers.commit.after").await?;
        if !taken.is_empty() {
            self.0.waker.wake();
        }
        Ok(taken.into_iter().collect())
    }
}
