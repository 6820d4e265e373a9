//! Ends a Postgres that an earlier `tenon dev` could not end, when both it and its guard were killed.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Result, bail};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::guard;

const PATIENCE: Duration = Duration::from_secs(20);

/// Ends the server that runs on this data folder, if one does. The folder's lock is ours: nobody uses it.
pub(crate) async fn end(data: &Path) -> Result<()> {
    let pid_file = data.join("postmaster.pid");
    let Some(pid) = recorded_pid(&pid_file) else { return Ok(()) };
    if !is_ours(pid, data) {
        // Postgres would refuse to start should another program of this user have the same number by now.
        return Ok(fs::remove_file(&pid_file)?);
    }
    crate::say(&format!("ending the Postgres (process {pid}) that an earlier start left behind"));
    guard::send(pid, Signal::INT);
    let deadline = Instant::now() + PATIENCE;
    while is_ours(pid, data) {
        if Instant::now() > deadline {
            bail!("Postgres (process {pid}) of {} does not stop; end it with `kill -QUIT {pid}`", data.display());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    Ok(())
}

fn recorded_pid(pid_file: &Path) -> Option<u32> {
    fs::read_to_string(pid_file).ok()?.lines().next()?.trim().parse().ok()
}

/// Whether the process is a Postgres that was started on this very folder.
fn is_ours(pid: u32, data: &Path) -> bool {
    guard::is_alive(pid) && arguments(pid).contains(&*data.to_string_lossy())
}

/// The command line of a process: from /proc where there is one, by ps elsewhere.
fn arguments(pid: u32) -> String {
    if let Ok(raw) = fs::read(format!("/proc/{pid}/cmdline")) {
        return String::from_utf8_lossy(&raw).replace('\0', " ");
    }
    let output = Command::new("ps").args(["-o", "args=", "-p", &pid.to_string()]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}
