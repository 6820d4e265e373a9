//! The statements on workflow.endpoints and workflow.deliveries.

use chrono::{DateTime, Utc};
use serde_json::Value;
use tenon_chassis::{SystemTx, TenantTx};
use uuid::Uuid;

use super::model::{Delivery, DeliveryId, ENDPOINTS_MAX, Endpoint, Progress, State, Verdict};
use crate::{error::Error, runs::model::Depth};

/// Adds an endpoint; `None` when the tenant has as many as it may.
///
/// # Errors
/// `EndpointExists` when the id is taken.
pub(super) async fn insert(tx: &mut TenantTx, endpoint: &Endpoint) -> Result<Option<Endpoint>, Error> {
    let row = sqlx::query_as!(
        Endpoint,
        "insert into workflow.endpoints (tenant_id, endpoint_id, url, event_types, description, secret)
         select $1::uuid, $2::text, $3::text, $4::text[], $5::text, $6::bytea
         where (select count(*) from workflow.endpoints where tenant_id = $1) < $7
         returning endpoint_id, url, event_types, description, secret, previous_secret, previous_until, state,
                   failing_since, created_at",
        tx.tenant().uuid(),
        endpoint.endpoint_id,
        endpoint.url,
        &endpoint.event_types,
        endpoint.description,
        endpoint.secret,
        ENDPOINTS_MAX
    );
    row.fetch_optional(tx).await.map_err(|error| match error {
        sqlx::Error::Database(error) if error.constraint() == Some("endpoints_pkey") => Error::EndpointExists,
        error => error.into(),
    })
}

pub(super) async fn get(tx: &mut TenantTx, endpoint_id: &str) -> Result<Option<Endpoint>, Error> {
    let row = sqlx::query_as!(
        Endpoint,
        "select endpoint_id, url, event_types, description, secret, previous_secret, previous_until, state,
                failing_since, created_at
         from workflow.endpoints where tenant_id = $1 and endpoint_id = $2",
        tx.tenant().uuid(),
        endpoint_id
    );
    Ok(row.fetch_optional(tx).await?)
}

pub(super) async fn list(tx: &mut TenantTx, after: &str, limit: i64) -> Result<Vec<Endpoint>, Error> {
    let rows = sqlx::query_as!(
        Endpoint,
        "select endpoint_id, url, event_types, description, secret, previous_secret, previous_until, state,
                failing_since, created_at
         from workflow.endpoints where tenant_id = $1 and endpoint_id > $2 order by endpoint_id limit $3",
        tx.tenant().uuid(),
        after,
        limit
    );
    Ok(rows.fetch_all(tx).await?)
}

