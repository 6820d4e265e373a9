//! auth.signing_keys

use sqlx::query;
use tenon_chassis::TenantTx;

use super::model::{SigningKey, State};
use crate::error::Error;

pub(super) async fn insert(tx: &mut TenantTx, key: &SigningKey) -> Result<(), Error> {
    query!(
        "insert into auth.signing_keys (tenant_id, id, state, public_key, sealed_private, created_at)
         values ($1, $2, $3, $4, $5, $6)",
        tx.tenant().uuid(),
        key.id.uuid(),
        key.state.as_str(),
        key.public_key,
        key.sealed_private,
        key.created_at
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// At most three: one of each state.
pub(super) async fn list(tx: &mut TenantTx) -> Result<Vec<SigningKey>, Error> {
    let rows = query!(
        "select id, state, public_key, sealed_private, created_at from auth.signing_keys where tenant_id = $1 limit 3",
        tx.tenant().uuid()
    );
    let rows = rows.fetch_all(tx).await?;
    let mut keys = Vec::with_capacity(rows.len());
    for row in rows {
        keys.push(SigningKey {
            id: row.id.into(),
            state: State::parse(&row.state)?,
            public_key: row.public_key,
            sealed_private: row.sealed_private,
            created_at: row.created_at,
        });
    }
    Ok(keys)
}
