//! The unprivileged account that Postgres runs as when `tenon dev` is started by root, which initdb refuses.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// Whom Postgres runs as: `None` for this very user, who is not root.
    pub(crate) fn for_postgres() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        match ["postgres", "_postgres", "nobody"].iter().find_map(|name| Self::named(name)) {
            Some(account) => Ok(Some(account)),
            None => bail!("Postgres refuses to run as root, and neither `postgres` nor `nobody` is a user here"),
        }
    }

    fn named(name: &str) -> Option<Self> {
        let id = |flag| {
            let output = Command::new("id").args([flag, name]).stderr(Stdio::null()).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse::<u32>().ok()
        };
        Some(Self { name: name.to_owned(), uid: id("-u")?, gid: id("-g")? })
    }

    /// Whether the account can reach this folder: one closed parent is enough to keep it out.
    pub(crate) fn can_enter(&self, folder: &Path) -> bool {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "cd -- \"$0\""]).arg(folder).current_dir("/").uid(self.uid).gid(self.gid);
        shell.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Gives the account a file or an (empty) folder.
    pub(crate) fn own(&self, path: &Path) -> std::io::Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
    }
}
