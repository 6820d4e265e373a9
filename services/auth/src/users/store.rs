//! auth.users

use chrono::{DateTime, Utc};
use sqlx::{query, query_as};
use tenon_chassis::{TenantTx, UserId, paging::Page};
use uuid::Uuid;

use super::model::{Email, User};
use crate::error::Error;

struct Row {
    id: Uuid,
    email: String,
    email_lower: String,
    password_hash: String,
    roles: Vec<String>,
    created_at: DateTime<Utc>,
}

impl From<Row> for User {
    fn from(row: Row) -> Self {
        let Row { id, email, email_lower, password_hash, roles, created_at } = row;
        Self { id: id.into(), email: Email { given: email, lower: email_lower }, password_hash, roles, created_at }
    }
}

pub(crate) async fn insert(tx: &mut TenantTx, user: &User) -> Result<(), Error> {
    let inserted = query!(
        "insert into auth.users (tenant_id, id, email, email_lower, password_hash, roles, created_at)
         values ($1, $2, $3, $4, $5, $6, $7) on conflict on constraint users_email do nothing",
        tx.tenant().uuid(),
        user.id.uuid(),
        user.email.given,
        user.email.lower,
        user.password_hash,
        &user.roles,
        user.created_at
    );
    let inserted = inserted.execute(tx).await?;
    if inserted.rows_affected() == 0 { Err(Error::EmailTaken) } else { Ok(()) }
}

pub(crate) async fn get(tx: &mut TenantTx, id: UserId) -> Result<User, Error> {
    let row = query_as!(
        Row,
        "select id, email, email_lower, password_hash, roles, created_at from auth.users
         where tenant_id = $1 and id = $2",
        tx.tenant().uuid(),
        id.uuid()
    );
    row.fetch_optional(tx).await?.map(User::from).ok_or(Error::UserNotFound)
}

pub(crate) async fn get_by_email(tx: &mut TenantTx, email: &Email) -> Result<Option<User>, Error> {
    let row = query_as!(
        Row,
        "select id, email, email_lower, password_hash, roles, created_at from auth.users
         where tenant_id = $1 and email_lower = $2",
        tx.tenant().uuid(),
        email.lower
    );
    Ok(row.fetch_optional(tx).await?.map(User::from))
}

/// Newest first: ids grow with time.
pub(crate) async fn list(tx: &mut TenantTx, page: &Page<Uuid>) -> Result<Vec<User>, Error> {
    let rows = query_as!(
        Row,
        "select id, email, email_lower, password_hash, roles, created_at from auth.users
         where tenant_id = $1 and ($2::uuid is null or id < $2) order by id desc limit $3",
        tx.tenant().uuid(),
        page.after,
        page.fetch()
    );
    Ok(rows.fetch_all(tx).await?.into_iter().map(User::from).collect())
}
