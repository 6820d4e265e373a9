//! Redis and NATS with JetStream, on ports of their own, for one test.

use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{Ports, Process};

/// A server and the folder that it writes to.
#[derive(Debug)]
pub struct Server {
    pub url: String,
    pub process: Process,
    name: &'static str,
    command: Command,
    port: u16,
    _folder: TempDir,
}

impl Server {
    /// `kill -9`, and a start on the same folder and port.
    pub fn restart(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait();
        self.process = Process::start(self.name, &self.command);
        self.process.listens(self.port);
    }
}

/// Redis that keeps nothing.
pub fn redis(ports: &Ports) -> Server {
    let port = ports.next();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"]);
    start("redis-server", command, port, format!("redis://127.0.0.1:{port}"))
}

/// NATS with JetStream.
pub fn nats(ports: &Ports) -> Server {
    let port = ports.next();
    // Debian puts it where only root's PATH leads.
    let program =
        if std::path::Path::new("/usr/sbin/nats-server").exists() { "/usr/sbin/nats-server" } else { "nats-server" };
    let mut command = Command::new(program);
    command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"]);
    start("nats-server", command, port, format!("nats://127.0.0.1:{port}"))
}

/// The last argument is the folder.
fn start(name: &'static str, mut command: Command, port: u16, url: String) -> Server {
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    command.arg(folder.path());
    let mut process = Process::start(name, &command);
    process.listens(port);
    Server { url, process, name, command, port, _folder: folder }
}
