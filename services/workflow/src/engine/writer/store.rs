//! What a step writes: the only statements that move runs on. Written twice, each is as written once.

use chrono::{DateTime, Utc};
use tenon_chassis::SystemTx;
use uuid::Uuid;

use super::super::{
    active::{Key, Rest},
    change::Advanced,
    store::columns,
};
use crate::error::Error;

struct Mailed {
    tenant_id: Uuid,
    id: Uuid,
}

/// Writes what became of runs. One that got a message meanwhile stays due. Answers with those that ended and had mail.
pub(super) async fn update_runs(tx: &mut SystemTx, steps: &[&Advanced]) -> Result<Vec<Key>, Error> {
    if steps.is_empty() {
        return Ok(Vec::new());
    }
    let (tenants, runs) = columns(&keys(steps));
    let updates = || steps.iter().map(|step| &step.update);
    let states: Vec<String> = updates().map(|update| update.state.as_str().to_owned()).collect();
    let outputs: Vec<Option<String>> = updates().map(|update| update.output.clone()).collect();
    let errors: Vec<Option<String>> = updates().map(|update| update.error.clone()).collect();
    let causes: Vec<Option<String>> = updates().map(|update| update.cause.clone()).collect();
    let executions: Vec<Option<String>> = updates().map(|update| update.execution.clone()).collect();
    let holds: Vec<Option<String>> = updates().map(|update| update.hold.clone()).collect();
    let reholds: Vec<bool> = updates().map(|update| update.rehold).collect();
    let purges: Vec<Option<DateTime<Utc>>> = updates().map(|update| update.purge_at).collect();
    let mail: Vec<i32> = updates().map(|update| update.mail).collect();
    let awake: Vec<bool> = updates().map(|update| update.rest == Rest::Memory).collect();
    let due: Vec<Option<DateTime<Utc>>> = updates().map(|update| update.rest.due()).collect();
    let ended: Vec<Option<DateTime<Utc>>> = updates().map(|update| update.ended_at).collect();
    let mailed = sqlx::query_as!(
        Mailed,
        "with done as (
         update workflow.runs r
         set state = case when u.state = 'QUEUED' then r.state else u.state end,
             output = u.output::json, error = u.error, cause = u.cause, execution = u.execution::json,
             paused = case when u.rehold then u.paused else r.paused end, crashes = 0, ended_at = u.ended_at,
             purge_at = u.purge_at,
             due_at = case when u.ended_at is not null then null
                           when r.mail <> u.mail or u.state = 'QUEUED' and r.state = 'RUNNING' then now()
                           when u.awake then 'infinity' else u.due_at end
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                     $9::int[], $10::bool[], $11::timestamptz[], $12::timestamptz[], $13::bool[], $14::timestamptz[])
              as u (tenant_id, id, state, output, error, cause, execution, paused, mail, awake, due_at, ended_at, rehold,
                    purge_at)
         where r.tenant_id = u.tenant_id and r.id = u.id and r.ended_at is null
         returning r.tenant_id, r.id, r.mail, r.ended_at)
         select tenant_id, id from done where ended_at is not null and mail > 0",
        &tenants,
        &runs,
        &states,
        &outputs as &[Option<String>],
        &errors as &[Option<String>],
        &causes as &[Option<String>],
        &executions as &[Option<String>],
        &holds as &[Option<String>],
        &mail,
        &awake,
        &due as &[Option<DateTime<Utc>>],
        &ended as &[Option<DateTime<Utc>>],
        &reholds,
        &purges as &[Option<DateTime<Utc>>]
    )
    .fetch_all(tx)
    .await?;
    Ok(mailed.into_iter().map(|run| Key { tenant: run.tenant_id.into(), run: run.id.into() }).collect())
}

