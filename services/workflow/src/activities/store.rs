//! The statements on the tasks of workers. Whatever touches runs locks them first, in the order of their ids, as tasks go
//! with the steps of runs.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use tenon_chassis::{SystemTx, TenantTx, id};
use uuid::Uuid;

use super::{
    model::{Attempt, Ending, LEASE_S, Task},
    presence::Queue,
};
use crate::{asl::Failure, error::Error};

/// Tasks whose claims are ended in one statement.
const REOPENED_MAX: i64 = 1_000;
/// Workers that may die over one task: one more is not tried.
const ATTEMPTS_MAX: i32 = 20;
/// Open tasks of a queue that are counted.
const COUNTED_MAX: i64 = 200;

/// Claims tasks of a queue, oldest first.
pub(super) async fn claim(tx: &mut TenantTx, queue: &str, worker: &str, limit: i64) -> Result<Vec<Task>, Error> {
    let rows = sqlx::query!(
        r#"with due as (
               select run_id, token from workflow.tasks
               where tenant_id = $1 and kind = 'activity' and name = $2 and state = 'OPEN'
               order by created_at limit $3 for no key update skip locked)
           update workflow.tasks t
           set state = 'CLAIMED', attempt = gen_random_uuid(), worker = $4, attempts = t.attempts + 1, heartbeat_at = now(),
               lease_until = now() + make_interval(secs => coalesce(t.heartbeat_seconds, $5))
           from due where t.tenant_id = $1 and t.run_id = due.run_id and t.token = due.token
           returning t.run_id, t.token, t.attempt as "attempt!", t.name, t.arguments, t.attempts, t.timeout_seconds,
                     t.heartbeat_seconds, t.created_at, t.traceparent"#,
        tx.tenant().uuid(),
        queue,
        limit,
        worker,
        LEASE_S
    );
    let rows = rows.fetch_all(tx).await?;
    let task = rows.into_iter().map(|row| Task {
        attempt: Attempt { run: row.run_id.into(), token: row.token, id: row.attempt },
        queue: row.name,
        input: row.arguments,
        attempts: row.attempts,
        lease_seconds: row.heartbeat_seconds.unwrap_or(LEASE_S),
        is_watched: row.heartbeat_seconds.is_some(),
        deadline: row.timeout_seconds.map(|seconds| row.created_at + TimeDelta::seconds(seconds.into())),
        traceparent: row.traceparent,
    });
    Ok(task.collect())
}

/// Takes answers in: the tasks go, and each run gets a message. Answers with the attempts whose answers were taken.
pub(super) async fn delete_answered(tx: &mut TenantTx, answers: &[(Attempt, Ending)]) -> Result<Vec<Attempt>, Error> {
    let attempts: Vec<Attempt> = answers.iter().map(|(attempt, _)| *attempt).collect();
    lock_runs(tx, &attempts).await?;
    let (runs, tokens, ids) = columns(&attempts);
    let kind = |ending: &Ending| match ending {
        Ending::Done(_) => "TASK_DONE".to_owned(),
        Ending::Failed(_) => "TASK_FAILED".to_owned(),
    };
    let payload = |ending: &Ending| match ending {
        Ending::Done(output) => output.to_string(),
        Ending::Failed(failure) => json!({"error": failure.error, "cause": failure.cause}).to_string(),
    };
    let kinds: Vec<String> = answers.iter().map(|(_, ending)| kind(ending)).collect();
    let payloads: Vec<String> = answers.iter().map(|(_, ending)| payload(ending)).collect();
    let letters: Vec<Uuid> = answers.iter().map(|_| id::uuid_v7(tx.clock())).collect();
    let taken = sqlx::query!(
        r#"with answers as (
               select * from unnest($2::uuid[], $3::bigint[], $4::uuid[], $5::text[], $6::text[], $7::uuid[])
                        as a (run_id, token, attempt, kind, payload, letter)),
           gone as (
               delete from workflow.tasks t using answers a
               where t.tenant_id = $1 and t.run_id = a.run_id and t.token = a.token and t.attempt = a.attempt
                 and t.state = 'CLAIMED'
               returning a.run_id, a.token, a.attempt, a.kind, a.payload, a.letter),
           due as (
               update workflow.runs r set mail = r.mail + g.letters, due_at = now()
               from (select run_id, count(*)::int as letters from gone group by run_id) as g
               where r.tenant_id = $1 and r.id = g.run_id and r.ended_at is null
               returning r.id, r.partition),
           sent as (
               insert into workflow.messages (tenant_id, run_id, id, partition, kind, token, payload)
               select $1, gone.run_id, gone.letter, due.partition, gone.kind, gone.token, gone.payload::json
               from gone join due on due.id = gone.run_id
               on conflict do nothing)
           select gone.run_id as "run_id!", gone.token as "token!", gone.attempt as "attempt!"
           from gone join due on due.id = gone.run_id"#,
        tx.tenant().uuid(),
        &runs,
        &tokens,
        &ids,
        &kinds,
        &payloads,
        &letters
    );
    let taken = taken.fetch_all(tx).await?.into_iter();
    Ok(taken.map(|row| Attempt { run: row.run_id.into(), token: row.token, id: row.attempt }).collect())
}

