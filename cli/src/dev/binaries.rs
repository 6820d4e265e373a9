//! Finds the machine's Postgres server programs, which Debian keeps out of PATH.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

/// The folder of one installed Postgres and its major version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Binaries {
    pub(crate) major: u32,
    pub(crate) folder: PathBuf,
}

/// How to install the server; said wherever it is missing.
pub(crate) const INSTALL: &str =
    "install it: `apt-get install postgresql` (Debian, Ubuntu) or `brew install postgresql` (macOS)";

impl Binaries {
    /// The newest Postgres here, or the one of the version that existing data needs.
    pub(crate) fn find(wanted: Option<u32>) -> Result<Self> {
        let mut found: Vec<Self> = folders().iter().filter_map(|folder| Self::at(folder)).collect();
        found.sort();
        let oldest_supported = 14;
        if let Some(major) = wanted {
            let Some(same) = found.into_iter().rev().find(|binaries| binaries.major == major) else {
                bail!("the data was written by Postgres {major}, and no Postgres {major} is installed; install it");
            };
            return Ok(same);
        }
        match found.pop() {
            None => bail!("no Postgres server on this machine; {INSTALL}"),
            Some(newest) if newest.major < oldest_supported => {
                bail!("Postgres {} is too old, {oldest_supported} or newer is needed; {INSTALL}", newest.major)
            }
            Some(newest) => Ok(newest),
        }
    }

    /// The full path of a program.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn at(folder: &Path) -> Option<Self> {
        if !folder.join("initdb").exists() {
            return None;
        }
        // A link in /usr/local/bin leads to the folder that holds the whole installation.
        let program = folder.join("postgres").canonicalize().ok()?;
        let output = Command::new(&program).arg("--version").output().ok()?;
        let major = major_of(&String::from_utf8(output.stdout).ok()?)?;
        Some(Self { major, folder: program.parent()?.to_owned() })
    }
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` -> 15; a beta is `17beta1`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    for (parent, prefix, inner) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql", "bin"),
        ("/usr/local/opt", "postgresql", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ] {
        let Ok(entries) = fs::read_dir(parent) else { continue };
        let named = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(prefix);
        folders.extend(entries.flatten().filter(named).map(|entry| entry.path().join(inner)));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_postgres_says() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 17beta1"), Some(17));
        assert_eq!(major_of("nonsense"), None);
    }
}
