//! `tenon workflow simulate`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use serde_json::Value;
use tenon_workflow::simulate::{Form, Mocks, Start, simulate};

use super::{INVALID, invalid, source};

pub(super) const EXAMPLES: &str = "Examples:
  tenon workflow simulate order.asl.json --input '{\"id\": 7}' --mocks mocks.json
  tenon workflow simulate order.asl.json --input @input.json --mocks MockConfigFile.json --test-case HappyPath
  tenon workflow simulate order.asl.json --pretty | jq -r '.events[].type'

A mock file says what each Task answers, in order; the last answer repeats:
  {\"Charge\": [{\"throw\": {\"error\": \"Busy\", \"cause\": \"try later\"}}, {\"return\": {\"ok\": true}}]}
A MockConfigFile.json of Step Functions Local works as it is.

Standard output has one JSON object: status, output, error, cause and events. The exit code is 0 when the execution
succeeded, 1 when it did not and 2 when the definition, the input or the mock file cannot be used.";

/// What is run, and with what.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// The definition, bare or in an envelope with a field `definition`; - is standard input
    file: PathBuf,
    /// The input: JSON, or @FILE
    #[arg(long, value_name = "JSON", default_value = "{}")]
    input: String,
    /// What tasks answer: our own mock file, or a MockConfigFile.json of Step Functions Local
    #[arg(long, value_name = "FILE")]
    mocks: Option<PathBuf>,
    /// The test case of a MockConfigFile.json; needed when there are several
    #[arg(long, value_name = "NAME")]
    test_case: Option<String>,
    /// The state machine of a MockConfigFile.json; needed when there are several
    #[arg(long, value_name = "NAME")]
    state_machine: Option<String>,
    /// When the execution starts, in virtual time
    #[arg(long, value_name = "RFC3339", default_value = "2025-01-01T00:00:00Z")]
    at: DateTime<Utc>,
    /// What random numbers and UUIDs are made from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How events are written
    #[arg(long, value_enum, default_value_t = History::Plain)]
    history: History,
    /// Print JSON for people
    #[arg(long)]
    pretty: bool,
}

/// The forms of a history.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum History {
    /// Details of every type as JSON values under the name `details`
    Plain,
    /// As GetExecutionHistory of Step Functions: `taskScheduledEventDetails` and so on, with JSON in strings
    StepFunctions,
}

pub(super) fn run(settings: &Settings) -> Result<ExitCode> {
    let ((definition, root), input, mocks) = match read(settings) {
        Ok(read) => read,
        Err(why) => return Ok(invalid(&why)),
    };
    let machine = match source::parse(&definition, None) {
        Ok(machine) => machine,
        Err(faults) => {
            eprint!("{}", source::lines(root, &faults));
            return Ok(ExitCode::from(INVALID));
        }
    };
    let stem = settings.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let stem =
        stem.and_then(|stem| stem.split('.').next().map(str::to_owned)).filter(|stem| !stem.is_empty() && stem != "-");
    let name = settings.state_machine.clone().or(stem).unwrap_or_else(|| "StateMachine".to_owned());
    let report = simulate(&machine, mocks, Start { name, input, at: settings.at, seed: settings.seed });
    let json = report.to_json(match settings.history {
        History::Plain => Form::Plain,
        History::StepFunctions => Form::StepFunctions,
    });
    if settings.pretty {
        println!("{json:#}");
    } else {
        println!("{json}");
    }
    Ok(if report.has_succeeded() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(settings: &Settings) -> Result<((Value, &'static str), Value, Mocks)> {
    let definition = source::definition(&settings.file)?;
    let input = source::argument("--input", &settings.input)?;
    let mocks = match &settings.mocks {
        None => Mocks::default(),
        Some(path) => {
            let file = source::json(&source::text(path)?).with_context(|| format!("{} is not JSON", path.display()))?;
            let mocks = Mocks::parse(&file, settings.state_machine.as_deref(), settings.test_case.as_deref());
            mocks.with_context(|| path.display().to_string())?
        }
    };
    Ok((definition, input, mocks))
}
