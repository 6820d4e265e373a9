//! Activities: tasks that workers claim, work on and answer, each attempt at most once.

mod answers;
mod hub;
pub mod model;
mod presence;
mod rpc;
mod store;
mod worker;

use std::sync::Arc;

use tenon_chassis::{Caller, Db, Mesh, TenantId, fail};

use crate::{engine::Waker, error::Error};
use hub::Hub;
use model::{Attempt, Task};

/// Hands tasks to workers and takes their answers.
#[derive(Clone)]
pub struct Activities(Arc<Shared>);

struct Shared {
    mesh: Mesh,
    db: Db,
    waker: Arc<Waker>,
    hub: Hub,
    lanes: answers::Lanes,
}

impl Activities {
    #[must_use]
    pub fn new(mesh: Mesh, db: Db, waker: Arc<Waker>) -> Self {
        Self(Arc::new(Shared { mesh, db, waker, hub: Hub::default(), lanes: answers::Lanes::default() }))
    }

    /// Claims tasks of one queue, oldest first. A claim is the first sign of life.
    async fn claim(&self, caller: &Caller, queue: &str, worker: &str, limit: usize) -> Result<Vec<Task>, Error> {
        let mut tx = self.0.db.begin(caller).await?;
        let tasks = store::claim(&mut tx, queue, worker, i64::try_from(limit).unwrap_or(i64::MAX)).await?;
        fail::at("tasks.commit.before").await?;
        tx.commit().await?;
        fail::at("tasks.commit.after").await?;
        let watched: Vec<Attempt> = tasks.iter().filter(|task| task.is_watched).map(|task| task.attempt).collect();
        if !watched.is_empty() {
            self.heartbeat(caller, &watched).await?;
        }
        Ok(tasks)
    }

    /// Renews the leases of claims, and tells runs whose states have HeartbeatSeconds. Answers with those that still stand.
    async fn heartbeat(&self, caller: &Caller, attempts: &[Attempt]) -> Result<Vec<Attempt>, Error> {
        let mut tx = self.0.db.begin(caller).await?;
        let (alive, told) = store::update_leases(&mut tx, attempts).await?;
        tx.commit().await?;
        if told {
            self.0.waker.wake();
        }
        Ok(alive)
    }

    /// Gives tasks back, so that other workers get them at once.
    async fn release(&self, caller: &Caller, attempts: &[Attempt]) -> Result<(), Error> {
        let mut tx = self.0.db.begin(caller).await?;
        store::release(&mut tx, attempts).await?;
        tx.commit().await?;
        self.0.waker.opened();
        Ok(())
    }

    /// Refuses a tenant that is not in good standing any more: streams outlive the moment in which they were admitted.
    async fn admitted(&self, tenant: TenantId) -> Result<(), Error> {
        let known = self.0.mesh.directory.by_id(tenant).await?;
        Ok(known.admit(false)?)
    }
}
