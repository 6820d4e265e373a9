//! `tenon workflow`: checks and tries definitions with no server.

mod simulate;
mod source;
mod validate;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// What is done with a definition.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a definition: one line a fault, its JSON pointer and the reason; exit code 2 when there are some
    #[command(
        after_help = "Examples:\n  tenon workflow validate order.asl.json\n  cat order.asl.json | tenon workflow validate -"
    )]
    Validate(validate::Settings),
    /// Run a definition on virtual time with mocks, and print what it came to as one JSON object
    #[command(after_help = simulate::EXAMPLES)]
    Simulate(simulate::Settings),
}

/// The exit code of a definition, an input or a mock file that cannot be used.
const INVALID: u8 = 2;

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Validate(settings) => validate::run(settings),
        Command::Simulate(settings) => simulate::run(settings),
    }
}

/// Says what cannot be used.
fn invalid(why: &anyhow::Error) -> ExitCode {
    eprintln!("error: {why:#}");
    ExitCode::from(INVALID)
}
