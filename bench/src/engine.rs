//! The scenarios of the workflow engine: runs alone and many at once, webhooks, timers, sleepers, lists, a busy neighbour,
//! and pgbench on the same Postgres as their control.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use chrono::DateTime;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{
    faults,
    load::{Ask, Connection, Round, drive},
    outage,
    process::{cpu, family},
    report::{Figure, Rounds},
    scenarios::{Ground, Plan, finished_run, get, idle, post, sign_up},
    workers,
};

/// Runs in flight.
const IN_FLIGHT: usize = 64;
/// Runs of one call of BatchCreateRuns.
const BATCH: usize = 1_000;
/// Deliveries in flight.
const HOOKS_IN_FLIGHT: usize = 8;
const HOOK_SECRET: &str = "the-secret-of-the-bench";
/// Rows and WAL that a run writes, in the schemas that it writes to.
const WRITTEN: &str =
    "select sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint, (select pg_current_wal_lsn() - '0/0')::bigint
                       from pg_stat_user_tables where schemaname = 'workflow' or relname = 'outbox'";

pub(crate) async fn run(plan: &Plan, ground: &Ground) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut connection = Connection::open(&ground.mesh.ready.edge).await?;
    publish(&mut connection, &ground.token, "bench", &three_steps()).await?;
    if plan.wants("pgbench") || plan.wants("run") {
        figures.push(pgbench(plan, ground)?);
    }
    if plan.wants("run") {
        figures.push(runs(plan, ground, 1, "run: 3 steps, alone").await?);
        figures.push(runs(plan, ground, IN_FLIGHT, "run: 3 steps").await?);
    }
    if plan.wants("worker") {
        figures.push(workers::run(plan, ground).await?);
    }
    if plan.wants("batch") {
        figures.push(batch(plan, ground).await?);
    }
    if plan.wants("hook") {
        figures.push(hook(plan, ground).await?);
    }
    if plan.wants("timers") {
        figures.push(timers(plan, ground).await?);
    }
    if plan.wants("neighbour") {
        figures.extend(neighbour(plan, ground).await?);
    }
    if plan.wants("resume") {
        figures.push(faults::resume(ground).await?);
    }
    // It takes minutes, and ends with the database.
    if plan.only == "pgkill" {
        figures.push(outage::pgkill(ground).await?);
    }
    // It takes minutes to sign them up.
    if plan.only == "quiet" {
        figures.push(faults::quiet(plan, ground).await?);
    }
    if plan.wants("sleep") {
        figures.push(sleep(plan, ground).await?);
    }
    if plan.wants("list") {
        figures.extend(list(plan, ground).await?);
    }
    Ok(figures)
}

pub(crate) fn three_steps() -> Value {
    let pass = |next: &str| json!({ "Type": "Pass", "Next": next });
    let states = json!({ "A": pass("B"), "B": pass("C"), "C": { "Type": "Pass", "End": true } });
    json!({ "StartAt": "A", "QueryLanguage": "JSONata", "States": states })
}

pub(crate) async fn publish(connection: &mut Connection, token: &str, id: &str, definition: &Value) -> Result<()> {
    let body = json!({ "workflowId": id, "definition": definition }).to_string();
    connection.json(&post("/v1/workflows", token, body)).await?;
    Ok(())
}

