//! The statements that add runs with their first steps.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use tenon_chassis::SystemTx;
use uuid::Uuid;

use super::{
    super::{
        active::{Key, Rest},
        change::Advanced,
        store::columns,
    },
    Latest, Newborn,
};
use crate::{error::Error, runs::start::texts};

/// The latest versions of workflows, and whether they are paused.
pub(in super::super) async fn list_latest(
    tx: &mut SystemTx,
    names: &[(Uuid, String)],
) -> Result<HashMap<(Uuid, String), Latest>, Error> {
    let (tenants, ids): (Vec<Uuid>, Vec<String>) = names.iter().cloned().unzip();
    let rows = sqlx::query!(
        r#"select n.tenant_id as "tenant_id!", n.workflow_id as "workflow_id!", w.version,
                  (select max(p.workflow_id) from workflow.pauses p
                   where p.tenant_id = n.tenant_id and p.workflow_id in ('', n.workflow_id)) as paused
           from unnest($1::uuid[], $2::text[]) as n (tenant_id, workflow_id)
           cross join lateral (
               select version from workflow.workflows w
               where w.tenant_id = n.tenant_id and w.workflow_id = n.workflow_id order by w.version desc limit 1) as w"#,
        &tenants,
        &ids
    );
    let rows = rows.fetch_all(tx).await?.into_iter();
    let hold = |paused: Option<String>| paused.as_deref().map(crate::runs::store::hold);
    Ok(rows
        .map(|row| ((row.tenant_id, row.workflow_id), Latest { version: row.version, hold: hold(row.paused) }))
        .collect())
}

/// Remembers the deliveries that runs answer; answers with the runs whose delivery another run answers already.
pub(in super::super) async fn claim_deliveries(
    tx: &mut SystemTx,
    steps: impl Iterator<Item = &Advanced>,
) -> Result<Vec<Key>, Error> {
    let mut keys = Vec::new();
    let (mut hooks, mut ids) = (Vec::new(), Vec::new());
    for step in steps {
        let Some(delivery) = step.newborn.as_ref().and_then(|newborn| newborn.delivery.as_ref()) else { continue };
        keys.push(step.about.key);
        hooks.push(delivery.hook_id.clone());
        ids.push(delivery.id.clone());
    }
    if keys.is_empty() {
        return Ok(keys);
    }
    let (tenants, runs) = columns(&keys);
    // In one order, so that engines do not wait for each other in a circle. A try that is repeated finds its own.
    let taken = sqlx::query_scalar!(
        r#"with taken as (
               insert into workflow.hook_deliveries as d (tenant_id, hook_id, delivery_id, run_id)
               select distinct on (tenant_id, hook_id, delivery_id) tenant_id, hook_id, delivery_id, run_id
               from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[]) as u (tenant_id, hook_id, delivery_id, run_id)
               order by tenant_id, hook_id, delivery_id, run_id
               on conflict (tenant_id, hook_id, delivery_id) do update set run_id = d.run_id
               where d.run_id = excluded.run_id
               returning d.run_id)
           select run_id as "run_id!" from taken"#,
        &tenants,
        &hooks,
        &ids,
        &runs
    );
    let taken: HashSet<Uuid> = taken.fetch_all(tx).await?.into_iter().collect();
    Ok(keys.into_iter().filter(|key| !taken.contains(&key.run.uuid())).collect())
}

