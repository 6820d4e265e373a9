//! Counts the use that other services record in the transactions of their own changes.

use std::sync::Arc;

use futures::future::BoxFuture;
use tenon_chassis::{
    SystemTx,
    bus::{Consumer, Event, Handle, USAGE_RECORDED},
    db,
};

use super::{model::UsageEvent, store};

pub(crate) fn consumer() -> Consumer {
    Consumer { name: "billing.usage", types: &[USAGE_RECORDED], handler: Arc::new(Count) }
}

struct Count;

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
            store::insert(tx, &usage).await?;
            Ok(())
        })
    }
}
