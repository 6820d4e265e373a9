//! Where a definition and JSON arguments come from: files, standard input, the command line.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;
use tenon_proto::{
    foreign::{self, Rules},
    options::v1::policy::Access,
    policy::Contract,
};
use tenon_workflow::{
    asl::{self, Fault, Machine},
    tasks,
};

/// Reads a definition: as it is, or in the field `definition` of an envelope. With it comes its JSON pointer in the file.
pub(super) fn definition(path: &Path) -> Result<(Value, &'static str)> {
    let value = json(&text(path)?).with_context(|| format!("{} is not JSON", path.display()))?;
    match value {
        Value::Object(mut fields) if fields.contains_key("definition") && !fields.contains_key("States") => {
            match fields.remove("definition").unwrap_or_default() {
                // As Step Functions describes a state machine: JSON in a string.
                Value::String(text) => {
                    let definition = json(&text).context("the definition in the envelope is not JSON")?;
                    Ok((definition, "/definition"))
                }
                definition => Ok((definition, "/definition")),
            }
        }
        value => Ok((value, "")),
    }
}

/// JSON, or `@FILE` with JSON in it.
pub(super) fn argument(name: &str, argument: &str) -> Result<Value> {
    let text = match argument.strip_prefix('@') {
        Some(path) => text(Path::new(path))?,
        None => argument.to_owned(),
    };
    json(&text).with_context(|| format!("{name} is not JSON"))
}

pub(super) fn text(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

pub(super) fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|why| anyhow!("{why}"))
}

/// The contract of the mesh, with those of services of one's own.
pub(super) fn contract(descriptors: &[PathBuf]) -> Result<Contract> {
    let rules = Rules { default_access: Some(Access::Tenant), ..Rules::default() };
    let read = |path: &PathBuf| {
        let set = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        foreign::load(&set, &rules).map_err(|why| anyhow!("{}: {why}", path.display()))
    };
    let others: Vec<Contract> = descriptors.iter().map(read).collect::<Result<_>>()?;
    Ok(Contract::embedded().with(&others))
}

/// Checks a definition. Resources of AWS are taken as they are; ours must be in the contract, where there is one.
pub(super) fn parse(definition: &Value, contract: Option<&Contract>) -> Result<Machine, Vec<Fault>> {
    let check = |resource: &str, arguments: Option<&Value>| match contract {
        Some(contract) if !asl::is_aws(resource) => tasks::check(contract, resource, arguments),
        _ => Vec::new(),
    };
    asl::parse(definition, &check)
}

/// One line a fault: the pointer, then the reason.
pub(super) fn lines(root: &str, faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("{root}{} {}\n", fault.pointer, fault.reason.replace('\n', " "))).collect()
}
