//! `tenon guard`: runs one program and ends it when its own standard input closes, so that nothing outlives its starter.
//!
//! A process that is killed cannot clean up after itself; the pipe that it held closes all the same. The guard leads a
//! process group of its own, so a Ctrl-C in the terminal reaches `tenon dev` alone, which then drains before the
//! database goes away.

use std::{
    fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

/// Runs a program until this process's standard input closes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run the program as this user id.
    #[arg(long)]
    uid: Option<u32>,
    /// Run the program as this group id.
    #[arg(long)]
    gid: Option<u32>,
    /// End the program with SIGINT instead of SIGTERM (a fast shutdown, for Postgres).
    #[arg(long)]
    interrupt: bool,
    /// Seconds to wait after the signal before SIGKILL.
    #[arg(long, default_value_t = 20)]
    grace_s: u64,
    /// Write the program's output to this file; without it, it goes where the guard's goes.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Remove this folder at the end.
    #[arg(long)]
    remove: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Starts the program, prints its process id, waits for its end or ours.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let mut child = spawn(&args)?;
    let pid = child.id().context("a child that was just started has an id")?;
    announce(pid)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ended = tokio::select! {
        status = child.wait() => Some(status?),
        () = input_closes() => None,
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    let code = match ended {
        Some(status) => u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
        None => {
            stop(&mut child, pid, &args).await?;
            0
        }
    };
    if let Some(folder) = &args.remove {
        let _gone = fs::remove_dir_all(folder);
    }
    Ok(ExitCode::from(code))
}

fn spawn(args: &Args) -> Result<Child> {
    let mut command = std::process::Command::new(&args.command[0]);
    command.args(&args.command[1..]).stdin(Stdio::null());
    if let (Some(uid), Some(gid)) = (args.uid, args.gid) {
        command.uid(uid).gid(gid).current_dir("/");
    }
    if let Some(path) = &args.log {
        let log = fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        command.stdout(log.try_clone()?).stderr(log);
    } else {
        // The guard's own standard output is the pipe on which it says the process id.
        command.stdout(Stdio::inherit());
    }
    Command::from(command).kill_on_drop(true).spawn().with_context(|| format!("cannot start {}", args.command[0]))
}

fn announce(pid: u32) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{pid}")?;
    Ok(out.flush()?)
}

async fn input_closes() {
    let (mut input, mut buffer) = (tokio::io::stdin(), [0u8; 64]);
    while matches!(input.read(&mut buffer).await, Ok(read) if read > 0) {}
}

async fn stop(child: &mut Child, pid: u32, args: &Args) -> Result<()> {
    let signal = if args.interrupt { Signal::INT } else { Signal::TERM };
    send(pid, signal);
    if tokio::time::timeout(Duration::from_secs(args.grace_s), child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(())
}

/// Sends a signal; a process that is already gone is no error.
pub(crate) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone = kill_process(pid, signal);
    }
}

/// Whether a process with this id exists.
pub(crate) fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| match rustix::process::test_kill_process(pid) {
        Ok(()) => true,
        Err(error) => error == rustix::io::Errno::PERM,
    })
}