/// Short transactions of one client library that everyone has: what this Postgres does on these cores.
fn pgbench(plan: &Plan, ground: &Ground) -> Result<Figure> {
    let url = ground.mesh.database("postgres")?;
    let run = |arguments: &[&str]| -> Result<String> {
        let output = Command::new("pgbench").args(arguments).arg(&url).output().context("pgbench is missing")?;
        if !output.status.success() {
            bail!("pgbench: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    };
    run(&["-i", "-q", "-s", "5"])?;
    let mut rounds = Rounds::default();
    for _ in 0..plan.rounds {
        let ids = family(std::process::id());
        let (before, began) = (cpu(&ids), Instant::now());
        let said = run(&["-n", "-N", "-c", "8", "-j", "2", "-T", &plan.round.as_secs().max(1).to_string()])?;
        let of = |label: &str| said.lines().find_map(|line| line.strip_prefix(label)).map(str::trim).map(str::to_owned);
        let processed = of("number of transactions actually processed:").context("pgbench said something else")?;
        let operations: usize = processed.parse()?;
        let latency = of("latency average =").and_then(|text| text.trim_end_matches(" ms").parse::<f64>().ok());
        let latency = Duration::from_secs_f64(latency.unwrap_or_default() / 1e3);
        let round = Round { operations, took: began.elapsed(), latencies: vec![latency] };
        rounds.add(round, cpu(&family(std::process::id())).saturating_sub(before));
    }
    let of = "pgbench -N (simple update), 8 clients: pgbench and Postgres; latency is the average";
    Ok(rounds.figure("control: pgbench", of, 0))
}

/// Runs of three Pass states, from the request to the end of the run.
async fn runs(plan: &Plan, ground: &Ground, in_flight: usize, name: &str) -> Result<Figure> {
    let mut connection = Connection::open(&ground.mesh.ready.edge).await?;
    let mut rounds = Rounds::default();
    let (rows_before, wal_before) = written(ground)?;
    let mut count = 0;
    for _ in 0..plan.rounds {
        let (before, began) = (ground.cpu(), Instant::now());
        let token = ground.token.clone();
        let ask =
            move |_| post("/v1/runs", &token, json!({ "workflow": "bench", "entityId": "customer-1" }).to_string());
        let round = drive(&ground.mesh.ready.edge, in_flight, plan.round, ask).await?;
        idle(&mut connection, &ground.token).await?;
        // What was started counts when it has ended.
        let round = Round { took: began.elapsed(), ..round };
        count += round.operations;
        rounds.add(round, ground.cpu().saturating_sub(before));
    }
    let (rows, wal) = written(ground)?;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = |sum: i64| sum as f64 / count.max(1) as f64;
    let of = format!(
        "mesh and Postgres; latency is of the start; {:.1} rows and {:.0} B of WAL a run",
        each(rows - rows_before),
        each(wal - wal_before)
    );
    Ok(rounds.figure(name, &of, ground.rss()))
}

/// Rows and bytes of WAL so far. Statistics of Postgres 15 come at once with the end of a transaction or a second later.
fn written(ground: &Ground) -> Result<(i64, i64)> {
    std::thread::sleep(Duration::from_millis(1_200));
    let text = ground.mesh.sql(WRITTEN)?;
    let (rows, wal) = text.split_once('|').context("psql printed something else")?;
    Ok((rows.parse()?, wal.parse()?))
}

fn batch_of(workflow: &str, token: &str, input: &Value) -> Ask {
    let one = json!({ "workflow": workflow, "input": input });
    post("/v1/runs:batchCreate", token, json!({ "requests": vec![one; BATCH] }).to_string())
}

/// Starts of a thousand runs in one call, until they are on disk.
async fn batch(plan: &Plan, ground: &Ground) -> Result<Figure> {
    let mut connection = Connection::open(&ground.mesh.ready.edge).await?;
    let mut rounds = Rounds::default();
    for _ in 0..plan.rounds {
        let (before, began) = (ground.cpu(), Instant::now());
        let ask = batch_of("bench", &ground.token, &json!({}));
        let round = drive(&ground.mesh.ready.edge, 4, plan.round, move |_| ask.clone()).await?;
        let took = began.elapsed();
        let used = ground.cpu().saturating_sub(before);
        idle(&mut connection, &ground.token).await?;
        rounds.add(Round { operations: round.operations * BATCH, took, ..round }, used);
    }
    let of = "mesh and Postgres, a run; latency is of a call of 1,000, which takes the steps of those before too";
    Ok(rounds.figure("batch: starts, 1,000 a call", of, ground.rss()))
}

/// Signed deliveries, each of which starts a run before it is acknowledged.
async fn hook(plan: &Plan, ground: &Ground) -> Result<Figure> {
    let mut connection = Connection::open(&ground.mesh.ready.edge).await?;
    let targets = json!([{ "start": { "workflow": "bench" } }]);
    let hook = json!({ "hookId": "bench", "scheme": "META", "secret": HOOK_SECRET, "targets": targets });
    connection.json(&post("/v1/hooks", &ground.token, hook.to_string())).await?;
    let mut rounds = Rounds::default();
    for turn in 0..plan.rounds {
        let before = ground.cpu();
        let ask = move |number: usize| {
            let body = json!({ "delivery": format!("{turn}-{number}") }).to_string();
            let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(HOOK_SECRET.as_bytes()).expect("any key is taken");
            mac.update(body.as_bytes());
            let digits: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            Ask {
                header: Some(("x-hub-signature-256", format!("sha256={digits}"))),
                ..post("/hooks/bench/bench", "", body)
            }
        };
        let round = drive(&ground.mesh.ready.edge, HOOKS_IN_FLIGHT, plan.round, ask).await?;
        let used = ground.cpu().saturating_sub(before);
        idle(&mut connection, &ground.token).await?;
        rounds.add(round, used);
    }
    Ok(rounds.figure("hook: delivery starts a run", "mesh and Postgres; 8 in flight", ground.rss()))
}

/// Starts runs, by the thousand.
pub(crate) async fn start_many(
    count: usize,
    ground: &Ground,
    token: &str,
    (workflow, input): (&str, &Value),
) -> Result<()> {
    let mut connection = Connection::open(&ground.mesh.ready.edge).await?;
    for _ in 0..count.div_ceil(BATCH) {
        connection.json(&batch_of(workflow, token, input)).await?;
    }
    Ok(())
}

/// Timers that are all due within a minute: how late their runs end.
async fn timers(plan: &Plan, ground: &Ground) -> Result<Figure> {
    let mut connection = Connection::open(&ground.mesh.ready.edge).await?;
    let wait = json!({ "Type": "Wait", "Timestamp": "{% $states.input.due %}", "End": true });
    publish(&mut connection, &ground.token, "timer", &json!({ "StartAt": "W", "States": { "W": wait } })).await?;
    let lead = 20 + plan.size / 5_000;
    let from =
        ground.mesh.sql(&format!("select extract(epoch from now() + interval '{lead} s')::bigint"))?.parse::<i64>()?;
    let mut count = 0;
    while count < plan.size {
        let due = |n: usize| {
            let second = from + i64::try_from((count + n) % 60).expect("less than 60");
            let at = DateTime::from_timestamp(second, 0).expect("a time of this century").to_rfc3339();
            json!({ "workflow": "timer", "input": { "due": at } })
        };
        let requests: Vec<Value> = (0..BATCH).map(due).collect();
        connection
            .json(&post("/v1/runs:batchCreate", &ground.token, json!({ "requests": requests }).to_string()))
            .await?;
        count += BATCH;
    }
    let (before, began) = (ground.cpu(), Instant::now());
    idle(&mut connection, &ground.token).await?;
    let used = ground.cpu().saturating_sub(before);
    let late = ground.mesh.sql(
        "select string_agg(ms::text, ',') from (
             select percentile_cont(p) within group (order by extract(epoch from r.ended_at - (r.input->>'due')::timestamptz) * 1000) as ms
             from workflow.runs r, unnest(array[0.5, 0.99]) as p where r.workflow_id = 'timer' group by p order by p) as x",
    )?;
    let late: Vec<f64> = late.split(',').filter_map(|text| text.parse().ok()).collect();
    let latency = |at: usize| Duration::from_secs_f64(late.get(at).copied().unwrap_or_default().max(0.0) / 1e3);
    let mut rounds = Rounds::default();
    let latencies: Vec<Duration> = (0..100).map(|n| if n < 99 { latency(0) } else { latency(1) }).collect();
    rounds.add(Round { operations: count, took: began.elapsed(), latencies }, used);
    let of = format!("mesh and Postgres; {count} timers due within one minute; latency is how late the run ended");
    Ok(rounds.figure("timers: due in one minute", &of, ground.rss()))
}

/// The starts of one tenant, alone and while another has just queued many runs of its own.
async fn neighbour(plan: &Plan, ground: &Ground) -> Result<Vec<Figure>> {
    let mut connection = Connection::open(&ground.mesh.ready.edge).await?;
    let busy = sign_up(&mut connection, "busy").await?;
    publish(&mut connection, &busy, "bench", &three_steps()).await?;
    let mut figures = Vec::new();
    for (name, queued) in [("neighbour: idle", false), ("neighbour: queues runs", true)] {
        if queued {
            start_many(plan.size, ground, &busy, ("bench", &json!({}))).await?;
        }
        let (before, token) = (ground.cpu(), ground.token.clone());
        let ask = move |_| post("/v1/runs", &token, json!({ "workflow": "bench" }).to_string());
        let round = drive(&ground.mesh.ready.edge, 1, plan.round, ask).await?;
        let mut rounds = Rounds::default();
        rounds.add(round, ground.cpu().saturating_sub(before));
        figures.push(rounds.figure(
            name,
            "the starts of one tenant, one at a time, beside another's runs",
            ground.rss(),
        ));
        idle(&mut connection, &busy).await?;
    }
    figures.push(hostile(plan, ground, connection, busy).await?);
    Ok(figures)
}

/// The starts of one tenant, while another starts runs without a pause whose expressions never end or want a gigabyte.
async fn hostile(plan: &Plan, ground: &Ground, mut connection: Connection, busy: String) -> Result<Figure> {
    let expressions = ["{% ($f := function($n) { $f($n + 1) + 1 }; $f(0)) %}", "{% $pad('', 1000000000, 'x') %}"];
    for (number, output) in expressions.iter().enumerate() {
        let pass = json!({ "Type": "Pass", "Output": output, "End": true });
        let definition = json!({ "StartAt": "P", "QueryLanguage": "JSONata", "States": { "P": pass } });
        publish(&mut connection, &busy, &format!("hostile-{number}"), &definition).await?;
    }
    let starting = tokio::spawn(async move {
        for number in 0.. {
            let body = json!({ "workflow": format!("hostile-{}", number % expressions.len()) });
            connection.json(&post("/v1/runs", &busy, body.to_string())).await?;
        }
        Ok::<_, anyhow::Error>(())
    });
    let (before, token) = (ground.cpu(), ground.token.clone());
    let ask = move |_| post("/v1/runs", &token, json!({ "workflow": "bench" }).to_string());
    let round = drive(&ground.mesh.ready.edge, 1, plan.round, ask).await?;
    ensure!(!starting.is_finished(), "a hostile run did not start");
    starting.abort();
    let mut rounds = Rounds::default();
    rounds.add(round, ground.cpu().saturating_sub(before));
    let of = "the same starts, beside expressions without an end or of a gigabyte";
    Ok(rounds.figure("neighbour: hostile expressions", of, ground.rss()))
}

/// Runs that sleep for a day: what they take of memory.
async fn sleep(plan: &Plan, ground: &Ground) -> Result<Figure> {
    let mut connection = Connection::open(&ground.mesh.ready.edge).await?;
    let sleeper = sign_up(&mut connection, "sleeper").await?;
    let wait = json!({ "Type": "Wait", "Seconds": 86_400, "End": true });
    publish(&mut connection, &sleeper, "sleep", &json!({ "StartAt": "W", "States": { "W": wait } })).await?;
    let (before, began) = (ground.cpu(), Instant::now());
    start_many(plan.size, ground, &sleeper, ("sleep", &json!({}))).await?;
    let took = began.elapsed();
    let used = ground.cpu().saturating_sub(before);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut rounds = Rounds::default();
    rounds.add(Round { operations: plan.size, took, latencies: Vec::new() }, used);
    let of = format!("{} runs asleep; CPU is of starting one, memory of the mesh with all asleep", plan.size);
    Ok(rounds.figure("sleep: runs for a day", &of, ground.rss()))
}

/// Pages of a list among a few runs, and while there are ten and a hundred times as many. They are copies of a run that ended,
/// one in ten of them FAILED: what is measured is reading.
async fn list(plan: &Plan, ground: &Ground) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    finished_run(ground).await?;
    let mut there = 0;
    for size in [plan.size / 100, plan.size / 10, plan.size] {
        let more = size.saturating_sub(there);
        there = size;
        ground.mesh.sql(&format!(
            "insert into workflow.runs
             select copy.* from generate_series(1, {more}) n, workflow.runs r, jsonb_populate_record(r, jsonb_build_object(
                 'id', overlay(gen_random_uuid()::text placing left(workflow.first_uuid(now() - n * interval '1 ms')::text, 13) from 1),
                 'state', case when n % 10 = 0 then 'FAILED' else 'SUCCEEDED' end, 'entity_id', 'customer-' || n % 1000,
                 'created_at', now() - n * interval '1 ms')) copy
             where r.id = (select id from workflow.runs where workflow_id = 'bench' limit 1)"
        ))?;
        ground.mesh.sql("vacuum analyze workflow.runs")?;
        let count = ground.mesh.sql("select count(*) from workflow.runs")?;
        let paths = [
            "pageSize=50",
            "workflow=bench&pageSize=50",
            "state=FAILED&pageSize=50",
            "entityId=customer-7&pageSize=50",
        ];
        let (before, token) = (ground.cpu(), ground.token.clone());
        let ask = move |number: usize| get(format!("/v1/runs?{}", paths[number % paths.len()]), &token);
        let round = drive(&ground.mesh.ready.edge, 1, plan.round, ask).await?;
        let mut rounds = Rounds::default();
        rounds.add(round, ground.cpu().saturating_sub(before));
        figures.push(rounds.figure(
            &format!("list: {count} runs"),
            "pages of 50: newest, of a workflow, failed, about a customer",
            ground.rss(),
        ));
    }
    Ok(figures)
}
