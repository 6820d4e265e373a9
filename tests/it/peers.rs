//! Official clients of other languages against a real edge: `make peers` installs them; without it there is nothing to run.

use std::{ffi::OsString, process::Command};

use reqwest::StatusCode;
use serde_json::json;
use tokio::task::block_in_place;

use crate::harness::{Backends, Mesh};

/// What `make peers` sets: a folder with the packages of tests/peers/package.json, and an interpreter that has what
/// tests/peers/requirements.txt names.
const NODE: &str = "TENON_PEERS_NODE";
const PYTHON: &str = "TENON_PEERS_PYTHON";

/// Runs a program of tests/peers against a mesh with the workflows that it asks for.
async fn agrees(program: &str, mut command: Command) {
    let mesh = Mesh::start(Backends::Embedded).await;
    mesh.lift_limits().await;
    let acme = mesh.onboard("acme").await;
    let echo = json!({ "A": { "Type": "Succeed" } });
    let sleep = json!({ "A": { "Type": "Wait", "Seconds": 3_600, "End": true } });
    for (id, states) in [("peers", echo), ("peers-wait", sleep)] {
        let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "A", "States": states });
        let (status, answer) =
            mesh.post("/v1/workflows", &acme.token, &json!({ "workflowId": id, "definition": definition })).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    let descriptors = folder.path().join("tenon.binpb");
    std::fs::write(&descriptors, tenon_proto::DESCRIPTOR_SET).expect("a file can be written");
    command.env("EDGE", &mesh.url).env("TOKEN", &acme.token).env("DESCRIPTORS", &descriptors);
    let output = block_in_place(|| command.output()).expect("the program can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    eprintln!("{said}");
    assert!(output.status.success(), "{program}\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_in_javascript_agree() {
    let Some(folder) = set(NODE) else { return };
    let mut command = Command::new("node");
    command.arg("peers.mjs").current_dir(folder);
    agrees("tests/peers/peers.mjs", command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_in_python_agree() {
    let Some(interpreter) = set(PYTHON) else { return };
    let mut command = Command::new(interpreter);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/peers.py"));
    agrees("tests/peers/peers.py", command).await;
}
