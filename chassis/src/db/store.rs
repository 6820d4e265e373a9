//! The chassis' own statements, on schema mesh.

use chrono::{DateTime, Utc};
use sqlx::{Executor, PgPool, Postgres};
use uuid::Uuid;

use super::Error;
use crate::{SystemTx, bus::Event};

pub(crate) async fn ping(pool: &PgPool) -> Result<(), Error> {
    sqlx::query_scalar!("select 1").fetch_one(pool).await?;
    Ok(())
}

/// The answer that a key already has: (method, request hash, response). The transaction holds the key's lock.
pub(crate) async fn get_answer<'c>(
    db: impl Executor<'c, Database = Postgres>,
    tenant: Uuid,
    key: &str,
) -> Result<Option<(String, Vec<u8>, Vec<u8>)>, Error> {
    let row = sqlx::query!(
        "select method, request_hash, response from mesh.idempotency
         where tenant_id = $1 and owner = current_user and key = $2",
        tenant,
        key
    );
    Ok(row.fetch_optional(db).await?.map(|row| (row.method, row.request_hash, row.response)))
}

pub(crate) async fn insert_answer<'c>(
    db: impl Executor<'c, Database = Postgres>,
    tenant: Uuid,
    (key, method): (&str, &str),
    (request_hash, response): (&[u8], &[u8]),
) -> Result<(), Error> {
    sqlx::query!(
        "insert into mesh.idempotency (tenant_id, key, method, request_hash, response) values ($1, $2, $3, $4, $5)",
        tenant,
        key,
        method,
        request_hash,
        response
    )
    .execute(db)
    .await?;
    Ok(())
}

pub(crate) async fn insert_events<'c>(
    db: impl Executor<'c, Database = Postgres>,
    events: &[Event],
) -> Result<(), Error> {
    let tenants: Vec<Uuid> = events.iter().map(|event| event.tenant.uuid()).collect();
    let ids: Vec<Uuid> = events.iter().map(|event| event.id.uuid()).collect();
    let types: Vec<String> = events.iter().map(|event| event.kind.clone()).collect();
    let sources: Vec<String> = events.iter().map(|event| event.source.clone()).collect();
    let subjects: Vec<String> = events.iter().map(|event| event.subject.clone()).collect();
    let data: Vec<serde_json::Value> = events.iter().map(|event| event.data.clone()).collect();
    let parents: Vec<Option<String>> = events.iter().map(|event| event.traceparent.clone()).collect();
    let times: Vec<DateTime<Utc>> = events.iter().map(|event| event.time).collect();
    sqlx::query!(
        "insert into mesh.outbox (tenant_id, id, type, source, subject, data, traceparent, time)
         select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::text[],
                              $8::timestamptz[])",
        &tenants,
        &ids,
        &types,
        &sources,
        &subjects,
        &data,
        &parents as &[Option<String>],
        &times
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Where a consumer has come to in the outbox: (xid, seq).
pub(crate) type Position = (i64, i64);

pub(crate) async fn insert_cursor<'c>(db: impl Executor<'c, Database = Postgres>, consumer: &str) -> Result<(), Error> {
    sqlx::query!("insert into mesh.cursors (consumer) values ($1) on conflict do nothing", consumer)
        .execute(db)
        .await?;
    Ok(())
}

/// The consumer's position, held until the transaction ends; `None` while another replica holds it.
pub(crate) async fn claim_cursor<'c>(
    db: impl Executor<'c, Database = Postgres>,
    consumer: &str,
) -> Result<Option<Position>, Error> {
    let row = sqlx::query!("select xid, seq from mesh.cursors where consumer = $1 for update skip locked", consumer);
    Ok(row.fetch_optional(db).await?.map(|row| (row.xid, row.seq)))
}

pub(crate) async fn get_cursor<'c>(
    db: impl Executor<'c, Database = Postgres>,
    consumer: &str,
) -> Result<Option<Position>, Error> {
    let row = sqlx::query!("select xid, seq from mesh.cursors where consumer = $1", consumer);
    Ok(row.fetch_optional(db).await?.map(|row| (row.xid, row.seq)))
}

