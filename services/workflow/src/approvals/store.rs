//! The statements on tasks that wait for people.

use chrono::{DateTime, Utc};
use serde_json::Value;
use tenon_chassis::{SystemTx, TenantId, TenantTx};
use uuid::Uuid;

use super::{
    desk::{TRIES, pause},
    model::{Approval, Asked, Name},
};
use crate::error::Error;

/// Rows of one look.
const BATCH: i64 = 50;

struct Row {
    run_id: Uuid,
    token: i64,
    arguments: Value,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
}

impl Row {
    /// `None` for one whose Arguments are none: it is about to be failed.
    fn read(self) -> Option<Approval> {
        let name = name(self.run_id, self.token);
        let asked = Asked::parse(&self.arguments).ok()?;
        Some(Approval { name, asked, created_at: self.created_at, expires_at: self.expires_at })
    }
}

fn name(run: Uuid, token: i64) -> Name {
    Name { run: run.into(), token: u64::try_from(token).unwrap_or_default() }
}

fn token(name: Name) -> i64 {
    i64::try_from(name.token).unwrap_or(-1)
}

pub(super) async fn get(tx: &mut TenantTx, name: Name) -> Result<Option<Approval>, Error> {
    let row = sqlx::query_as!(
        Row,
        "select run_id, token, arguments, created_at, expires_at from workflow.tasks
         where tenant_id = $1 and run_id = $2 and token = $3 and kind = 'approval'",
        tx.tenant().uuid(),
        name.run.uuid(),
        token(name)
    );
    Ok(row.fetch_optional(tx).await?.and_then(Row::read))
}

/// Those after `after`, by run and token: the keys, and what is asked where it can be read.
pub(super) async fn list(
    tx: &mut TenantTx,
    after: Option<(Uuid, i64)>,
    limit: i64,
) -> Result<Vec<((Uuid, i64), Option<Approval>)>, Error> {
    let (run, token) = after.unwrap_or((Uuid::nil(), -1));
    let rows = sqlx::query_as!(
        Row,
        "select run_id, token, arguments, created_at, expires_at from workflow.tasks
         where tenant_id = $1 and kind = 'approval' and (run_id, token) > ($2, $3)
         order by run_id, token limit $4",
        tx.tenant().uuid(),
        run,
        token,
        limit
    );
    let rows = rows.fetch_all(tx).await?.into_iter();
    Ok(rows.map(|row| ((row.run_id, row.token), row.read())).collect())
}

/// Whether it was there: who deletes it has decided.
pub(super) async fn delete(tx: &mut TenantTx, name: Name) -> Result<bool, Error> {
    let deleted = sqlx::query!(
        "delete from workflow.tasks where tenant_id = $1 and run_id = $2 and token = $3 and kind = 'approval'",
        tx.tenant().uuid(),
        name.run.uuid(),
        token(name)
    );
    Ok(deleted.execute(tx).await?.rows_affected() > 0)
}

pub(super) async fn update_notified(tx: &mut TenantTx, name: Name) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.tasks set notified_at = now(), notify_after = null
         where tenant_id = $1 and run_id = $2 and token = $3",
        tx.tenant().uuid(),
        name.run.uuid(),
        token(name)
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// What nobody has read yet, of any tenant; others leave it alone until this transaction ends.
pub(super) async fn list_unprepared(tx: &mut SystemTx) -> Result<Vec<(TenantId, Name, Value, DateTime<Utc>)>, Error> {
    let rows = sqlx::query!(
        "select tenant_id, run_id, token, arguments, created_at from workflow.tasks
         where kind = 'approval' and prepared_at is null order by created_at limit $1
         for no key update skip locked",
        BATCH
    );
    let rows = rows.fetch_all(tx).await?.into_iter();
    Ok(rows.map(|row| (row.tenant_id.into(), name(row.run_id, row.token), row.arguments, row.created_at)).collect())
}

pub(super) async fn update_prepared(
    tx: &mut SystemTx,
    (tenant, name): (TenantId, Name),
    expires_at: Option<DateTime<Utc>>,
    is_mailed: bool,
) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.tasks
         set prepared_at = now(), expires_at = $4, notify_after = case when $5::boolean then now() end
         where tenant_id = $1 and run_id = $2 and token = $3",
        tenant.uuid(),
        name.run.uuid(),
        token(name),
        expires_at,
        is_mailed
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn list_expired(tx: &mut SystemTx) -> Result<Vec<(TenantId, Name)>, Error> {
    let rows = sqlx::query!(
        "select tenant_id, run_id, token from workflow.tasks where expires_at <= now() order by expires_at limit $1",
        BATCH
    );
    let rows = rows.fetch_all(tx).await?.into_iter();
    Ok(rows.map(|row| (row.tenant_id.into(), name(row.run_id, row.token))).collect())
}

/// What is to be mailed now, of any tenant. Whoever claims it and dies leaves it to the next try.
pub(super) async fn claim_unnotified(tx: &mut SystemTx) -> Result<Vec<(TenantId, Approval)>, Error> {
    let tries: Vec<i16> = (0..TRIES).collect();
    let pauses: Vec<i64> = tries.iter().map(|tries| pause(*tries).num_seconds()).collect();
    let rows = sqlx::query!(
        "with due as (
             select tenant_id, run_id, token from workflow.tasks
             where notify_after <= now() order by notify_after limit $1 for no key update skip locked)
         update workflow.tasks t
         set notify_tries = t.notify_tries + 1,
             notify_after = now() + make_interval(secs => ($2::bigint[])[t.notify_tries + 1])
         from due where t.tenant_id = due.tenant_id and t.run_id = due.run_id and t.token = due.token
         returning t.tenant_id, t.run_id, t.token, t.arguments, t.created_at, t.expires_at",
        BATCH,
        &pauses
    );
    let rows = rows.fetch_all(tx).await?.into_iter();
    let read = rows.filter_map(|row| {
        let tenant = row.tenant_id.into();
        let (run_id, token) = (row.run_id, row.token);
        let row =
            Row { run_id, token, arguments: row.arguments, created_at: row.created_at, expires_at: row.expires_at };
        Some((tenant, row.read()?))
    });
    Ok(read.collect())
}
