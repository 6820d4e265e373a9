//! `tenon edge`: what the edge serves, and whether services of your own can join it, without starting it.

mod check;
mod protos;
mod routes;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Subcommand};
use tenon_gateway::Row;
use tenon_proto::{options::v1::policy::Access, policy::Contract};
use tokio::runtime::Runtime;

/// What is done with the edge's contract.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Load the upstreams as the edge would: what it would serve, what is odd, what would break clients
    #[command(after_help = check::EXAMPLES)]
    Check(check::Settings),
    /// Print the route table: verb, path, method and its policy
    #[command(
        after_help = "Examples:\n  tenon edge routes\n  tenon edge routes --upstreams upstreams.toml --upstream crm\n  tenon edge routes --json | jq '.[] | select(.access == \"PUBLIC\")'"
    )]
    Routes(routes::Settings),
    /// Write the protos that yours imports (google/api, tenon/options) to a folder
    #[command(
        after_help = "Example:\n  tenon edge protos --out third_party\n  protoc -I proto -I third_party --include_imports --descriptor_set_out=crm.binpb proto/crm.proto"
    )]
    Protos(protos::Settings),
}

/// Where the upstreams are.
#[derive(Debug, Args)]
pub(crate) struct From {
    /// The TOML file with an [[upstream]] for each service of your own
    #[arg(long, env = "TENON_UPSTREAMS", value_name = "FILE")]
    upstreams: Option<PathBuf>,
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Check(settings) => Runtime::new()?.block_on(check::run(settings)),
        Command::Routes(settings) => Runtime::new()?.block_on(routes::run(settings)),
        Command::Protos(settings) => protos::run(settings),
    }
}

/// The exit code of upstreams that the edge would not start with.
const REFUSED: u8 = 2;

fn refused(why: &impl std::fmt::Display) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::from(REFUSED)
}

fn own() -> Contract {
    Contract::embedded()
}

/// `TENANT crm.contacts.create step-up feature=crm meter=contacts rate=WRITE`
fn policy(row: &Row) -> String {
    let method = &row.method;
    let mut words = vec![method.access.as_str_name().to_owned()];
    if method.access != Access::Mesh {
        words.extend(method.permission.clone());
        words.extend(method.step_up.then(|| "step-up".to_owned()));
        words.extend(method.feature.iter().map(|feature| format!("feature={feature}")));
        words.extend(method.meter.iter().map(|meter| format!("meter={meter}")));
        words.push(format!("rate={}", method.rate.as_str_name()));
    }
    words.join(" ")
}
