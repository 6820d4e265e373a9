//! Counts the use that other services record in the transactions of their own changes.

use std::sync::Arc;

use futures::future::BoxFuture;
use tenon_chassis::{
    Clock, SystemTx,
    bus::{Consumer, Event, Handle, USAGE_RECORDED},
    db,
};

use super::{model::UsageEvent, store};
use crate::{error::Error, quotas};

pub(crate) fn consumer(clock: Clock) -> Consumer {
    Consumer { name: "billing.usage", types: &[USAGE_RECORDED], handler: Arc::new(Count { clock }) }
}

struct Count {
    clock: Clock,
}

impl Handle for Count {
    fn handle<'a>(&'a self, tx: &'a mut SystemTx, events: &'a [Event]) -> BoxFuture<'a, Result<(), db::Error>> {
        Box::pin(async move {
            let mut usage = Vec::with_capacity(events.len());
            for event in events {
                match UsageEvent::from_bus(event) {
                    Some(use_of) => usage.push((event.tenant, use_of)),
                    None => tracing::error!(event.id = %event.id, "usage event is malformed and is not counted"),
                }
            }
            let counted = store::insert(&mut *tx, &usage).await?;
            let changes = quotas::count(tx, &counted, self.clock.now()).await.map_err(as_db)?;
            tx.emit(&quotas::events(&changes, &self.clock)).await
        })
    }
}

/// What the database said; nothing else can go wrong here.
fn as_db(error: Error) -> db::Error {
    match error {
        Error::Db(error) => error,
        other => db::Error::Refused(tenon_chassis::Fault::internal(&other)),
    }
}
