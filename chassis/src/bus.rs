//! The bus: events that committed with their change, handed to consumers once each, by the outbox itself or JetStream.

mod jetstream;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use tokio::sync::broadcast::{
    Receiver,
    error::{RecvError, TryRecvError},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    Clock, EventId, SystemTx, TenantId,
    db::{
        Db, Error,
        store::{self, Page, Position},
    },
    fail,
    pulse::Beat,
    telemetry,
};
pub use jetstream::{ConnectError as JetStreamError, JetStream};

/// The type of the event that carries use of a meter: `{"meter": "workflow_runs", "quantity": 1}`.
pub const USAGE_RECORDED: &str = "tenon.usage.recorded.v1";
/// The channel that wakes consumers.
pub const CHANNEL: &str = "tenon_bus";
/// Rows of the outbox that are looked at, and events that are handled in one transaction, at most.
const BATCH: i64 = 500;
/// The same for a reader of some types, for whom most rows are not.
const BATCH_OF_SOME: i64 = 2_000;
/// A reader that finds nothing for it moves on past so many rows, or transactions: each move is one itself.
const FAR: i64 = 500;
const FAR_BACK: i64 = 1_000;
/// How long a reader that is told of events waits for more of them: a look costs the same for one as for many.
const GATHER: Duration = Duration::from_millis(20);
/// How long a consumer sleeps when no beat wakes it.
const IDLE: Duration = Duration::from_secs(1);
/// How long it waits after an error.
const BACKOFF: Duration = Duration::from_millis(500);

/// A fact, with the attributes of CloudEvents 1.0.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: EventId,
    pub tenant: TenantId,
    /// The CloudEvents `type`, `tenon.workflow.run.created.v1`.
    pub kind: String,
    /// The service that it comes from.
    pub source: String,
    /// What it is about, a resource name.
    pub subject: String,
    pub data: serde_json::Value,
    pub traceparent: Option<String>,
    pub time: DateTime<Utc>,
}

impl Event {
    /// A new event of the current trace.
    #[must_use]
    pub fn new(
        clock: &Clock,
        source: &str,
        tenant: TenantId,
        (kind, subject): (&str, String),
        data: serde_json::Value,
    ) -> Self {
        let (id, time, traceparent) = (EventId::new(clock), clock.now(), telemetry::traceparent());
        Self { id, tenant, kind: kind.to_owned(), source: source.to_owned(), subject, data, traceparent, time }
    }
}

/// Where events travel.
#[derive(Clone)]
pub enum Bus {
    /// Consumers read the outbox table.
    Outbox,
    /// A relay publishes the outbox; consumers are durable JetStream consumers.
    JetStream(Box<JetStream>),
}

/// Handles events in a transaction that also remembers that they were handled.
pub trait Handle: Send + Sync + 'static {
    /// Those of some events that are to be handled, and so to be remembered. All, unless the handler says else.
    fn wanted<'a>(&'a self, tx: &'a mut SystemTx, events: Vec<Event>) -> BoxFuture<'a, Result<Vec<Event>, Error>> {
        let _ = tx;
        Box::pin(async move { Ok(events) })
    }

    /// `events` come in commit order per source and each exactly once. An error rolls all of them back and they come
    /// again: return one only for what may pass.
    fn handle<'a>(&'a self, tx: &'a mut SystemTx, events: &'a [Event]) -> BoxFuture<'a, Result<(), Error>>;
}

/// A named reader of some types of events.
#[derive(Clone)]
pub struct Consumer {
    /// Unique over the mesh, `billing.usage`.
    pub name: &'static str,
    /// The types that it reads; none is all.
    pub types: &'static [&'static str],
    pub handler: Arc<dyn Handle>,
}

impl Bus {
    /// Publishes a service's outbox where the bus is not the outbox itself, until stopped.
    pub async fn relay(self, db: Db, stop: CancellationToken) {
        let Self::JetStream(stream) = self else { return };
        let mut beats = db.pulse().subscribe();
        let name = format!("relay.{}", db.service);
        while !stop.is_cancelled() {
            let sent = stop
                .run_until_cancelled(jetstream::relay_batch(&db, &stream, &name).instrument(telemetry::quiet()))
                .await;
            pause(sent, &name, &mut beats, &stop).await;
        }
    }

    /// Runs a consumer until stopped. Any number of replicas may; one at a time handles.
    pub async fn consume(self, db: Db, consumer: Consumer, stop: CancellationToken) {
        match self {
            Self::Outbox => {
                let mut beats = db.pulse().subscribe();
                while !stop.is_cancelled() {
                    let handled =
                        stop.run_until_cancelled(outbox_batch(&db, &consumer).instrument(telemetry::quiet())).await;
                    pause(handled, consumer.name, &mut beats, &stop).await;
                }
            }
            Self::JetStream(stream) => jetstream::consume(db, *stream, consumer, stop).await,
        }
    }
}

