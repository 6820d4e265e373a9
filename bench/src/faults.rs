//! What the engine does when one of its processes dies, and what it does when there is nothing to do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    engine::{publish, start_many},
    load::{Connection, Round},
    process::{cpu, family},
    report::{Figure, Rounds},
    scenarios::{Ground, Plan, onboard},
};

/// Runs that step every second while their engine is killed.
const TICKING: usize = 1_000;
/// How long the engines share the partitions before one is killed, and how long the other has to go on.
const SHARED: Duration = Duration::from_secs(4);
const AFTER: Duration = Duration::from_secs(12);
/// Tenants of the quiet mesh, and how long it is watched.
const TENANTS: usize = 1_000;
const WATCHED: Duration = Duration::from_secs(20);

/// The first step of runs after their engine was killed with SIGKILL, by the time that passed since.
pub(crate) async fn resume(ground: &Ground) -> Result<Figure> {
    let mut connection = Connection::open(&ground.mesh.ready.edge).await?;
    let definition = json!({ "StartAt": "W", "QueryLanguage": "JSONata", "TimeoutSeconds": 45, "States": {
        "W": { "Type": "Wait", "Seconds": 1, "Next": "P" }, "P": { "Type": "Pass", "Next": "W" } } });
    publish(&mut connection, &ground.token, "ticks", &definition).await?;
    let first = ground.mesh.sql("select min(owner::text) from workflow.partitions")?;
    start_many(TICKING, ground, &ground.token, ("ticks", &json!({}))).await?;
    let mut second = ground.mesh.engine().await?;
    let owners = "select count(distinct owner) from workflow.partitions";
    while ground.mesh.sql(owners)? != "2" {
        sleep(Duration::from_millis(50)).await;
    }
    sleep(SHARED).await;
    let before = ground.cpu();
    let theirs = format!("select string_agg(id::text, ',') from workflow.partitions where owner <> '{first}'");
    let theirs = ground.mesh.sql(&theirs)?;
    let killed_at = ground.mesh.sql("select clock_timestamp()")?;
    second.0.kill().context("the engine was gone already")?;
    let began = Instant::now();
    sleep(AFTER).await;
    let gaps = ground.mesh.sql(&format!(
        "select string_agg(ms::text, ',' order by ms) from (
             select extract(epoch from min(h.time) - '{killed_at}'::timestamptz) * 1000 as ms
             from workflow.runs r join workflow.history h on h.tenant_id = r.tenant_id and h.run_id = r.id
             where r.workflow_id = 'ticks' and r.partition in ({theirs}) and h.time > '{killed_at}'
             group by r.id) as resumed"
    ))?;
    let gaps = gaps.split(',').filter_map(|gap| gap.parse::<f64>().ok());
    let latencies: Vec<Duration> = gaps.map(|gap| Duration::from_secs_f64(gap / 1e3)).collect();
    let expected =
        format!("select count(*) from workflow.runs where workflow_id = 'ticks' and partition in ({theirs})");
    let expected: usize = ground.mesh.sql(&expected)?.parse()?;
    anyhow::ensure!(latencies.len() == expected, "{} of {expected} runs went on", latencies.len());
    let mut rounds = Rounds::default();
    let round = Round { operations: latencies.len(), took: began.elapsed(), latencies };
    rounds.add(round, ground.cpu().saturating_sub(before));
    let of = "runs that step each second; from the SIGKILL of one of two engines to their next step (lease 3 s)";
    Ok(rounds.figure("resume: an engine is killed", of, ground.rss()))
}

/// A mesh with many tenants and nothing to do: CPU time of Postgres in a second.
pub(crate) async fn quiet(plan: &Plan, ground: &Ground) -> Result<Figure> {
    let mut connection = Connection::open(&ground.mesh.ready.edge).await?;
    let tenants = plan.size.min(TENANTS);
    for number in 0..tenants {
        onboard(&mut connection, &format!("quiet-{number}")).await?;
    }
    // What the sign-ups left behind is done.
    sleep(SHARED).await;
    let database = || {
        let mut all = family(ground.mesh.process.id());
        all.remove(&ground.mesh.process.id());
        cpu(&all)
    };
    let (before, began) = (database(), Instant::now());
    sleep(WATCHED).await;
    let (used, took) = (database().saturating_sub(before), began.elapsed());
    let mut rounds = Rounds::default();
    let operations = usize::try_from(took.as_secs())?;
    rounds.add(Round { operations, took, latencies: Vec::new() }, used);
    let of = format!("Postgres alone, {tenants} tenants and nothing to do; CPU us a second: 10,000 are 1 %");
    Ok(rounds.figure("quiet: nothing to do", &of, ground.rss()))
}
