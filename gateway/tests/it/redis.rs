//! A Redis of one test's own.
#![expect(clippy::unwrap_used, reason = "a broken Redis is a failed test")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{patience::until, ports::Ports};

pub(crate) struct Redis {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
    _ports: Ports,
}

impl Redis {
    pub(crate) async fn open() -> Self {
        let (ports, folder) = (Ports::take(), tempfile::tempdir().unwrap());
        let port = ports.next();
        let mut redis = Self { child: start(port, folder.path()), port, folder, _ports: ports };
        redis.answers().await;
        redis
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.child = start(self.port, self.folder.path());
        self.answers().await;
    }

    async fn answers(&mut self) {
        let port = self.port;
        until("redis-server answers", async || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "redis-server ended: {ended:?}");
            pong(port).is_some()
        })
        .await;
    }
}

fn pong(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"PING\r\n").ok()?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).ok()?;
    (answer == *b"+PONG").then_some(())
}

fn start(port: u16, folder: &std::path::Path) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"])
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server cannot be started ({error}): scripts/install test installs it"))
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}
