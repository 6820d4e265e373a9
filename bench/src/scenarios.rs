//! The scenarios: starting, login, usage ingest, and the order of them all.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    codec, edge, engine,
    load::{Ask, Connection, drive},
    mesh::Mesh,
    process::{cpu, family, rss},
    report::{Figure, Rounds, median},
};

/// Usage events of one request.
const EVENTS: usize = 100;
const PASSWORD: &str = "correct horse battery";

/// What to measure, and how long.
pub(crate) struct Plan {
    pub(crate) round: Duration,
    pub(crate) rounds: usize,
    pub(crate) only: String,
    /// Runs of the scenarios that make many: timers, sleepers, the list, the neighbour's queue.
    pub(crate) size: usize,
}

impl Plan {
    pub(crate) fn wants(&self, scenario: &str) -> bool {
        scenario.starts_with(&self.only)
    }
}

/// A mesh with a tenant that is signed up and signed in.
pub(crate) struct Ground {
    pub(crate) mesh: Mesh,
    pub(crate) token: String,
    everything: BTreeSet<u32>,
}

impl Ground {
    /// CPU time of the mesh and of Postgres so far.
    pub(crate) fn cpu(&self) -> Duration {
        cpu(&family(self.mesh.process.id()))
    }

    pub(crate) fn rss(&self) -> u64 {
        rss(self.mesh.process.id())
    }
}

pub(crate) async fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if plan.wants("codec") {
        figures.extend(codec::run(plan)?);
    }
    if plan.wants("route") {
        figures.push(edge::routes(plan)?);
    }
    if plan.only.starts_with("codec") || plan.only.starts_with("route") {
        // It needs no mesh.
        return Ok(figures);
    }
    let folder = tempfile::tempdir()?;
    // Started by root, Postgres runs as another user, who must be able to pass.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let first = Mesh::start(folder.path()).await?;
    first.lift_plan_limits()?;
    first.process.stop()?;
    if plan.wants("start") {
        figures.push(start(folder.path(), plan.rounds).await?);
    }
    let mesh = Mesh::start(folder.path()).await?;
    let ground = prepare(mesh).await?;
    if plan.wants("edge") {
        figures.extend(edge::run(plan, &ground).await?);
    }
    if plan.wants("login") {
        figures.push(login(plan, &ground).await?);
    }
    if plan.wants("ingest") {
        figures.push(ingest(plan, &ground).await?);
    }
    figures.extend(engine::run(plan, &ground).await?);
    ground.mesh.process.stop()?;
    Ok(figures)
}

async fn prepare(mesh: Mesh) -> Result<Ground> {
    let mut connection = Connection::open(&mesh.ready.edge).await?;
    let token = sign_up(&mut connection, "bench").await?;
    let everything = family(mesh.process.id());
    Ok(Ground { mesh, token, everything })
}

/// The token of the admin of a new tenant.
pub(crate) async fn sign_up(connection: &mut Connection, slug: &str) -> Result<String> {
    onboard(connection, slug).await?;
    sign_in(connection, slug).await
}

/// Adds a tenant.
pub(crate) async fn onboard(connection: &mut Connection, slug: &str) -> Result<()> {
    let tenant = json!({ "displayName": slug, "slug": slug, "region": "eu" });
    let admin = json!({ "email": format!("{slug}@example.com"), "password": PASSWORD });
    let body = json!({ "tenant": tenant, "admin": admin }).to_string();
    connection.json(&post("/v1/tenants:onboard", "", body)).await?;
    Ok(())
}

async fn sign_in(connection: &mut Connection, slug: &str) -> Result<String> {
    let answer = connection.json(&login_ask(slug)).await?;
    Ok(answer["accessToken"].as_str().context("login gave no token")?.to_owned())
}

fn login_ask(slug: &str) -> Ask {
    let body = json!({ "tenant": slug, "email": format!("{slug}@example.com"), "password": PASSWORD });
    post("/v1/auth/login", "", body.to_string())
}

pub(crate) fn post(path: &str, token: &str, body: String) -> Ask {
    Ask { post: true, path: path.to_owned(), token: token.to_owned(), body, header: None }
}

pub(crate) fn get(path: String, token: &str) -> Ask {
    Ask { post: false, path, token: token.to_owned(), body: String::new(), header: None }
}

/// Start to ready on existing data, and what it then takes idle.
async fn start(folder: &std::path::Path, rounds: usize) -> Result<Figure> {
    let (mut times, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        let mesh = Mesh::start(folder).await?;
        times.push(mesh.started_in.as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_secs(1)).await;
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        sizes.push(rss(mesh.process.id()) as f64 / 1_048_576.0);
        mesh.process.stop()?;
    }
    Ok(Figure {
        scenario: "start to ready".to_owned(),
        operations_per_s: 0.0,
        cpu_us_per_operation: 0.0,
        p50_ms: median(times.iter().copied()),
        p99_ms: times.iter().copied().fold(0.0, f64::max),
        rss_mib: median(sizes.into_iter()),
        times_control: None,
        measured: "tenon dev, idle, without Postgres; p99 is the slowest".to_owned(),
    })
}

async fn login(plan: &Plan, ground: &Ground) -> Result<Figure> {
    let mut rounds = Rounds::default();
    for _ in 0..plan.rounds {
        let before = cpu(&ground.everything);
        let round = drive(&ground.mesh.ready.edge, 4, plan.round, |_| login_ask("bench")).await?;
        rounds.add(round, cpu(&family(ground.mesh.process.id())).saturating_sub(before));
    }
    Ok(rounds.figure("login", "mesh and Postgres", rss(ground.mesh.process.id())))
}

async fn ingest(plan: &Plan, ground: &Ground) -> Result<Figure> {
    let mut rounds = Rounds::default();
    for turn in 0..plan.rounds {
        let token = ground.token.clone();
        let ask = move |number: usize| {
            let event =
                |n: usize| json!({ "id": format!("{turn}-{number}-{n}"), "meter": "ai_tokens", "quantity": "7" });
            let events: Vec<Value> = (0..EVENTS).map(event).collect();
            post("/v1/usage:ingest", &token, json!({ "events": events }).to_string())
        };
        let before = cpu(&family(ground.mesh.process.id()));
        let round = drive(&ground.mesh.ready.edge, 8, plan.round, ask).await?;
        rounds.add(round, cpu(&family(ground.mesh.process.id())).saturating_sub(before));
    }
    Ok(rounds.figure("ingest: 100 events", "mesh and Postgres", rss(ground.mesh.process.id())))
}

/// Waits until no run is at work.
pub(crate) async fn idle(connection: &mut Connection, token: &str) -> Result<()> {
    let running = get("/v1/runs?state=RUNNING&page_size=1".to_owned(), token);
    while connection.json(&running).await?["runs"].as_array().is_some_and(|runs| !runs.is_empty()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

pub(crate) async fn finished_run(ground: &Ground) -> Result<String> {
    let mut connection = Connection::open(&ground.mesh.ready.edge).await?;
    engine::publish(&mut connection, &ground.token, "bench", &engine::three_steps()).await?;
    let body = json!({ "workflow": "bench", "entityId": "customer-1", "input": { "n": 1 } }).to_string();
    let run = connection.json(&post("/v1/runs", &ground.token, body)).await?;
    idle(&mut connection, &ground.token).await?;
    Ok(run["name"].as_str().context("a run has a name")?.to_owned())
}
