//! Child processes that end with the test: each runs under `tenon guard`, which ends it when the test's pipe closes.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::tenon;

/// How long a test waits for what is to happen: only one that fails waits that long, on however slow a machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A program that was started; dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    guard: Child,
    lifeline: Option<ChildStdin>,
    log: PathBuf,
    _folder: TempDir,
}

impl Process {
    /// Starts a command. Its output goes to a file that a failing test shows.
    pub fn start(name: &str, command: &Command) -> Self {
        let folder =
            tempfile::Builder::new().prefix("tenon-test-").tempdir().expect("the temporary folder can be written");
        let log = folder.path().join("log");
        let mut guard = tenon();
        guard.args(["guard", "--grace-s", "15", "--log"]).arg(&log).arg("--").arg(command.get_program());
        guard.args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guard.env(key, value),
                None => guard.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            guard.current_dir(folder);
        }
        std::os::unix::process::CommandExt::process_group(&mut guard, 0);
        let mut guard = guard.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary can be started");
        let mut line = String::new();
        let output = guard.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("a pipe can be read");
        let pid = line.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.unwrap_or_else(|| panic!("{name} cannot be started: {:?}", command.get_program()));
        let lifeline = guard.stdin.take();
        Self { name: name.to_owned(), pid, guard, lifeline, log, _folder: folder }
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends SIGTERM or whatever else.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal)
            .unwrap_or_else(|error| panic!("{} has ended already: {error}\n{}", self.name, self.log()));
    }

    /// `kill -9`, and waits for the end: nothing is drained, nothing is flushed.
    pub fn kill_9(mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.guard.try_wait(), Ok(None))
    }

    /// Waits for its end: the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.guard.try_wait().expect("a child can be waited for") {
                Some(status) => return status.code(),
                None if Instant::now() > deadline => panic!("{} does not end\n{}", self.name, self.log()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Waits until it listens on a port, and fails with its log when it ends instead.
    pub fn listens(&mut self, port: u16) {
        self.answers(port, |_| Ok(()));
    }

    /// Waits until it takes connections on a port and says there what is wanted: who listens need not answer yet.
    pub fn answers(&mut self, port: u16, talk: impl Fn(&mut TcpStream) -> io::Result<()>) {
        let deadline = Instant::now() + PATIENCE;
        while hears(port, &talk).is_err() {
            assert!(self.is_running(), "{} ended before it answered on {port}:\n{}", self.name, self.log());
            assert!(Instant::now() < deadline, "{} does not answer on {port}:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.lifeline.take();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(30)..].join("\n");
            eprintln!("--- the last lines of {} (process {}):\n{last}", self.name, self.pid());
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.is_running() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Talks to whoever listens on a port.
pub fn hears(port: u16, talk: impl Fn(&mut TcpStream) -> io::Result<()>) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    talk(&mut stream)
}

/// Reads what must come first.
pub fn says(stream: &mut TcpStream, expected: &[u8]) -> io::Result<()> {
    let mut said = vec![0; expected.len()];
    stream.read_exact(&mut said)?;
    if said == expected { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&said))) }
}

/// Waits until something holds; fails with what it was when it is out of patience.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain for: {what}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