/// Keeps what was changed.
pub(super) async fn update(tx: &mut TenantTx, endpoint: &Endpoint) -> Result<(), Error> {
    sqlx::query!(
        "update workflow.endpoints
         set url = $3, event_types = $4, description = $5, state = $6, failing_since = $7, secret = $8,
             previous_secret = $9, previous_until = $10
         where tenant_id = $1 and endpoint_id = $2",
        tx.tenant().uuid(),
        endpoint.endpoint_id,
        endpoint.url,
        &endpoint.event_types,
        endpoint.description,
        endpoint.state.as_str(),
        endpoint.failing_since,
        endpoint.secret,
        endpoint.previous_secret.as_deref(),
        endpoint.previous_until
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn delete(tx: &mut TenantTx, endpoint_id: &str) -> Result<bool, Error> {
    let deleted = sqlx::query!(
        "delete from workflow.endpoints where tenant_id = $1 and endpoint_id = $2",
        tx.tenant().uuid(),
        endpoint_id
    );
    Ok(deleted.execute(tx).await?.rows_affected() > 0)
}

/// Puts one event on its way to an endpoint.
pub(super) async fn insert_delivery(
    tx: &mut TenantTx,
    (id, endpoint_id): (DeliveryId, &str),
    (event_id, event_type, payload): (Uuid, &str, &str),
) -> Result<Delivery, Error> {
    let row = sqlx::query_as!(
        Delivery,
        "insert into workflow.deliveries (tenant_id, id, endpoint_id, event_id, event_type, payload, next_at)
         values ($1, $2, $3, $4, $5, $6, now())
         returning id, endpoint_id, event_id, event_type, state, log, next_at, created_at",
        tx.tenant().uuid(),
        id.uuid(),
        endpoint_id,
        event_id,
        event_type,
        payload
    );
    Ok(row.fetch_one(tx).await?)
}

/// The newest first, those before `before`.
pub(super) async fn list_deliveries(
    tx: &mut TenantTx,
    (endpoint_id, state): (&str, Option<Progress>),
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Delivery>, Error> {
    let rows = sqlx::query_as!(
        Delivery,
        "select id, endpoint_id, event_id, event_type, state, log, next_at, created_at from workflow.deliveries
         where tenant_id = $1 and endpoint_id = $2 and ($3::uuid is null or id < $3) and ($4::text is null or state = $4)
         order by id desc limit $5",
        tx.tenant().uuid(),
        endpoint_id,
        before,
        state.map(Progress::as_str),
        limit
    );
    Ok(rows.fetch_all(tx).await?)
}

/// Makes a delivery due again with all its attempts; `None` when there is none.
pub(super) async fn update_again(
    tx: &mut TenantTx,
    endpoint_id: &str,
    id: DeliveryId,
) -> Result<Option<Delivery>, Error> {
    let row = sqlx::query_as!(
        Delivery,
        "update workflow.deliveries set state = 'PENDING', next_at = now(), attempts = 0, delivered_at = null
         where tenant_id = $1 and endpoint_id = $2 and id = $3
         returning id, endpoint_id, event_id, event_type, state, log, next_at, created_at",
        tx.tenant().uuid(),
        endpoint_id,
        id.uuid()
    );
    Ok(row.fetch_optional(tx).await?)
}

/// An endpoint that is told of events.
pub(super) struct Subscriber {
    pub(super) tenant_id: Uuid,
    pub(super) endpoint_id: String,
    pub(super) event_types: Vec<String>,
}

/// The endpoints of tenants that are told of events.
pub(super) async fn list_subscribers(tx: &mut SystemTx, tenants: &[Uuid]) -> Result<Vec<Subscriber>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Subscriber,
        "select tenant_id, endpoint_id, event_types from workflow.endpoints
         where tenant_id = any($1) and state = 'ENABLED'",
        tenants
    );
    rows.fetch_all(tx).await
}

/// A workflow that events start.
#[derive(Debug, Clone)]
pub(super) struct Trigger {
    pub(super) tenant_id: Uuid,
    pub(super) workflow_id: String,
    pub(super) position: i16,
    pub(super) source: String,
    pub(super) filter: String,
    pub(super) input: String,
    pub(super) created_by: String,
    pub(super) roles: Vec<String>,
}

/// The triggers of tenants that wait for events.
pub(super) async fn list_triggers(tx: &mut SystemTx, tenants: &[Uuid]) -> Result<Vec<Trigger>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Trigger,
        "select tenant_id, workflow_id, position, source, filter, input, created_by, roles from workflow.triggers
         where tenant_id = any($1) and kind = 'event'",
        tenants
    );
    rows.fetch_all(tx).await
}

/// What is to be delivered: tenant, id, endpoint, event, type, body.
pub(super) type NewDelivery = (Uuid, Uuid, String, Uuid, String, String);

