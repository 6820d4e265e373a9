//! NATS JetStream as the bus: CloudEvents in binary mode, deduplicated by Nats-Msg-Id and by the consumer's inbox.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{self, Context, consumer::PullConsumer, stream},
};
use chrono::DateTime;
use futures::{StreamExt, future::try_join_all};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{BACKOFF, BATCH, Consumer, Event, advance, handle};
use crate::{
    db::{Db, Error, store},
    fail, telemetry,
};

const STREAM: &str = "TENON_EVENTS";
/// Events are kept this long for a consumer that was away.
const KEEP: Duration = Duration::from_secs(7 * 24 * 3_600);
/// JetStream drops a message id that it saw within this time; the inbox catches what comes later.
const DEDUPLICATE: Duration = Duration::from_secs(120);
/// What a consumer that died had pulled comes again after this; to one that is only slow it comes twice, which the inbox
/// makes once.
const ACK_WAIT: Duration = Duration::from_secs(5);

/// A connection to JetStream, its stream made.
#[derive(Clone)]
pub struct JetStream {
    context: Context,
}

/// Why JetStream cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("NATS JetStream at {url} cannot be used: {why}; is nats-server started with -js?")]
pub struct ConnectError {
    url: String,
    why: String,
}

impl JetStream {
    /// Connects and makes the stream `TENON_EVENTS` if it is not there.
    ///
    /// # Errors
    /// When the server does not answer, or has JetStream off.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        let error = |why: &dyn std::fmt::Display| ConnectError { url: url.to_owned(), why: why.to_string() };
        let client = async_nats::ConnectOptions::new().connect(url).await.map_err(|why| error(&why))?;
        let context = jetstream::new(client);
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["tenon.>".to_owned()],
            max_age: KEEP,
            duplicate_window: DEDUPLICATE,
            ..stream::Config::default()
        };
        context.get_or_create_stream(config).await.map_err(|why| error(&why))?;
        Ok(Self { context })
    }
}

/// Publishes a batch of a service's outbox; true when there may be more at once. No transaction is open meanwhile: two
/// relays at once publish twice, which the message id makes once.
pub(super) async fn relay_batch(db: &Db, stream: &JetStream, name: &str) -> Result<bool, Error> {
    let mut tx = db.system().await?;
    let Some(position) = store::get_cursor(&mut tx, name).await? else {
        store::insert_cursor(&mut tx, name).await?;
        tx.commit().await?;
        return Ok(true);
    };
    let page = store::list_events(&mut tx, position, (&[], db.service), BATCH).await?;
    tx.commit().await?;
    let (next, full) = advance(position, &page, BATCH);
    let Some(next) = next else { return Ok(false) };
    fail::at("relay.publish.before").await?;
    // Sent in order, acknowledged together.
    let mut acks = Vec::with_capacity(page.events.len());
    for event in &page.events {
        let payload = serde_json::to_vec(&event.data).expect("a JSON value is JSON");
        let sent = stream.context.publish_with_headers(subject(&event.kind), headers(event), payload.into()).await;
        acks.push(sent.map_err(broker)?.into_future());
    }
    try_join_all(acks).await.map_err(broker)?;
    fail::at("relay.publish.after").await?;
    let mut tx = db.system().await?;
    store::update_cursor(&mut tx, name, (position, next)).await?;
    tx.commit().await?;
    fail::at("relay.commit.after").await?;
    Ok(full)
}

/// The subject of a type. Tenants' own types have one below the stream's too.
fn subject(kind: &str) -> String {
    if kind.starts_with("tenon.") { kind.to_owned() } else { format!("tenon.custom.{kind}") }
}

fn broker(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Sql(sqlx::Error::Io(std::io::Error::other(error)))
}

/// CloudEvents NATS protocol binding, binary content mode; `tenantid` is an extension attribute.
fn headers(event: &Event) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", event.id.to_string());
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-id", event.id.to_string());
    headers.insert("ce-type", event.kind.as_str());
    headers.insert("ce-source", event.source.as_str());
    headers.insert("ce-subject", event.subject.as_str());
    headers.insert("ce-time", event.time.to_rfc3339());
    headers.insert("ce-tenantid", event.tenant.to_string());
    headers.insert("content-type", "application/json");
    if let Some(parent) = &event.traceparent {
        headers.insert("traceparent", parent.as_str());
    }
    headers
}

fn event(message: &async_nats::Message) -> Option<Event> {
    let headers = message.headers.as_ref()?;
    let text = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    Some(Event {
        id: text("ce-id")?.parse().ok()?,
        tenant: text("ce-tenantid")?.parse().ok()?,
        kind: text("ce-type")?,
        source: text("ce-source")?,
        subject: text("ce-subject")?,
        data: serde_json::from_slice(&message.payload).ok()?,
        traceparent: text("traceparent"),
        time: DateTime::parse_from_rfc3339(&text("ce-time")?).ok()?.to_utc(),
    })
}

/// Pulls, handles in one transaction, acknowledges after its commit.
pub(super) async fn consume(db: Db, stream: JetStream, consumer: Consumer, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let result = stop.run_until_cancelled(follow(&db, &stream, &consumer).instrument(telemetry::quiet())).await;
        if let Some(Err(error)) = result {
            tracing::warn!(consumer = consumer.name, error, "events were not handled; they come again");
        }
        stop.run_until_cancelled(tokio::time::sleep(BACKOFF)).await;
    }
}

async fn follow(db: &Db, stream: &JetStream, consumer: &Consumer) -> Result<(), String> {
    let name = consumer.name.replace('.', "_");
    let config = jetstream::consumer::pull::Config {
        durable_name: Some(name.clone()),
        // Server 2.9 takes one filter: with several types all come, and the others are skipped here.
        filter_subject: if let [only] = consumer.types { (*only).to_owned() } else { String::new() },
        ack_wait: ACK_WAIT,
        ..jetstream::consumer::pull::Config::default()
    };
    let found = stream.context.get_stream(STREAM).await.map_err(|error| error.to_string())?;
    let pull: PullConsumer = found.get_or_create_consumer(&name, config).await.map_err(|error| error.to_string())?;
    let most = usize::try_from(BATCH).unwrap_or(usize::MAX);
    let messages = pull.stream().max_messages_per_batch(most).messages().await.map_err(|error| error.to_string())?;
    let mut chunks = messages.ready_chunks(most);
    while let Some(chunk) = chunks.next().await {
        let messages = chunk.into_iter().collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        // What is not an event of ours is acknowledged and dropped: it would come for ever.
        let events = messages.iter().filter_map(|message| event(message));
        let asked = |event: &Event| consumer.types.is_empty() || consumer.types.contains(&event.kind.as_str());
        let events: Vec<Event> = events.filter(asked).collect();
        let mut tx = db.system().await.map_err(|error| error.to_string())?;
        handle(&mut tx, consumer, events).await.map_err(|error| format!("{error:?}"))?;
        fail::at("consume.commit.before").await.map_err(|fault| fault.message)?;
        tx.commit().await.map_err(|error| error.to_string())?;
        fail::at("consume.commit.after").await.map_err(|fault| fault.message)?;
        for message in messages {
            message.ack().await.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}
