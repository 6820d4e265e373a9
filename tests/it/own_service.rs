//! docs/how-to/your-own-service.md is true: what it tells is done, in its order, from nothing.

use std::process::Command;

use crate::harness::{Backends, Mesh, Ports, path};

/// The blocks of the page that are to be typed. What it starts in other terminals is started here.
fn script(edge: &str, port: u16) -> String {
    let page = include_str!("../../docs/how-to/your-own-service.md");
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let typed = blocks.collect::<Vec<_>>().join("\necho\n");
    // The mesh of this test finds the new entry by itself.
    let typed = typed.replace("tenon dev --upstreams upstreams.toml", "sleep 4");
    let typed = typed.replace("localhost:8080", edge).replace("127.0.0.1:9300", &format!("127.0.0.1:{port}"));
    format!("set -euo pipefail\ntrap 'kill $(jobs -p)' EXIT\n{typed}")
}

/// `make python` sets the interpreter, which must have grpcio-tools.
#[tokio::test(flavor = "multi_thread")]
async fn the_how_to_leads_from_a_proto_to_a_call() {
    let Some(interpreter) = std::env::var_os("TENON_WORKER_PYTHON") else { return };
    let (ports, folder) = (Ports::take(), tempfile::tempdir().unwrap());
    let file = folder.path().join("upstreams.toml");
    std::fs::write(&file, "").unwrap();
    let mesh = Mesh::start_with(Backends::Embedded, &[("TENON_UPSTREAMS", file.to_str().unwrap())]).await;
    let edge = mesh.url.trim_start_matches("http://").replace("127.0.0.1", "localhost");
    // Both binaries under the names that the page gives them.
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(path(), bin.join("tenon")).unwrap();
    std::fs::write(bin.join("python"), format!("#!/bin/sh\nexec {interpreter:?} \"$@\"\n")).unwrap();
    std::process::Command::new("chmod").arg("+x").arg(bin.join("python")).status().unwrap();
    let mut command = Command::new("bash");
    command.arg("-c").arg(script(&edge, ports.next())).current_dir(folder.path());
    command.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default()));
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}\n{}", mesh.log("all"));
    let mut rest = said.as_ref();
    for expected in [
        "third_party/tenon/options/v1/policy.proto",
        "notes.v1.NoteService.AddNote   TENANT notes.notes.add meter=notes rate=WRITE",
        r#"{"text":"hello"}"#,
        r#"{"notes":[{"text":"hello"}]}"#,
        "TOKEN_REQUIRED",
        "UNKNOWN_FIELD",
        "+ notes.v1.Note.author: field 2 added",
    ] {
        let at = rest.find(expected).unwrap_or_else(|| panic!("{expected} is not in\n{said}\n{errors}"));
        rest = &rest[at + expected.len()..];
    }
}
