//! Redis and NATS with JetStream, on ports of their own, for one test.

use std::{
    io::{self, Write as _},
    net::TcpStream,
    process::Command,
};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{Ports, Process, process::says};

/// A server and the folder that it writes to.
#[derive(Debug)]
pub struct Server {
    pub url: String,
    pub process: Process,
    name: &'static str,
    command: Command,
    port: u16,
    ready: Ready,
    _folder: TempDir,
}

/// What a server says when it serves.
type Ready = fn(&mut TcpStream) -> io::Result<()>;

impl Server {
    /// `kill -9`, and a start on the same folder and port.
    pub fn restart(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait();
        self.process = Process::start(self.name, &self.command);
        self.process.answers(self.port, self.ready);
    }
}

/// Redis that keeps nothing.
pub fn redis(ports: &Ports) -> Server {
    let port = ports.next();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"]);
    start("redis-server", command, port, format!("redis://127.0.0.1:{port}"), |stream| {
        stream.write_all(b"PING\r\n")?;
        says(stream, b"+PONG")
    })
}

/// NATS with JetStream.
pub fn nats(ports: &Ports) -> Server {
    let port = ports.next();
    // Debian puts it where only root's PATH leads.
    let program =
        if std::path::Path::new("/usr/sbin/nats-server").exists() { "/usr/sbin/nats-server" } else { "nats-server" };
    let mut command = Command::new(program);
    command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"]);
    start("nats-server", command, port, format!("nats://127.0.0.1:{port}"), |stream| says(stream, b"INFO "))
}

/// The last argument is the folder.
fn start(name: &'static str, mut command: Command, port: u16, url: String, ready: Ready) -> Server {
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    command.arg(folder.path());
    let mut process = Process::start(name, &command);
    process.answers(port, ready);
    Server { url, process, name, command, port, ready, _folder: folder }
}
