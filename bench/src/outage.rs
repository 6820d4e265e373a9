//! What becomes of runs when their database is killed: the time from the SIGKILL of Postgres to their next step on disk.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    engine::{publish, start_many},
    load::{Connection, Round},
    process::{Started, family},
    report::{Figure, Rounds},
    scenarios::Ground,
};

/// Runs that step every second meanwhile.
const TICKING: usize = 500;
/// Times that Postgres is killed.
const KILLS: usize = 20;
/// How long runs tick before the next kill, and how long all of them may take to go on.
const CALM: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked who goes on: the error of a figure.
const LOOK: Duration = Duration::from_millis(20);

/// The runs, and the last of their events when Postgres is killed.
const REMEMBER: &str = "drop table if exists public.bench_stood;
    create table public.bench_stood as
    select h.tenant_id, h.run_id, max(h.last_id) as last_id from workflow.history h
    join workflow.runs r on r.tenant_id = h.tenant_id and r.id = h.run_id and r.workflow_id = 'outage'
    group by h.tenant_id, h.run_id; checkpoint";
const GONE_ON: &str = "select count(*) from public.bench_stood b where exists (
    select from workflow.history h where h.tenant_id = b.tenant_id and h.run_id = b.run_id and h.first_id > b.last_id)";

/// The server of the mesh, as it was started.
struct Server {
    id: u32,
    command: Vec<String>,
    uid: u32,
    gid: u32,
}

/// Kills the mesh's Postgres again and again, starts it on what it had written, and sees when each run goes on.
pub(crate) async fn pgkill(ground: &Ground) -> Result<Figure> {
    let mut connection = Connection::open(&ground.mesh.ready.edge).await?;
    let definition = json!({ "StartAt": "W", "QueryLanguage": "JSONata", "TimeoutSeconds": 3_600, "States": {
        "W": { "Type": "Wait", "Seconds": 1, "Next": "P" }, "P": { "Type": "Pass", "Next": "W" } } });
    publish(&mut connection, &ground.token, "outage", &definition).await?;
    start_many(TICKING, ground, &ground.token, ("outage", &json!({}))).await?;
    let mut server = Server::of(ground.mesh.process.id())?;
    let mut running: Option<Started> = None;
    let (mut latencies, mut took) = (Vec::with_capacity(KILLS * TICKING), Duration::ZERO);
    for _ in 0..KILLS {
        sleep(CALM).await;
        ground.mesh.sql(REMEMBER)?;
        let killed_at = Instant::now();
        server.kill(running.take())?;
        let started = server.start()?;
        server.id = started.id();
        running = Some(started);
        latencies.extend(gone_on(ground, killed_at).await?);
        took += killed_at.elapsed();
    }
    latencies.sort_unstable();
    // One round of all kills: a percentile is over them. Of processes that are gone nobody knows what they used.
    let mut rounds = Rounds::default();
    rounds.add(Round { operations: latencies.len(), took, latencies }, Duration::ZERO);
    // Its clients are still there: only a fast shutdown does not wait for them.
    Command::new("kill").arg("-INT").arg(server.id.to_string()).status().context("kill could not be run")?;
    if let Some(mut ended) = running {
        ended.0.wait()?;
    }
    let of = format!(
        "{TICKING} runs that step each second, {KILLS} times; from the SIGKILL of Postgres, which is started at once, to \
         their next step on disk"
    );
    Ok(rounds.figure("pgkill: Postgres is killed", &of, ground.rss()))
}

/// When each run has taken its next step.
async fn gone_on(ground: &Ground, killed_at: Instant) -> Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(TICKING);
    while latencies.len() < TICKING {
        ensure!(killed_at.elapsed() < PATIENCE, "{} of {TICKING} runs went on", latencies.len());
        // It may not answer yet.
        let gone_on = ground.mesh.sql(GONE_ON).ok().and_then(|count| count.parse().ok()).unwrap_or_default();
        let at = killed_at.elapsed();
        latencies.resize(latencies.len().max(gone_on), at);
        sleep(LOOK).await;
    }
    Ok(latencies)
}

impl Server {
    /// The Postgres that a process has started somewhere below it.
    fn of(root: u32) -> Result<Self> {
        for id in family(root) {
            let line = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let command: Vec<String> = line.split('\0').filter(|part| !part.is_empty()).map(str::to_owned).collect();
            if !command.first().is_some_and(|program| program.ends_with("/postgres")) || command.len() < 3 {
                continue;
            }
            let status = fs::read_to_string(format!("/proc/{id}/status"))?;
            let number = |label: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(label));
                line.and_then(|line| line.split_whitespace().next()?.parse().ok()).context("/proc has another form")
            };
            return Ok(Self { id, command, uid: number("Uid:")?, gid: number("Gid:")? });
        }
        bail!("the mesh has started no Postgres of its own")
    }

    /// Kills the server, and waits for its backends: they end by themselves once they see that it is gone.
    fn kill(&self, running: Option<Started>) -> Result<()> {
        let all = family(self.id);
        Command::new("kill").arg("-KILL").arg(self.id.to_string()).status().context("kill could not be run")?;
        if let Some(mut ended) = running {
            ended.0.wait()?;
        }
        let began = Instant::now();
        while all.iter().any(|id| is_alive(*id)) {
            ensure!(began.elapsed() < PATIENCE, "backends outlive their server");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn start(&self) -> Result<Started> {
        let (program, arguments) = self.command.split_first().context("it has a program")?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Postgres refuses root; whoever is not may only stay who they are.
        command.uid(self.uid).gid(self.gid);
        Ok(Started(command.spawn().context("Postgres cannot be started again")?))
    }
}

/// Whether a process is there, and no zombie.
fn is_alive(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