/// Renews leases. Answers with the attempts that still stand, and whether a run was told.
pub(super) async fn update_leases(tx: &mut TenantTx, attempts: &[Attempt]) -> Result<(Vec<Attempt>, bool), Error> {
    lock_runs(tx, attempts).await?;
    let (runs, tokens, ids) = columns(attempts);
    let alive = sqlx::query!(
        "update workflow.tasks t
         set heartbeat_at = now(), lease_until = now() + make_interval(secs => coalesce(t.heartbeat_seconds, $5))
         from unnest($2::uuid[], $3::bigint[], $4::uuid[]) as a (run_id, token, attempt)
         where t.tenant_id = $1 and t.run_id = a.run_id and t.token = a.token and t.attempt = a.attempt
           and t.state = 'CLAIMED'
         returning t.run_id, t.token, a.attempt, t.heartbeat_seconds",
        tx.tenant().uuid(),
        &runs,
        &tokens,
        &ids,
        LEASE_S
    );
    let (mut standing, mut watched) = (Vec::new(), Vec::new());
    for row in alive.fetch_all(&mut *tx).await? {
        let Some(id) = row.attempt else { continue };
        let attempt = Attempt { run: row.run_id.into(), token: row.token, id };
        standing.push(attempt);
        watched.extend(row.heartbeat_seconds.map(|_| attempt));
    }
    if !watched.is_empty() {
        insert_heartbeats(tx, &watched).await?;
    }
    Ok((standing, !watched.is_empty()))
}

