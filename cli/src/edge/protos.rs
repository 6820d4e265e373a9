//! `tenon edge protos`.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

/// Where they go.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// The folder; it is made, and files of these names in it are replaced
    #[arg(long, value_name = "DIR", default_value = "third_party")]
    out: PathBuf,
}

pub(super) fn run(settings: &Settings) -> Result<ExitCode> {
    for (name, text) in tenon_proto::foreign::SOURCES {
        let path = settings.out.join(name);
        let folder = path.parent().context("every name has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}