/// Puts events on their way. One that is on its way already stays as it is.
pub(super) async fn insert_deliveries(tx: &mut SystemTx, new: &[NewDelivery]) -> Result<(), sqlx::Error> {
    let tenants: Vec<Uuid> = new.iter().map(|row| row.0).collect();
    let ids: Vec<Uuid> = new.iter().map(|row| row.1).collect();
    let endpoints: Vec<String> = new.iter().map(|row| row.2.clone()).collect();
    let events: Vec<Uuid> = new.iter().map(|row| row.3).collect();
    let types: Vec<String> = new.iter().map(|row| row.4.clone()).collect();
    let payloads: Vec<String> = new.iter().map(|row| row.5.clone()).collect();
    sqlx::query!(
        "insert into workflow.deliveries (tenant_id, id, endpoint_id, event_id, event_type, payload, next_at)
         select u.*, now() from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::text[])
                                as u (tenant_id, id, endpoint_id, event_id, event_type, payload)
         join workflow.endpoints e on e.tenant_id = u.tenant_id and e.endpoint_id = u.endpoint_id
         on conflict do nothing",
        &tenants,
        &ids,
        &endpoints,
        &events,
        &types,
        &payloads
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// A delivery to be tried now, with its endpoint.
pub(super) struct Due {
    pub(super) tenant_id: Uuid,
    pub(super) id: Uuid,
    pub(super) endpoint_id: String,
    pub(super) event_id: Uuid,
    pub(super) payload: String,
    pub(super) attempts: i32,
    pub(super) log: Value,
    pub(super) url: String,
    pub(super) secret: Vec<u8>,
    pub(super) previous_secret: Option<Vec<u8>>,
    pub(super) previous_until: Option<DateTime<Utc>>,
    pub(super) failing_since: Option<DateTime<Utc>>,
}

/// Takes deliveries that are due, of one endpoint a few at most; who takes one has `lease_s` to try it. Those of an
/// endpoint that is switched off wait until it is on again.
pub(super) async fn claim(tx: &mut SystemTx, limit: i64, each: i64, lease_s: i32) -> Result<Vec<Due>, Error> {
    let rows = sqlx::query_as!(
        Due,
        r#"with due as (
               select d.tenant_id, d.id, row_number() over (partition by d.tenant_id, d.endpoint_id order by d.next_at) as place
               from (select tenant_id, id, endpoint_id, next_at from workflow.deliveries
                     where state = 'PENDING' and next_at <= now() order by next_at limit 1000) as d
               join workflow.endpoints e on e.tenant_id = d.tenant_id and e.endpoint_id = d.endpoint_id
               where e.state = 'ENABLED'),
           locked as (
               select d.tenant_id, d.id from workflow.deliveries d
               join due on due.tenant_id = d.tenant_id and due.id = d.id
               where due.place <= $2 and d.state = 'PENDING' and d.next_at <= now()
               order by d.next_at limit $1 for update of d skip locked)
           update workflow.deliveries d set attempts = attempts + 1, next_at = now() + $3::integer * interval '1 second'
           from locked, workflow.endpoints e
           where d.tenant_id = locked.tenant_id and d.id = locked.id
             and e.tenant_id = d.tenant_id and e.endpoint_id = d.endpoint_id
           returning d.tenant_id, d.id, d.endpoint_id, d.event_id, d.payload, d.attempts, d.log, e.url, e.secret,
                     e.previous_secret, e.previous_until, e.failing_since"#,
        limit,
        each,
        lease_s
    );
    Ok(rows.fetch_all(tx).await?)
}

/// When the next delivery to an endpoint that is on is due.
pub(super) async fn get_next(tx: &mut SystemTx) -> Result<Option<DateTime<Utc>>, Error> {
    let next = sqlx::query_scalar!(
        "select d.next_at from workflow.deliveries d
         join workflow.endpoints e on e.tenant_id = d.tenant_id and e.endpoint_id = d.endpoint_id
         where d.state = 'PENDING' and e.state = 'ENABLED' order by d.next_at limit 1"
    );
    Ok(next.fetch_optional(tx).await?.flatten())
}

/// Keeps what became of an attempt; true when it switched the endpoint off.
pub(super) async fn update_attempt(
    tx: &mut SystemTx,
    due: &Due,
    verdict: &Verdict,
    log: &Value,
) -> Result<bool, Error> {
    sqlx::query!(
        "update workflow.deliveries
         set state = $3, next_at = $4, log = $5, delivered_at = case when $3 = 'DELIVERED' then now() end
         where tenant_id = $1 and id = $2 and attempts = $6",
        due.tenant_id,
        due.id,
        verdict.state.as_str(),
        verdict.next_at,
        log,
        due.attempts
    )
    .execute(&mut *tx)
    .await?;
    if due.failing_since == verdict.failing_since && !verdict.switch_off {
        return Ok(false);
    }
    let state = if verdict.switch_off { State::Failing } else { State::Enabled };
    let switched = sqlx::query!(
        "update workflow.endpoints set failing_since = $3, state = $4
         where tenant_id = $1 and endpoint_id = $2 and state = 'ENABLED'",
        due.tenant_id,
        due.endpoint_id,
        verdict.failing_since,
        state.as_str()
    );
    Ok(switched.execute(tx).await?.rows_affected() > 0 && verdict.switch_off)
}

/// Forgets deliveries that are 30 days old; how many.
pub(super) async fn delete_old(tx: &mut SystemTx, limit: i64) -> Result<u64, Error> {
    let deleted = sqlx::query!(
        "delete from workflow.deliveries where ctid = any(array(
             select ctid from workflow.deliveries
             where state <> 'PENDING' and created_at < now() - interval '30 days' limit $1))",
        limit
    );
    Ok(deleted.execute(tx).await?.rows_affected())
}

/// What stands above a run.
pub(super) async fn get_depth(tx: &mut TenantTx, run: Uuid) -> Result<Option<Depth>, Error> {
    let depth = sqlx::query_scalar!(
        "select depth from workflow.runs where tenant_id = $1 and id = $2",
        tx.tenant().uuid(),
        run
    );
    Ok(depth.fetch_optional(tx).await?.map(Depth))
}
