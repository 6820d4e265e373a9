//! `tenon workflow validate`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;
use tenon_workflow::asl;

use super::{INVALID, invalid, source};

/// Which definition.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// The definition, bare or in an envelope with a field `definition`; - is standard input
    file: PathBuf,
    /// A FileDescriptorSet of services of one's own, whose methods it may call: protoc --include_imports --descriptor_set_out
    #[arg(long, value_name = "FILE")]
    descriptors: Vec<PathBuf>,
}

pub(super) fn run(settings: &Settings) -> Result<ExitCode> {
    let (definition, root) = match source::definition(&settings.file) {
        Ok(definition) => definition,
        Err(why) => {
            // A fault of the whole definition: its pointer is empty.
            println!(" {why:#}");
            return Ok(invalid(&why));
        }
    };
    let contract = match source::contract(&settings.descriptors) {
        Ok(contract) => contract,
        Err(why) => return Ok(invalid(&why)),
    };
    match source::parse(&definition, Some(&contract)) {
        Err(faults) => {
            print!("{}", source::lines(root, &faults));
            Ok(ExitCode::from(INVALID))
        }
        Ok(machine) => {
            let mut foreign: Vec<&str> = machine.tasks().into_iter().map(|(_, resource)| resource).collect();
            foreign.retain(|resource| asl::is_aws(resource));
            foreign.sort_unstable();
            foreign.dedup();
            for resource in foreign {
                eprintln!("note: {resource} is a resource of AWS; it can be simulated with a mock, and not run here");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