/// Adds runs as their first steps have left them; answers with those that were not there yet.
pub(in super::super) async fn insert_runs(tx: &mut SystemTx, steps: &[&Advanced]) -> Result<HashSet<Uuid>, Error> {
    let born: Vec<(&Advanced, &Newborn)> =
        steps.iter().filter_map(|step| Some((*step, step.newborn.as_ref()?))).collect();
    if born.is_empty() {
        return Ok(HashSet::new());
    }
    let (tenants, runs) = columns(&born.iter().map(|(step, _)| step.about.key).collect::<Vec<_>>());
    let about = || born.iter().map(|(step, _)| &step.about);
    let updates = || born.iter().map(|(step, _)| &step.update);
    let partitions: Vec<i16> = about().map(|about| about.partition).collect();
    let workflows: Vec<String> = about().map(|about| about.workflow_id.clone()).collect();
    let versions: Vec<i32> = about().map(|about| about.version).collect();
    let entities: Vec<String> = about().map(|about| about.entity_id.clone()).collect();
    let parents: Vec<Option<String>> = about().map(|about| about.traceparent.clone()).collect();
    let roles: Vec<serde_json::Value> = about().map(|about| serde_json::json!(about.roles)).collect();
    let starters: Vec<String> = born.iter().map(|(_, newborn)| newborn.new.created_by.clone()).collect();
    let inputs: Vec<String> = born.iter().map(|(_, newborn)| newborn.new.input.to_string()).collect();
    let created: Vec<DateTime<Utc>> = born.iter().map(|(_, newborn)| newborn.created_at).collect();
    let states: Vec<String> = updates().map(|update| update.state.as_str().to_owned()).collect();
    let outputs: Vec<Option<String>> = updates().map(|update| update.output.clone()).collect();
    let errors: Vec<Option<String>> = updates().map(|update| update.error.clone()).collect();
    let causes: Vec<Option<String>> = updates().map(|update| update.cause.clone()).collect();
    let executions: Vec<Option<String>> = updates().map(|update| update.execution.clone()).collect();
    let holds: Vec<Option<String>> = updates().map(|update| update.hold.clone()).collect();
    let awake: Vec<bool> = updates().map(|update| update.rest == Rest::Memory).collect();
    let due: Vec<Option<DateTime<Utc>>> = updates().map(|update| update.rest.due()).collect();
    let ended: Vec<Option<DateTime<Utc>>> = updates().map(|update| update.ended_at).collect();
    let attributes: Vec<serde_json::Value> =
        born.iter().map(|(_, newborn)| serde_json::Value::Object(newborn.new.attributes.clone())).collect();
    let purges: Vec<Option<DateTime<Utc>>> = updates().map(|update| update.purge_at).collect();
    let inserted = sqlx::query_scalar!(
        "insert into workflow.runs (tenant_id, id, partition, workflow_id, version, entity_id, traceparent, roles,
                                    created_by, input, created_at, state, output, error, cause, execution, paused,
                                    due_at, ended_at, attributes, purge_at)
         select tenant_id, id, partition, workflow_id, version, entity_id, traceparent,
                array(select jsonb_array_elements_text(roles)), created_by, input::json, created_at, state, output::json,
                error, cause, execution::json, paused, case when awake then 'infinity' else due_at end, ended_at,
                attributes, purge_at
         from unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::text[], $5::int[], $6::text[], $7::text[], $8::jsonb[],
                     $9::text[], $10::text[], $11::timestamptz[], $12::text[], $13::text[], $14::text[], $15::text[],
                     $16::text[], $17::text[], $18::bool[], $19::timestamptz[], $20::timestamptz[], $21::jsonb[],
                     $22::timestamptz[])
              as u (tenant_id, id, partition, workflow_id, version, entity_id, traceparent, roles, created_by, input,
                    created_at, state, output, error, cause, execution, paused, awake, due_at, ended_at, attributes,
                    purge_at)
         on conflict do nothing returning id",
        &tenants,
        &runs,
        &partitions,
        &workflows,
        &versions,
        &entities,
        &parents as &[Option<String>],
        &roles,
        &starters,
        &inputs,
        &created,
        &states,
        &outputs as &[Option<String>],
        &errors as &[Option<String>],
        &causes as &[Option<String>],
        &executions as &[Option<String>],
        &holds as &[Option<String>],
        &awake,
        &due as &[Option<DateTime<Utc>>],
        &ended as &[Option<DateTime<Utc>>],
        &attributes,
        &purges as &[Option<DateTime<Utc>>]
    );
    Ok(inserted.fetch_all(tx).await?.into_iter().collect())
}

/// Makes new runs searchable by their attributes.
pub(in super::super) async fn insert_attributes(tx: &mut SystemTx, steps: &[&Advanced]) -> Result<(), Error> {
    let (mut keys, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (step, newborn) in steps.iter().filter_map(|step| Some((step, step.newborn.as_ref()?))) {
        for (name, value) in texts(&newborn.new.attributes) {
            keys.push(step.about.key);
            names.push(name);
            values.push(value);
        }
    }
    if keys.is_empty() {
        return Ok(());
    }
    let (tenants, runs) = columns(&keys);
    sqlx::query!(
        "insert into workflow.attributes (tenant_id, name, value, run_id)
         select * from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[]) on conflict do nothing",
        &tenants,
        &names,
        &values,
        &runs
    )
    .execute(tx)
    .await?;
    Ok(())
}
