//! The statements that delete what is past its use: events, what was seen of them, answers kept under keys.

use chrono::{DateTime, Utc};
use tenon_chassis::SystemTx;

use crate::error::Error;

/// Deletes the oldest events that are older than `read` and that every consumer has passed, and those older than
/// `unread` in any case: a consumer that is no more must not keep them for ever. How many.
pub(super) async fn delete_events(
    tx: &mut SystemTx,
    (read, unread): (DateTime<Utc>, DateTime<Utc>),
    limit: i64,
) -> Result<u64, Error> {
    // In the order of the index: what comes first is oldest, but for what was written for long.
    let deleted = sqlx::query!(
        "delete from mesh.outbox o using (
             select tenant_id, seq from (
                 select tenant_id, seq, xid, time from mesh.outbox order by xid, outbox.seq limit $3) as oldest
             where time < $2 or time < $1 and xid < (select min(c.xid) from mesh.cursors c)) as old
         where o.tenant_id = old.tenant_id and o.seq = old.seq",
        read,
        unread,
        limit
    );
    Ok(deleted.execute(tx).await?.rows_affected())
}

/// Forgets that events were seen which do not come again; how many.
pub(super) async fn delete_seen(tx: &mut SystemTx, before: DateTime<Utc>, limit: i64) -> Result<u64, Error> {
    let deleted = sqlx::query!(
        "delete from mesh.inbox i using (
             select tenant_id, consumer, event_id from mesh.inbox where seen_at < $1 limit $2) as old
         where i.tenant_id = old.tenant_id and i.consumer = old.consumer and i.event_id = old.event_id",
        before,
        limit
    );
    Ok(deleted.execute(tx).await?.rows_affected())
}

/// Forgets the answers to requests that are not repeated any more; how many.
pub(super) async fn delete_answers(tx: &mut SystemTx, before: DateTime<Utc>, limit: i64) -> Result<u64, Error> {
    let deleted = sqlx::query!(
        "delete from mesh.idempotency i using (
             select tenant_id, owner, key from mesh.idempotency where created_at < $1 limit $2) as old
         where i.tenant_id = old.tenant_id and i.owner = old.owner and i.key = old.key",
        before,
        limit
    );
    Ok(deleted.execute(tx).await?.rows_affected())
}
