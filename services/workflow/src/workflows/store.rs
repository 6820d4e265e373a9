//! The statements on workflow.workflows and workflow.triggers.

use serde_json::Value;
use tenon_chassis::TenantTx;

use super::{
    envelope::{Envelope, Source, Trigger},
    model::{Publisher, Workflow},
};
use crate::{error::Error, schedules, tasks::Need};

/// Adds the next version and puts its triggers in the place of those before, or returns the latest when it is the same.
pub(crate) async fn insert(
    tx: &mut TenantTx,
    workflow_id: &str,
    (definition, envelope): (&Value, &Envelope),
    publisher: &Publisher,
) -> Result<Workflow, Error> {
    let tenant = tx.tenant().uuid();
    let kept = serde_json::to_value(envelope).expect("an envelope is plain data");
    // One publisher at a time: two would take the same number.
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('workflow.workflows' || $1::uuid::text || $2::text, 0))",
        tenant,
        workflow_id
    )
    .execute(&mut *tx)
    .await?;
    let latest = get(tx, workflow_id, None).await?;
    if let Some(latest) = &latest
        && latest.definition == *definition
        && latest.envelope == kept
    {
        return Ok(latest.clone());
    }
    let version = latest.map_or(1, |latest| latest.version + 1);
    let row = sqlx::query_as!(
        Workflow,
        "insert into workflow.workflows (tenant_id, workflow_id, version, definition, envelope) values ($1, $2, $3, $4, $5)
         returning workflow_id, version, definition, envelope, created_at",
        tenant,
        workflow_id,
        version,
        definition,
        kept
    );
    let workflow = row.fetch_one(&mut *tx).await?;
    replace_triggers(tx, workflow_id, envelope, publisher).await?;
    Ok(workflow)
}

async fn replace_triggers(
    tx: &mut TenantTx,
    workflow_id: &str,
    envelope: &Envelope,
    publisher: &Publisher,
) -> Result<(), Error> {
    let tenant = tx.tenant().uuid();
    sqlx::query!("delete from workflow.triggers where tenant_id = $1 and workflow_id = $2", tenant, workflow_id)
        .execute(&mut *tx)
        .await?;
    let mut managed = Vec::new();
    for (position, trigger) in (0_i16..).zip(&envelope.triggers) {
        let (kind, Source { name, filter, input }) = match trigger {
            Trigger::Event(source) => ("event", source),
            Trigger::Webhook(source) => ("webhook", source),
            Trigger::Cron(cron) => {
                managed.push((format!("{workflow_id}-cron-{position}"), cron));
                continue;
            }
        };
        sqlx::query!(
            "insert into workflow.triggers (tenant_id, workflow_id, position, kind, source, filter, input, created_by, roles)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            tenant,
            workflow_id,
            position,
            kind,
            name,
            filter,
            input,
            publisher.created_by,
            &publisher.roles
        )
        .execute(&mut *tx)
        .await?;
    }
    schedules::store::update_managed(tx, workflow_id, &managed, publisher).await
}

/// One version, or the latest.
pub(crate) async fn get(tx: &mut TenantTx, workflow_id: &str, version: Option<i32>) -> Result<Option<Workflow>, Error> {
    let row = sqlx::query_as!(
        Workflow,
        "select workflow_id, version, definition, envelope, created_at from workflow.workflows
         where tenant_id = $1 and workflow_id = $2 and ($3::integer is null or version = $3)
         order by version desc limit 1",
        tx.tenant().uuid(),
        workflow_id,
        version
    );
    Ok(row.fetch_optional(tx).await?)
}

/// The latest version of each workflow, by id.
pub(crate) async fn list(tx: &mut TenantTx, after: &str, limit: i64) -> Result<Vec<Workflow>, Error> {
    let rows = sqlx::query_as!(
        Workflow,
        "select distinct on (workflow_id) workflow_id, version, definition, envelope, created_at from workflow.workflows
         where tenant_id = $1 and workflow_id > $2 order by workflow_id, version desc limit $3",
        tx.tenant().uuid(),
        after,
        limit
    );
    Ok(rows.fetch_all(tx).await?)
}

/// The versions of a workflow before one, newest first.
pub(crate) async fn list_versions(
    tx: &mut TenantTx,
    workflow_id: &str,
    before: i32,
    limit: i64,
) -> Result<Vec<Workflow>, Error> {
    let rows = sqlx::query_as!(
        Workflow,
        "select workflow_id, version, definition, envelope, created_at from workflow.workflows
         where tenant_id = $1 and workflow_id = $2 and version < $3 order by version desc limit $4",
        tx.tenant().uuid(),
        workflow_id,
        before,
        limit
    );
    Ok(rows.fetch_all(tx).await?)
}

/// Whether the tenant has a hook of this id.
pub(crate) async fn has_hook(tx: &mut TenantTx, hook_id: &str) -> Result<bool, Error> {
    let found = sqlx::query_scalar!(
        r#"select exists (select from workflow.hooks where tenant_id = $1 and hook_id = $2) as "found!""#,
        tx.tenant().uuid(),
        hook_id
    );
    Ok(found.fetch_one(tx).await?)
}

/// Those of these secrets and workflows that are not there.
pub(crate) async fn list_missing(
    tx: &mut TenantTx,
    secrets: &[String],
    workflows: &[String],
) -> Result<Vec<Need>, Error> {
    if secrets.is_empty() && workflows.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"select n.name as "name!", n.is_secret as "is_secret!" from (
               select name, true as is_secret from unnest($2::text[]) as s (name)
               where not exists (select from workflow.secrets k where k.tenant_id = $1 and k.name = s.name)
               union all
               select id, false from unnest($3::text[]) as w (id)
               where not exists (select from workflow.workflows k where k.tenant_id = $1 and k.workflow_id = w.id)
           ) as n"#,
        tx.tenant().uuid(),
        secrets,
        workflows
    );
    let rows = rows.fetch_all(tx).await?.into_iter();
    Ok(rows.map(|row| if row.is_secret { Need::Secret(row.name) } else { Need::Workflow(row.name) }).collect())
}
