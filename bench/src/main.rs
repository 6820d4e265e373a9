//! Measures what the project claims: CPU per operation, throughput, latency and memory, beside a control in the same run.

mod codec;
mod control;
mod edge;
mod engine;
mod faults;
mod load;
mod mesh;
mod outage;
mod process;
mod report;
mod scenarios;
mod workers;

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// What the mesh has: the codec and the controls are measured with it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the scenarios in turns with the control and prints medians as a table, and as JSON on the last line.
#[derive(Debug, Parser)]
#[command(name = "tenon-bench", after_help = "Examples:\n  make bench\n  make bench ARGS='--seconds 5 --only edge'")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Seconds of each round
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Rounds of each scenario; the figures are medians over them
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only scenarios whose name begins with this: codec, route, start, edge, login, ingest, run, worker, batch, hook, timers, list, sleep, neighbour, resume, pgbench, quiet and pgkill (only when named: the one signs 1,000 tenants up, the other kills Postgres 20 times)
    #[arg(long, default_value = "")]
    only: String,
    /// Runs of the scenarios that make many: timers, list, sleep, neighbour
    #[arg(long, default_value_t = 20_000)]
    size: usize,
}

/// The processes of the control, which the bench starts from its own binary.
#[derive(Debug, Subcommand)]
enum Command {
    /// A bare tonic server
    #[command(hide = true)]
    ControlUpstream { port: u16 },
    /// A bare axum server that calls it
    #[command(hide = true)]
    ControlEdge { port: u16, upstream: u16 },
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::ControlUpstream { port }) => control::upstream(port).await,
        Some(Command::ControlEdge { port, upstream }) => control::edge(port, upstream).await,
        None => {
            let Cli { seconds, rounds, only, size, .. } = cli;
            let plan = scenarios::Plan { round: Duration::from_secs(seconds), rounds, only, size };
            let figures = scenarios::run(&plan).await?;
            report::print(&figures)
        }
    }
}
