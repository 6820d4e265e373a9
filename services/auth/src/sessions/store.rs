//! auth.sessions and auth.refresh_tokens

use chrono::{DateTime, Utc};
use sqlx::query;
use tenon_chassis::{SessionId, TenantTx};

use super::model::Session;
use crate::error::Error;

pub(super) async fn insert(tx: &mut TenantTx, session: &Session) -> Result<(), Error> {
    query!(
        "insert into auth.sessions (tenant_id, id, user_id, amr, auth_time, expires_at) values ($1, $2, $3, $4, $5, $6)",
        tx.tenant().uuid(),
        session.id.uuid(),
        session.user.uuid(),
        &session.amr,
        session.auth_time,
        session.expires_at
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// A session that has not ended.
pub(super) async fn get(tx: &mut TenantTx, id: SessionId, now: DateTime<Utc>) -> Result<Session, Error> {
    let row = query!(
        "select id, user_id, amr, auth_time, expires_at from auth.sessions
         where tenant_id = $1 and id = $2 and ended_at is null and expires_at > $3",
        tx.tenant().uuid(),
        id.uuid(),
        now
    );
    let row = row.fetch_optional(tx).await?.ok_or(Error::SessionEnded)?;
    let (id, user) = (row.id.into(), row.user_id.into());
    Ok(Session { id, user, amr: row.amr, auth_time: row.auth_time, expires_at: row.expires_at })
}

/// Ends a session and forgets its refresh tokens.
pub(super) async fn update_ended(tx: &mut TenantTx, id: SessionId, now: DateTime<Utc>) -> Result<(), Error> {
    query!(
        "with ended as (
             update auth.sessions set ended_at = coalesce(ended_at, $3) where tenant_id = $1 and id = $2)
         delete from auth.refresh_tokens where tenant_id = $1 and session_id = $2",
        tx.tenant().uuid(),
        id.uuid(),
        now
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn update_expiry(tx: &mut TenantTx, id: SessionId, expires_at: DateTime<Utc>) -> Result<(), Error> {
    query!(
        "update auth.sessions set expires_at = $3 where tenant_id = $1 and id = $2",
        tx.tenant().uuid(),
        id.uuid(),
        expires_at
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn insert_token(
    tx: &mut TenantTx,
    session: SessionId,
    hash: &[u8],
    expires_at: DateTime<Utc>,
) -> Result<(), Error> {
    query!(
        "insert into auth.refresh_tokens (tenant_id, hash, session_id, expires_at) values ($1, $2, $3, $4)",
        tx.tenant().uuid(),
        hash,
        session.uuid(),
        expires_at
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Spends a refresh token: its session, and whether it had been spent before. Of two at once one spends it.
pub(super) async fn claim_token(
    tx: &mut TenantTx,
    hash: &[u8],
    now: DateTime<Utc>,
) -> Result<Option<(SessionId, bool)>, Error> {
    let row = query!(
        "with token as (
             select hash, session_id, spent_at from auth.refresh_tokens
             where tenant_id = $1 and hash = $2 and expires_at > $3 for update),
         spent as (
             update auth.refresh_tokens r set spent_at = $3 from token t
             where r.tenant_id = $1 and r.hash = t.hash and t.spent_at is null)
         select session_id, spent_at is not null as \"before!\" from token",
        tx.tenant().uuid(),
        hash,
        now
    );
    Ok(row.fetch_optional(tx).await?.map(|row| (row.session_id.into(), row.before)))
}
