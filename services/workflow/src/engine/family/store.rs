//! The statements between runs: messages to parents and children, and the turns of runs with a concurrency key.

use tenon_chassis::SystemTx;
use uuid::Uuid;

use super::{
    super::{active::Key, store::columns},
    Note, Orphans,
};
use crate::{error::Error, runs::model::RunId};

/// Whether a run was added before.
pub(super) async fn is_there(tx: &mut SystemTx, tenant: Uuid, run: RunId) -> Result<bool, Error> {
    let there = sqlx::query_scalar!(
        r#"select exists (select from workflow.runs where tenant_id = $1 and id = $2) as "there!""#,
        tenant,
        run.uuid()
    );
    Ok(there.fetch_one(tx).await?)
}

/// Puts messages into mailboxes and makes their runs due. A run that has ended gets none.
pub(super) async fn insert_notes(tx: &mut SystemTx, notes: &[Note]) -> Result<(), Error> {
    let (tenants, runs) = columns(&notes.iter().map(|note| note.to).collect::<Vec<Key>>());
    let ids: Vec<Uuid> = notes.iter().map(|note| note.id).collect();
    let kinds: Vec<String> = notes.iter().map(|note| note.kept.kind.clone()).collect();
    let tokens: Vec<Option<i64>> = notes.iter().map(|note| note.kept.token).collect();
    let payloads: Vec<Option<String>> = notes.iter().map(|note| note.kept.payload.clone()).collect();
    // In one order: engines that write to the same runs wait for each other in a line and not in a circle.
    sqlx::query!(
        "select from workflow.runs r join unnest($1::uuid[], $2::uuid[]) as k (tenant_id, id)
             on r.tenant_id = k.tenant_id and r.id = k.id
         where r.ended_at is null order by r.tenant_id, r.id for no key update of r",
        &tenants,
        &runs
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "with mailed as (
             update workflow.runs r set mail = r.mail + 1, due_at = now()
             from (select distinct * from unnest($1::uuid[], $2::uuid[])) as k (tenant_id, id)
             where r.tenant_id = k.tenant_id and r.id = k.id and r.ended_at is null
             returning r.tenant_id, r.id, r.partition)
         insert into workflow.messages (tenant_id, run_id, id, partition, kind, token, payload)
         select m.tenant_id, m.id, n.id, m.partition, n.kind, n.token, n.payload::json
         from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::text[])
              as n (tenant_id, run_id, id, kind, token, payload)
         join mailed m on m.tenant_id = n.tenant_id and m.id = n.run_id
         on conflict do nothing",
        &tenants,
        &runs,
        &ids,
        &kinds,
        &tokens as &[Option<i64>],
        &payloads as &[Option<String>]
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Tells children whose parent is done with them to stop, as each was started to.
pub(super) async fn close_orphans(tx: &mut SystemTx, orphans: &[Orphans]) -> Result<(), Error> {
    let (tenants, parents) = columns(&orphans.iter().map(|orphans| orphans.parent).collect::<Vec<Key>>());
    let tokens: Vec<Option<i64>> = orphans.iter().map(|orphans| orphans.token.map(u64::cast_signed)).collect();
    sqlx::query!(
        r#"with closed as (
               update workflow.runs r set mail = r.mail + 1, due_at = now()
               from (select c.tenant_id, c.id from workflow.runs c
                     join unnest($1::uuid[], $2::uuid[], $3::bigint[]) as o (tenant_id, parent, token)
                       on c.tenant_id = o.tenant_id and c.parent_run = o.parent
                      and (o.token is null or c.parent_token = o.token)
                     where c.ended_at is null and c.parent_close <> 'ABANDON'
                     order by c.tenant_id, c.id for no key update of c) as k
               where r.tenant_id = k.tenant_id and r.id = k.id
               returning r.tenant_id, r.id, r.partition, r.parent_close)
           insert into workflow.messages (tenant_id, run_id, id, partition, kind, payload)
           select tenant_id, id, gen_random_uuid(), partition, parent_close, '"the run that started it is done with it"'
           from closed"#,
        &tenants,
        &parents,
        &tokens as &[Option<i64>]
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Lets those who come next have the turns that are free. The turn is locked.
pub(super) async fn promote(tx: &mut SystemTx, tenant: Uuid, (workflow_id, key): (&str, &str)) -> Result<(), Error> {
    sqlx::query!(
        "with working as (
             select count(*) as n from workflow.runs
             where tenant_id = $1 and workflow_id = $2 and concurrency_key = $3 and state = 'RUNNING'),
         next as (
             select id, concurrency_limit, row_number() over (order by id) as place from workflow.runs
             where tenant_id = $1 and workflow_id = $2 and concurrency_key = $3 and state = 'QUEUED' order by id limit 100)
         update workflow.runs r set state = 'RUNNING', due_at = now() from next, working
         where r.tenant_id = $1 and r.id = next.id and r.state = 'QUEUED' and working.n + next.place <= next.concurrency_limit",
        tenant,
        workflow_id,
        key
    )
    .execute(tx)
    .await?;
    Ok(())
}