/// Moves the position on, unless another replica has.
pub(crate) async fn update_cursor<'c>(
    db: impl Executor<'c, Database = Postgres>,
    consumer: &str,
    (from, to): (Position, Position),
) -> Result<(), Error> {
    sqlx::query!(
        "update mesh.cursors set xid = $2, seq = $3 where consumer = $1 and xid = $4 and seq = $5",
        consumer,
        to.0,
        to.1,
        from.0,
        from.1
    )
    .execute(db)
    .await?;
    Ok(())
}

/// A look at the outbox.
pub(crate) struct Page {
    /// What was asked for, in commit order.
    pub(crate) events: Vec<Event>,
    /// The last row that was looked at, asked for or not.
    pub(crate) last: Option<Position>,
    /// Rows that were looked at.
    pub(crate) looked: i64,
    /// The transaction before which none is open any more.
    pub(crate) horizon: i64,
}

struct Row {
    tenant_id: Uuid,
    xid: i64,
    seq: i64,
    id: Uuid,
    kind: String,
    source: String,
    subject: String,
    data: serde_json::Value,
    traceparent: Option<String>,
    time: DateTime<Utc>,
    is_wanted: bool,
    looked: i64,
}

/// The events among the next `limit` rows after a position: only those older than every transaction that is still open,
/// so that none can appear behind the position later. An empty `types` is all; an empty `source` is all.
pub(crate) async fn list_events(
    tx: &mut SystemTx,
    after: Position,
    (types, source): (&[String], &str),
    limit: i64,
) -> Result<Page, Error> {
    // A planner that does not know how many rows there are would sort all that are left, for each page of them.
    let horizon = sqlx::query_scalar!(
        r#"select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as "xmin!"
           from set_config('enable_sort', 'off', true)"#
    );
    let horizon = horizon.fetch_one(&mut *tx).await?;
    let rows = sqlx::query_as!(
        Row,
        r#"select tenant_id, xid, seq, id, type as kind, source, subject, data, traceparent, time,
                  is_wanted as "is_wanted!", looked as "looked!"
           from (select page.*, row_number() over () as at, count(*) over () as looked,
                        (cardinality($3::text[]) = 0 or type = any($3)) and ($4 = '' or source = $4) as is_wanted
                 from (select * from mesh.outbox where (xid, seq) > ($1, $2) and xid < $6
                       order by xid, seq limit $5) as page) as seen
           where is_wanted or at = looked"#,
        after.0,
        after.1,
        types,
        source,
        limit,
        horizon
    );
    let mut rows = rows.fetch_all(&mut *tx).await?;
    if !rows.is_empty() {
        sqlx::query!("set local enable_sort to default").execute(&mut *tx).await?;
    }
    rows.sort_unstable_by_key(|row| (row.xid, row.seq));
    let (last, looked) = rows.last().map(|row| ((row.xid, row.seq), row.looked)).unzip();
    let event = |row: Row| {
        let Row { tenant_id, id, kind, source, subject, data, traceparent, time, .. } = row;
        Event { id: id.into(), tenant: tenant_id.into(), kind, source, subject, data, traceparent, time }
    };
    let events = rows.into_iter().filter(|row| row.is_wanted).map(event).collect();
    Ok(Page { events, last, looked: looked.unwrap_or_default(), horizon })
}

/// Marks events as seen by a consumer; returns those that it sees for the first time.
pub(crate) async fn insert_seen<'c>(
    db: impl Executor<'c, Database = Postgres>,
    consumer: &str,
    events: &[Event],
) -> Result<Vec<Uuid>, Error> {
    let tenants: Vec<Uuid> = events.iter().map(|event| event.tenant.uuid()).collect();
    let ids: Vec<Uuid> = events.iter().map(|event| event.id.uuid()).collect();
    let fresh = sqlx::query_scalar!(
        "insert into mesh.inbox (tenant_id, consumer, event_id)
         select t, $1, e from unnest($2::uuid[], $3::uuid[]) as u(t, e) on conflict do nothing returning event_id",
        consumer,
        &tenants,
        &ids
    );
    Ok(fresh.fetch_all(db).await?)
}

pub(crate) async fn notify<'c>(
    db: impl Executor<'c, Database = Postgres>,
    channel: &str,
    payload: &str,
) -> Result<(), Error> {
    sqlx::query!("select pg_notify($1, $2)", channel, payload).execute(db).await?;
    Ok(())
}
