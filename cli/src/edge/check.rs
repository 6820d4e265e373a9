//! `tenon edge check`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use tenon_gateway::{Change, Inspection, before, compare, inspect};
use tenon_proto::policy::Contract;

use super::{From, own, policy, refused};

pub(super) const EXAMPLES: &str = "Examples:
  tenon edge check --upstreams upstreams.toml
  tenon edge check --upstreams upstreams.toml --strict
  tenon edge check --upstreams upstreams.toml --against crm.old.binpb
  tenon edge check --upstreams upstreams.toml --against http://127.0.0.1:8080   what the running edge has loaded
  tenon edge check --upstreams upstreams.toml --against http://127.0.0.1:9201   a running service (reflection)

Exit code: 0 when all is well; 1 when a change breaks clients, or with --strict when something is odd; 2 when the edge
would refuse to load it.";

/// What is checked, and with what it is compared.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    #[command(flatten)]
    from: From,
    /// Compare with what was: a descriptor set, an older file of upstreams (.toml), or a running edge or service (http://...)
    #[arg(long, value_name = "FILE|URL")]
    against: Option<String>,
    /// Fail on what is odd too
    #[arg(long)]
    strict: bool,
}

pub(super) async fn run(settings: &Settings) -> Result<ExitCode> {
    let own = own();
    let found = match inspect(&own, settings.from.upstreams.as_deref()).await {
        Ok(found) => found,
        Err(why) => return Ok(refused(&why)),
    };
    let odd = show(&found);
    let mut broken = 0;
    if let Some(against) = &settings.against {
        let old = match before(&own, against).await {
            Ok(old) => old,
            Err(why) => return Ok(refused(&why)),
        };
        let changes = changes(&old, &found);
        broken = changes.iter().filter(|change| change.is_breaking).count();
        println!("\nagainst {against}:");
        if changes.is_empty() {
            println!("  nothing changes");
        }
        for Change { sign, what, how, is_breaking } in &changes {
            println!("  {sign} {what}: {how}{}", if *is_breaking { "   BREAKING" } else { "" });
        }
    }
    let foreign = found.rows.iter().filter(|row| row.upstream.is_some()).count();
    let own = found.rows.len() - foreign;
    println!(
        "\n{foreign} methods of {} upstreams, {own} of the mesh itself: {odd} odd, {broken} breaking",
        found.contracts.len()
    );
    let fails = broken > 0 || (settings.strict && odd > 0);
    Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prints the methods of the upstreams; how much is odd.
fn show(found: &Inspection) -> usize {
    let mut odd = found.absent.len();
    for (name, why) in &found.absent {
        println!("upstream {name}: warning: {why}; the edge would start without its routes and ask again");
    }
    let mut upstream = None;
    for row in found.rows.iter().filter(|row| row.upstream.is_some()) {
        if upstream != row.upstream.as_deref() {
            upstream = row.upstream.as_deref();
            println!("upstream {}", upstream.unwrap_or_default());
        }
        println!("  {}   {}", row.method.descriptor.full_name(), policy(row));
        row.routes.iter().for_each(|route| println!("    {route}"));
        if row.routes.is_empty() {
            println!("    note: no route: gRPC, gRPC-Web and Connect only");
        }
        row.warnings.iter().for_each(|warning| println!("    warning: {warning}"));
        odd += row.warnings.len();
    }
    odd
}

/// A descriptor set is of one upstream as a rule: others are not missed in it.
fn changes(old: &Contract, found: &Inspection) -> Vec<Change> {
    let known = |contract: &Contract| {
        contract.methods().any(|method| old.methods().any(|old| old.service() == method.service()))
    };
    let mut compared: Vec<_> = found.contracts.iter().map(|(_, contract)| contract).filter(|c| known(c)).collect();
    if compared.is_empty() {
        compared = found.contracts.iter().map(|(_, contract)| contract).collect();
    }
    compare(old, &Contract::default().with(compared))
}