/// Goes on at once after a full batch, on a beat after the last one, and later after an error.
async fn pause(result: Option<Result<bool, Error>>, name: &str, beats: &mut Receiver<Beat>, stop: &CancellationToken) {
    match result {
        Some(Ok(true)) | None => {}
        Some(Ok(false)) => {
            let gathered = async {
                if tokio::time::timeout(IDLE, woken(beats)).await.is_ok() {
                    tokio::time::sleep(GATHER).await;
                    // What was told until now is seen by the look that follows.
                    while !matches!(beats.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
                }
            };
            stop.run_until_cancelled(gathered).await;
        }
        Some(Err(error)) => {
            tracing::warn!(consumer = name, error = ?error, "events were not handled; they come again");
            stop.run_until_cancelled(tokio::time::sleep(BACKOFF)).await;
        }
    }
}

async fn woken(beats: &mut Receiver<Beat>) {
    loop {
        match beats.recv().await {
            Ok(Beat::Notified { channel, .. }) if channel != CHANNEL => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Where a reader stands after a look, if it has moved, and whether there may be more at once. What is older than the
/// horizon, and not for this reader, need not be looked at again.
fn advance(from: Position, page: &Page, most: i64) -> (Option<Position>, bool) {
    let (full, has_moved) = (page.looked == most, !page.events.is_empty() || page.looked >= FAR);
    let passed = (!full && page.horizon - from.0 > FAR_BACK).then_some((page.horizon - 1, i64::MAX));
    (page.last.filter(|_| has_moved).max(passed), full)
}

/// Handles one batch; true when there may be more at once.
async fn outbox_batch(db: &Db, consumer: &Consumer) -> Result<bool, Error> {
    let mut tx = db.system().await?;
    let Some(position) = store::claim_cursor(&mut tx, consumer.name).await? else {
        // Not there yet, or another replica is at it.
        store::insert_cursor(&mut tx, consumer.name).await?;
        tx.commit().await?;
        return Ok(false);
    };
    let types: Vec<String> = consumer.types.iter().map(|kind| (*kind).to_owned()).collect();
    let most = if types.is_empty() { BATCH } else { BATCH_OF_SOME };
    let page = store::list_events(&mut tx, position, (&types, ""), most).await?;
    let (next, full) = advance(position, &page, most);
    let Some(next) = next else { return Ok(false) };
    handle(&mut tx, consumer, page.events).await?;
    store::update_cursor(&mut tx, consumer.name, (position, next)).await?;
    fail::at("consume.commit.before").await?;
    tx.commit().await?;
    fail::at("consume.commit.after").await?;
    Ok(full)
}

/// Hands over the events that the consumer has not seen. They join the trace of the first.
async fn handle(tx: &mut SystemTx, consumer: &Consumer, events: Vec<Event>) -> Result<(), Error> {
    let events = consumer.handler.wanted(&mut *tx, events).await?;
    if events.is_empty() {
        return Ok(());
    }
    let fresh = store::insert_seen(&mut *tx, consumer.name, &events).await?;
    let events: Vec<Event> = events.into_iter().filter(|event| fresh.contains(&event.id.uuid())).collect();
    let Some(first) = events.first() else { return Ok(()) };
    let span = tracing::info_span!(
        "consume",
        otel.name = consumer.name,
        otel.kind = "consumer",
        tenon.part = consumer.name.split('.').next(),
        messaging.batch.message_count = events.len()
    );
    if let Some(parent) = &first.traceparent {
        telemetry::set_parent(&span, parent);
    }
    consumer.handler.handle(tx, &events).instrument(span).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_passes_what_is_not_for_it_in_strides() {
        let look = |looked, horizon| {
            let page = Page { events: Vec::new(), last: (looked > 0).then_some((7, 8)), looked, horizon };
            advance((5, 6), &page, BATCH_OF_SOME)
        };
        assert_eq!(look(0, 10), (None, false));
        assert_eq!(look(FAR - 1, 10), (None, false), "each move is a transaction");
        assert_eq!(look(FAR, 10), (Some((7, 8)), false));
        assert_eq!(look(BATCH_OF_SOME, 2_000), (Some((7, 8)), true));
        assert_eq!(look(1, 2_000), (Some((1_999, i64::MAX)), false), "what it has passed can be deleted");
    }
}