/// One message a task at most: a run that does not read its mail just now needs no second one.
async fn insert_heartbeats(tx: &mut TenantTx, attempts: &[Attempt]) -> Result<(), Error> {
    let (runs, tokens, _) = columns(attempts);
    let letters: Vec<Uuid> = attempts.iter().map(|_| id::uuid_v7(tx.clock())).collect();
    sqlx::query!(
        "with beats as (
             select b.run_id, b.token, b.letter
             from unnest($2::uuid[], $3::bigint[], $4::uuid[]) as b (run_id, token, letter)
             where not exists (
                 select from workflow.messages m
                 where m.tenant_id = $1 and m.run_id = b.run_id and m.token = b.token and m.kind = 'HEARTBEAT')),
         due as (
             update workflow.runs r set mail = r.mail + b.letters, due_at = now()
             from (select run_id, count(*)::int as letters from beats group by run_id) as b
             where r.tenant_id = $1 and r.id = b.run_id and r.ended_at is null
             returning r.id, r.partition)
         insert into workflow.messages (tenant_id, run_id, id, partition, kind, token)
         select $1, beats.run_id, beats.letter, due.partition, 'HEARTBEAT', beats.token
         from beats join due on due.id = beats.run_id",
        tx.tenant().uuid(),
        &runs,
        &tokens,
        &letters
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Gives claims back.
pub(super) async fn release(tx: &mut TenantTx, attempts: &[Attempt]) -> Result<(), Error> {
    let (runs, tokens, ids) = columns(attempts);
    sqlx::query!(
        "update workflow.tasks t set state = 'OPEN', attempt = null, worker = null, lease_until = null
         from unnest($2::uuid[], $3::bigint[], $4::uuid[]) as a (run_id, token, attempt)
         where t.tenant_id = $1 and t.run_id = a.run_id and t.token = a.token and t.attempt = a.attempt
           and t.state = 'CLAIMED'",
        tx.tenant().uuid(),
        &runs,
        &tokens,
        &ids
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Fails tasks whose workers have died so often that it is the task that kills them, of any tenant.
pub(super) async fn delete_abandoned(tx: &mut SystemTx) -> Result<u64, Error> {
    let lost = sqlx::query!(
        "select tenant_id, run_id, token from workflow.tasks
         where state = 'CLAIMED' and lease_until < now() and attempts >= $1 order by lease_until limit $2",
        ATTEMPTS_MAX,
        REOPENED_MAX
    );
    let lost = lost.fetch_all(&mut *tx).await?;
    if lost.is_empty() {
        return Ok(0);
    }
    let tenants: Vec<Uuid> = lost.iter().map(|row| row.tenant_id).collect();
    let runs: Vec<Uuid> = lost.iter().map(|row| row.run_id).collect();
    let tokens: Vec<i64> = lost.iter().map(|row| row.token).collect();
    sqlx::query!(
        "select from workflow.runs r join unnest($1::uuid[], $2::uuid[]) as k (tenant_id, run_id)
             on r.tenant_id = k.tenant_id and r.id = k.run_id
         order by r.tenant_id, r.id for no key update of r",
        &tenants,
        &runs
    )
    .execute(&mut *tx)
    .await?;
    let cause = format!("{ATTEMPTS_MAX} workers in turn took it and showed no more sign of life");
    let payload = json!({"error": Failure::HEARTBEAT_TIMEOUT, "cause": cause}).to_string();
    let failed = sqlx::query!(
        "with gone as (
             delete from workflow.tasks t
             using unnest($1::uuid[], $2::uuid[], $3::bigint[]) as k (tenant_id, run_id, token)
             where t.tenant_id = k.tenant_id and t.run_id = k.run_id and t.token = k.token
               and t.state = 'CLAIMED' and t.lease_until < now()
             returning t.tenant_id, t.run_id, t.token),
         due as (
             update workflow.runs r set mail = r.mail + g.letters, due_at = now()
             from (select tenant_id, run_id, count(*)::int as letters from gone group by tenant_id, run_id) as g
             where r.tenant_id = g.tenant_id and r.id = g.run_id and r.ended_at is null
             returning r.tenant_id, r.id, r.partition)
         insert into workflow.messages (tenant_id, run_id, id, partition, kind, token, payload)
         select gone.tenant_id, gone.run_id, gen_random_uuid(), due.partition, 'TASK_FAILED', gone.token, $4::text::json
         from gone join due on due.tenant_id = gone.tenant_id and due.id = gone.run_id",
        &tenants,
        &runs,
        &tokens,
        payload
    );
    Ok(failed.execute(tx).await?.rows_affected())
}

/// Opens tasks whose claims ran out, of any tenant.
pub(super) async fn reopen(tx: &mut SystemTx) -> Result<u64, Error> {
    let reopened = sqlx::query!(
        "with over as (
             select tenant_id, run_id, token from workflow.tasks
             where state = 'CLAIMED' and lease_until < now() order by lease_until limit $1
             for no key update skip locked)
         update workflow.tasks t set state = 'OPEN', attempt = null, worker = null, lease_until = null
         from over where t.tenant_id = over.tenant_id and t.run_id = over.run_id and t.token = over.token",
        REOPENED_MAX
    );
    Ok(reopened.execute(tx).await?.rows_affected())
}

/// Which of these queues have open tasks, and how many, up to 200.
pub(super) async fn list_ready(tx: &mut SystemTx, queues: &[Queue]) -> Result<Vec<(Queue, i64)>, Error> {
    let (tenants, names) = queue_columns(queues);
    let ready = sqlx::query!(
        r#"select q.tenant_id as "tenant_id!", q.name as "name!", o.open as "open!"
           from unnest($1::uuid[], $2::text[]) as q (tenant_id, name)
           cross join lateral (
               select count(*) as open from (
                   select from workflow.tasks t
                   where t.tenant_id = q.tenant_id and t.kind = 'activity' and t.name = q.name and t.state = 'OPEN'
                   limit $3) as counted) as o
           where o.open > 0"#,
        &tenants,
        &names,
        COUNTED_MAX
    );
    let ready = ready.fetch_all(tx).await?.into_iter();
    Ok(ready.map(|row| ((row.tenant_id.into(), row.name), row.open)).collect())
}

/// Says that these queues have workers at a process.
pub(super) async fn upsert_workers(
    tx: &mut SystemTx,
    process: Uuid,
    queues: &[Queue],
    lease: Duration,
) -> Result<(), Error> {
    if queues.is_empty() {
        return Ok(());
    }
    let (tenants, names) = queue_columns(queues);
    sqlx::query!(
        "insert into workflow.workers (tenant_id, queue, process, lease_until)
         select t, q, $3, now() + make_interval(secs => $4) from unnest($1::uuid[], $2::text[]) as u (t, q)
         on conflict (tenant_id, queue, process) do update set lease_until = excluded.lease_until",
        &tenants,
        &names,
        process,
        lease.as_secs_f64()
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Says that these queues have none there any more, and forgets what processes that are gone have said.
pub(super) async fn delete_workers(tx: &mut SystemTx, process: Uuid, queues: &[Queue]) -> Result<(), Error> {
    let (tenants, names) = queue_columns(queues);
    sqlx::query!(
        "with gone as (
             select tenant_id, queue, process from workflow.workers
             where process = $3 and (tenant_id, queue) in (select * from unnest($1::uuid[], $2::text[]))
                or lease_until < now() - interval '1 minute'
             for update skip locked)
         delete from workflow.workers w using gone
         where w.tenant_id = gone.tenant_id and w.queue = gone.queue and w.process = gone.process",
        &tenants,
        &names,
        process
    )
    .execute(tx)
    .await?;
    Ok(())
}

fn queue_columns(queues: &[Queue]) -> (Vec<Uuid>, Vec<String>) {
    queues.iter().map(|(tenant, name)| (tenant.uuid(), name.clone())).unzip()
}

async fn lock_runs(tx: &mut TenantTx, attempts: &[Attempt]) -> Result<(), Error> {
    let (runs, ..) = columns(attempts);
    sqlx::query!(
        "select from workflow.runs where tenant_id = $1 and id = any($2) order by id for no key update",
        tx.tenant().uuid(),
        &runs
    )
    .execute(tx)
    .await?;
    Ok(())
}

fn columns(attempts: &[Attempt]) -> (Vec<Uuid>, Vec<i64>, Vec<Uuid>) {
    let runs = attempts.iter().map(|attempt| attempt.run.uuid()).collect();
    let tokens = attempts.iter().map(|attempt| attempt.token).collect();
    (runs, tokens, attempts.iter().map(|attempt| attempt.id).collect())
}
