//! The chassis' own statements, on schema mesh.

use chrono::{DateTime, Utc};
use sqlx::{Executor, PgPool, Postgres};
use uuid::Uuid;

use super::Error;
use crate::bus::Event;

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

/// The transaction before which none is open any more.
pub(crate) async fn get_horizon<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<i64, Error> {
    let horizon = sqlx::query_scalar!(r#"select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as "xmin!""#);
    Ok(horizon.fetch_one(db).await?)
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
}

/// The events after a position, in commit order: only those older than every transaction that is still open, so that
/// none can appear behind the position later. An empty `types` is all; an empty `source` is all.
pub(crate) async fn list_events<'c>(
    db: impl Executor<'c, Database = Postgres>,
    after: Position,
    (types, source): (&[String], &str),
    limit: i64,
) -> Result<Vec<(Position, Event)>, Error> {
    let rows = sqlx::query_as!(
        Row,
        "select tenant_id, xid, seq, id, type as kind, source, subject, data, traceparent, time from mesh.outbox
         where (xid, seq) > ($1, $2) and xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
           and (cardinality($3::text[]) = 0 or type = any($3)) and ($4 = '' or source = $4)
         order by xid, seq limit $5",
        after.0,
        after.1,
        types,
        source,
        limit
    )
    .fetch_all(db)
    .await?;
    let event = |row: Row| {
        let Row { tenant_id, xid, seq, id, kind, source, subject, data, traceparent, time } = row;
        let (tenant, id) = (tenant_id.into(), id.into());
        ((xid, seq), Event { id, tenant, kind, source, subject, data, traceparent, time })
    };
    Ok(rows.into_iter().map(event).collect())
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
