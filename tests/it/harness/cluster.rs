//! A Postgres that one test has for itself, to be killed and started again on what it had written.

use std::{path::PathBuf, process::Command};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{Process, postgres::lets_in};

/// The server and its folder. It writes through to the disk's cache, so that a crash of the server loses nothing.
#[derive(Debug)]
pub struct Cluster {
    pub port: u16,
    command: Command,
    process: Process,
    _folder: TempDir,
}

impl Cluster {
    /// Makes one and starts it.
    pub fn start(port: u16) -> Self {
        let folder = folder();
        let data = folder.path().join("data");
        let data = data.to_str().expect("a temporary folder's name is text");
        let mut initdb = as_postgres("initdb");
        initdb.args(["-D", data, "-U", "tenon", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        let made = initdb.output().expect("initdb can be started");
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let mut command = as_postgres("postgres");
        command.args(["-D", data, "-c", &format!("port={port}")]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "shared_buffers=32MB"] {
            command.args(["-c", setting]);
        }
        let mut process = Process::start("postgres", &command);
        process.answers(port, lets_in);
        Self { port, command, process, _folder: folder }
    }

    /// Ends it as a crash does, every connection at once, and starts it again: it recovers from its log.
    pub fn crash(&mut self) {
        self.process.signal(Signal::QUIT);
        self.process.wait();
        self.process = Process::start("postgres", &self.command);
        self.process.answers(self.port, lets_in);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It would wait for its clients.
        if self.process.is_running() {
            self.process.signal(Signal::QUIT);
        }
    }
}

/// A folder that the account of Postgres may write to.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    if !rustix::process::getuid().is_root() {
        return folder;
    }
    // Postgres refuses root, and its account may be kept out of where root has its temporary folder.
    let own = |folder: &TempDir| {
        let owned = Command::new("chown").arg("postgres:").arg(folder.path()).status();
        assert!(owned.expect("chown is there").success(), "there is no account postgres");
        let comes_in = as_postgres("ls").arg(folder.path()).output();
        comes_in.expect("setpriv is there").status.success()
    };
    if own(&folder) {
        return folder;
    }
    let folder = tempfile::tempdir_in("/tmp").expect("/tmp can be written");
    assert!(own(&folder), "the account postgres can come into no temporary folder");
    folder
}

/// A program, of Postgres if it has one by that name, under an account that Postgres takes.
fn as_postgres(program: &str) -> Command {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed.map(|version| version.path().join("bin").join(program)).filter(|file| file.exists()).max();
    let program = newest.unwrap_or_else(|| PathBuf::from(program));
    if !rustix::process::getuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command.current_dir("/");
    command
}
