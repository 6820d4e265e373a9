//! Which queues have workers at this process, told to the database: so any process can say that a queue has none.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tenon_chassis::{Db, TenantId};
use tokio::time::Instant;
use uuid::Uuid;

use super::store;
use crate::error::Error;

/// How long what is told holds, and how old it gets at most while the process can tell.
const LEASE: Duration = Duration::from_secs(30);
const RENEWED: Duration = Duration::from_secs(10);

/// A queue of a tenant.
pub(super) type Queue = (TenantId, String);

/// What this process has told of its workers.
pub(super) struct Presence {
    process: Uuid,
    told: HashMap<Queue, Instant>,
}

impl Presence {
    pub(super) fn new(process: Uuid) -> Self {
        Self { process, told: HashMap::new() }
    }

    /// Tells what has changed, and now and then what has not.
    pub(super) async fn tell(&mut self, db: &Db, now: Instant, here: &BTreeSet<Queue>) -> Result<(), Error> {
        let (come, gone) = self.changes(now, here);
        if come.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let mut tx = db.system().await?;
        store::upsert_workers(&mut tx, self.process, &come, LEASE).await?;
        store::delete_workers(&mut tx, self.process, &gone).await?;
        tx.commit().await?;
        self.told.extend(come.into_iter().map(|queue| (queue, now)));
        self.told.retain(|queue, _| !gone.contains(queue));
        Ok(())
    }

    /// What has to be told, and taken back. Once one has to be told again, what soon has to be is told with it.
    fn changes(&self, now: Instant, here: &BTreeSet<Queue>) -> (Vec<Queue>, Vec<Queue>) {
        let older_than = |queue: &Queue, age: Duration| self.told.get(queue).is_none_or(|at| now - *at >= age);
        let is_due = here.iter().any(|queue| older_than(queue, RENEWED));
        let come = here.iter().filter(|queue| is_due && older_than(queue, RENEWED / 2)).cloned().collect();
        (come, self.told.keys().filter(|queue| !here.contains(*queue)).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_is_told_again_before_it_is_forgotten_and_all_at_once() {
        let (start, tenant) = (Instant::now(), TenantId::from(Uuid::nil()));
        let queue = |name: &str| (tenant, name.to_owned());
        let here = BTreeSet::from([queue("a"), queue("b")]);
        let told = HashMap::from([(queue("a"), start), (queue("b"), start + RENEWED / 2), (queue("c"), start)]);
        let presence = Presence { process: Uuid::nil(), told };
        assert_eq!(presence.changes(start + RENEWED / 2, &here), (vec![], vec![queue("c")]));
        assert_eq!(presence.changes(start + RENEWED, &here), (vec![queue("a"), queue("b")], vec![queue("c")]));
        let new = BTreeSet::from([queue("a"), queue("b"), queue("c"), queue("d")]);
        assert_eq!(presence.changes(start, &new), (vec![queue("d")], vec![]));
    }
}
