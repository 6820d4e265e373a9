//! Watches a run until it has ended.

use std::time::Duration;

use tenon_chassis::{Caller, Db, Mesh, TenantId};
use tokio::{
    sync::{broadcast::Receiver, mpsc::Sender},
    time::timeout,
};
use tonic::Status;

use super::{
    model::{HistoryEvent, Run, RunId},
    rpc::changed,
    store,
};
use crate::error::Error;

/// How often a run is looked at whose engine is another process's.
const LOOK: Duration = Duration::from_secs(1);
/// Events of one message.
const EVENTS: i64 = 1_000;

/// A run as it is now, and what has happened since the last look.
pub(super) struct Seen {
    pub(super) run: Run,
    pub(super) events: Vec<HistoryEvent>,
}

/// Somebody who watches.
pub(super) struct Watch {
    pub(super) db: Db,
    pub(super) mesh: Mesh,
    pub(super) caller: Caller,
    pub(super) id: RunId,
    /// The last event that was seen.
    pub(super) after: i64,
}

impl Watch {
    /// Tells of each change, the state as it is first, until the run has ended or nobody listens.
    pub(super) async fn run(
        mut self,
        mut changes: Receiver<(TenantId, RunId)>,
        told: &Sender<Result<Seen, Status>>,
    ) -> Result<(), Status> {
        let tenant = self.caller.tenant_id()?;
        let mut last = None;
        loop {
            // The call was admitted once; the tenant may have lost its standing since.
            self.mesh.directory.by_id(tenant).await?.admit(self.caller.method.allow_unpaid)?;
            let seen = self.look().await?;
            let now = (seen.run.state, seen.run.paused.clone());
            let (ended, full) = (seen.run.state.has_ended(), seen.events.len() >= usize::try_from(EVENTS).unwrap_or(0));
            if last.as_ref() != Some(&now) || !seen.events.is_empty() {
                last = Some(now);
                self.after = seen.events.last().map_or(self.after, |event| event.id);
                if told.send(Ok(seen)).await.is_err() {
                    return Ok(());
                }
            }
            if ended && !full {
                return Ok(());
            }
            if !full {
                tokio::select! {
                    () = told.closed() => return Ok(()),
                    _ = timeout(LOOK, changed(&mut changes, (tenant, self.id))) => {}
                }
            }
        }
    }

    async fn look(&self) -> Result<Seen, Status> {
        let mut tx = self.db.begin(&self.caller).await?;
        let run = store::get(&mut tx, self.id).await?.ok_or(Error::RunNotFound)?;
        let events = store::list_history(&mut tx, self.id, self.after, EVENTS).await?;
        tx.commit().await?;
        Ok(Seen { run, events })
    }
}
