//! Creates the cluster: whole or not at all, as an account that is not root, with a password from the start.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{account::Account, binaries::Binaries, cluster::OWNER, secrets::write_private};

/// The major version that wrote a cluster; `None` when there is none.
pub(crate) fn version_of(data: &Path) -> Result<Option<u32>> {
    match fs::read_to_string(data.join("PG_VERSION")) {
        Ok(text) => Ok(Some(text.trim().parse().with_context(|| format!("{} is damaged", data.display()))?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", data.display())),
    }
}

/// Runs initdb in a folder beside the final one and renames it: an interrupted first start leaves nothing half made.
pub(crate) fn create(
    binaries: &Binaries,
    account: Option<&Account>,
    data: &Path,
    password: &str,
    is_ephemeral: bool,
) -> Result<()> {
    crate::say(&format!("creating a Postgres {} cluster in {} (a few seconds, once)", binaries.major, data.display()));
    let partial = data.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir(&partial)?;
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o700))?;
    let password_file = data.with_extension("password");
    write_private(&password_file, password)?;
    if let Some(account) = account {
        account.own(&partial)?;
        account.own(&password_file)?;
    }
    let result = initdb(binaries, account, &partial, &password_file, is_ephemeral);
    fs::remove_file(&password_file)?;
    result?;
    fs::rename(&partial, data).with_context(|| format!("cannot move the new cluster to {}", data.display()))
}

fn initdb(
    binaries: &Binaries,
    account: Option<&Account>,
    data: &Path,
    password_file: &Path,
    is_ephemeral: bool,
) -> Result<()> {
    let mut command = Command::new(binaries.program("initdb"));
    command.arg("--pgdata").arg(data).arg("--pwfile").arg(password_file);
    command.args(["--username", OWNER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]);
    if is_ephemeral {
        command.arg("--no-sync");
    }
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid).current_dir("/");
    }
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output().context("cannot run initdb")?;
    if !output.status.success() {
        bail!("initdb failed:\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