/// Keeps large values that are not kept yet.
pub(super) async fn insert_payloads(tx: &mut SystemTx, steps: &[&Advanced]) -> Result<(), Error> {
    let new: Vec<_> =
        steps.iter().flat_map(|step| step.payloads.iter().map(|payload| (step.about.key, payload))).collect();
    if new.is_empty() {
        return Ok(());
    }
    let (tenants, runs) = columns(&new.iter().map(|(key, _)| *key).collect::<Vec<_>>());
    let digests: Vec<Vec<u8>> = new.iter().map(|(_, payload)| payload.digest.to_vec()).collect();
    let values: Vec<String> = new.iter().map(|(_, payload)| payload.value.clone()).collect();
    sqlx::query!(
        "insert into workflow.payloads (tenant_id, run_id, digest, value)
         select t, r, d, v::json from unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::text[]) as u (t, r, d, v)
         on conflict do nothing",
        &tenants,
        &runs,
        &digests,
        &values
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Adds to histories.
pub(super) async fn insert_history(tx: &mut SystemTx, steps: &[&Advanced]) -> Result<(), Error> {
    let told: Vec<_> = steps.iter().filter_map(|step| Some((step.about.key, step.chapter.as_ref()?))).collect();
    if told.is_empty() {
        return Ok(());
    }
    let (tenants, runs) = columns(&told.iter().map(|(key, _)| *key).collect::<Vec<_>>());
    let first: Vec<i64> = told.iter().map(|(_, chapter)| chapter.first_id).collect();
    let last: Vec<i64> = told.iter().map(|(_, chapter)| chapter.last_id).collect();
    let times: Vec<DateTime<Utc>> = told.iter().map(|(_, chapter)| chapter.time).collect();
    let events: Vec<String> = told.iter().map(|(_, chapter)| chapter.events.clone()).collect();
    sqlx::query!(
        "insert into workflow.history (tenant_id, run_id, first_id, last_id, time, events)
         select t, r, f, l, at, e::json
         from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::text[])
              as u (t, r, f, l, at, e)
         on conflict do nothing",
        &tenants,
        &runs,
        &first,
        &last,
        &times,
        &events
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Adds what runs wait for from now on.
pub(super) async fn insert_tasks(tx: &mut SystemTx, steps: &[&Advanced]) -> Result<(), Error> {
    let opened: Vec<_> = steps.iter().flat_map(|step| step.opened.iter().map(|opened| (&step.about, opened))).collect();
    if opened.is_empty() {
        return Ok(());
    }
    let (tenants, runs) = columns(&opened.iter().map(|(about, _)| about.key).collect::<Vec<_>>());
    let tokens: Vec<i64> = opened.iter().map(|(_, wait)| wait.token.cast_signed()).collect();
    let kinds: Vec<String> = opened.iter().map(|(_, wait)| wait.wait.kind.to_owned()).collect();
    let names: Vec<String> = opened.iter().map(|(_, wait)| wait.wait.name.clone()).collect();
    // Workers and people are shown them; nobody asks a signal or a run for its own.
    let shown = |kind: &str| matches!(kind, "activity" | "approval");
    let arguments = opened.iter().map(|(_, wait)| if shown(wait.wait.kind) { &*wait.arguments } else { "null" });
    let arguments: Vec<String> = arguments.map(str::to_owned).collect();
    let seconds = |of: Option<u32>| of.map(|seconds| i32::try_from(seconds).unwrap_or(i32::MAX));
    let timeouts: Vec<Option<i32>> = opened.iter().map(|(_, wait)| seconds(wait.timeout_seconds)).collect();
    let heartbeats: Vec<Option<i32>> = opened.iter().map(|(_, wait)| seconds(wait.heartbeat_seconds)).collect();
    let parents: Vec<Option<String>> = opened.iter().map(|(about, _)| about.traceparent.clone()).collect();
    // Arrays of different lengths have no array: roles travel as JSON.
    let roles: Vec<serde_json::Value> = opened.iter().map(|(about, _)| serde_json::json!(about.roles)).collect();
    sqlx::query!(
        "insert into workflow.tasks (tenant_id, run_id, token, kind, name, arguments, timeout_seconds,
                                     heartbeat_seconds, traceparent, roles)
         select t, r, k, kind, n, a::json, seconds, beats, p, array(select jsonb_array_elements_text(roles))
         from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::int[], $8::int[],
                     $9::text[], $10::jsonb[]) as u (t, r, k, kind, n, a, seconds, beats, p, roles)
         on conflict do nothing",
        &tenants,
        &runs,
        &tokens,
        &kinds,
        &names,
        &arguments,
        &timeouts as &[Option<i32>],
        &heartbeats as &[Option<i32>],
        &parents as &[Option<String>],
        &roles
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Deletes what runs wait for no longer.
pub(super) async fn delete_tasks(tx: &mut SystemTx, steps: &[&Advanced]) -> Result<(), Error> {
    let closed: Vec<(Key, i64)> =
        steps.iter().flat_map(|step| step.closed.iter().map(|token| (step.about.key, token.cast_signed()))).collect();
    if closed.is_empty() {
        return Ok(());
    }
    let (tenants, runs) = columns(&closed.iter().map(|(key, _)| *key).collect::<Vec<_>>());
    let tokens: Vec<i64> = closed.iter().map(|(_, token)| *token).collect();
    sqlx::query!(
        "delete from workflow.tasks t using unnest($1::uuid[], $2::uuid[], $3::bigint[]) as k (tenant_id, run_id, token)
         where t.tenant_id = k.tenant_id and t.run_id = k.run_id and t.token = k.token",
        &tenants,
        &runs,
        &tokens
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Keeps answers for runs that are held back.
pub(super) async fn insert_messages(tx: &mut SystemTx, steps: &[&Advanced]) -> Result<(), Error> {
    let kept: Vec<_> = steps.iter().flat_map(|step| step.keep.iter().map(|kept| (&step.about, kept))).collect();
    if kept.is_empty() {
        return Ok(());
    }
    let (tenants, runs) = columns(&kept.iter().map(|(about, _)| about.key).collect::<Vec<_>>());
    let partitions: Vec<i16> = kept.iter().map(|(about, _)| about.partition).collect();
    let ids: Vec<Uuid> = kept.iter().map(|(_, (id, _))| *id).collect();
    let kinds: Vec<String> = kept.iter().map(|(_, (_, kept))| kept.kind.clone()).collect();
    let tokens: Vec<Option<i64>> = kept.iter().map(|(_, (_, kept))| kept.token).collect();
    let payloads: Vec<Option<String>> = kept.iter().map(|(_, (_, kept))| kept.payload.clone()).collect();
    sqlx::query!(
        "insert into workflow.messages (tenant_id, run_id, partition, id, kind, token, payload)
         select t, r, p, i, k, token, payload::json
         from unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::uuid[], $5::text[], $6::bigint[], $7::text[])
              as u (t, r, p, i, k, token, payload)
         on conflict do nothing",
        &tenants,
        &runs,
        &partitions,
        &ids,
        &kinds,
        &tokens as &[Option<i64>],
        &payloads as &[Option<String>]
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Deletes messages that have had their effect.
pub(super) async fn delete_messages(tx: &mut SystemTx, steps: &[&Advanced]) -> Result<(), Error> {
    let read: Vec<(Key, Uuid)> =
        steps.iter().flat_map(|step| step.read.iter().map(|id| (step.about.key, *id))).collect();
    if read.is_empty() {
        return Ok(());
    }
    let (tenants, runs) = columns(&read.iter().map(|(key, _)| *key).collect::<Vec<_>>());
    let ids: Vec<Uuid> = read.iter().map(|(_, id)| *id).collect();
    sqlx::query!(
        "delete from workflow.messages m using unnest($1::uuid[], $2::uuid[], $3::uuid[]) as k (tenant_id, run_id, id)
         where m.tenant_id = k.tenant_id and m.run_id = k.run_id and m.id = k.id",
        &tenants,
        &runs,
        &ids
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Deletes what was never read of the mail of runs that have ended. Nobody sends them any more.
pub(super) async fn delete_mailboxes(tx: &mut SystemTx, ended: &[Key]) -> Result<(), Error> {
    let (tenants, runs) = columns(ended);
    sqlx::query!(
        "delete from workflow.messages m using unnest($1::uuid[], $2::uuid[]) as k (tenant_id, run_id)
         where m.tenant_id = k.tenant_id and m.run_id = k.run_id",
        &tenants,
        &runs
    )
    .execute(tx)
    .await?;
    Ok(())
}

fn keys(steps: &[&Advanced]) -> Vec<Key> {
    steps.iter().map(|step| step.about.key).collect()
}
