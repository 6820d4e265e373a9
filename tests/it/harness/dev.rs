//! `tenon dev` as a person starts it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Edge, Ports, Process, edge::text, eventually, process::PATIENCE, tenon};

/// A `tenon dev` that is ready.
#[derive(Debug)]
pub struct Dev {
    pub process: Process,
    pub edge: Edge,
    /// What the ready file says.
    pub ready: Value,
    _folder: TempDir,
}

/// The flags that give every port of `tenon dev` a place of its own.
pub fn port_flags(ports: &Ports) -> Vec<String> {
    let flags = ["edge", "auth", "tenant", "billing", "workflow", "admin", "trace"];
    flags.iter().flat_map(|name| [format!("--{name}-port"), ports.next().to_string()]).collect()
}

impl Dev {
    /// Starts it on nothing, and keeps nothing.
    pub async fn ephemeral(ports: &Ports) -> Self {
        let mut command = tenon();
        command.args(["dev", "--ephemeral"]).args(port_flags(ports));
        Self::start(command).await
    }

    /// Starts it on a data folder.
    pub async fn on(folder: &Path, port_flags: &[String]) -> Self {
        let mut command = tenon();
        command.arg("dev").arg("--data-dir").arg(folder).args(port_flags);
        Self::start(command).await
    }

    async fn start(mut command: Command) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let file: PathBuf = folder.path().join("ready.json");
        command.arg("--ready-file").arg(&file);
        for class in ["READ", "WRITE", "LOGIN", "INGEST"] {
            command.env(format!("TENON_RATE_IP_{class}"), "1000000");
        }
        let mut process = Process::start("tenon dev", &command);
        let deadline = std::time::Instant::now() + PATIENCE;
        let ready = loop {
            if let Ok(written) = std::fs::read_to_string(&file) {
                break serde_json::from_str::<Value>(&written).expect("the ready file appears whole");
            }
            assert!(process.is_running(), "tenon dev ended:\n{}", process.log());
            assert!(std::time::Instant::now() < deadline, "tenon dev is not ready:\n{}", process.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let edge = Edge::new(&text(&ready["edge"]), &text(&ready["operatorKey"]));
        Self { process, edge, ready, _folder: folder }
    }

    /// The spans of a trace, as the trace page has them: (part, name).
    pub async fn trace(&self, id: &str, enough: impl Fn(&[(String, String)]) -> bool) -> Vec<(String, String)> {
        let url = format!("{}/api/traces/{id}", text(&self.ready["trace"]));
        eventually(&format!("the whole trace {id}"), || async {
            let answer: Value = self.edge.http.get(&url).send().await.ok()?.json().await.ok()?;
            let spans = answer["data"][0]["spans"].as_array()?.iter();
            let spans: Vec<_> = spans.map(|span| (text(&span["processID"]), text(&span["operationName"]))).collect();
            enough(&spans).then_some(spans)
        })
        .await
    }
}
