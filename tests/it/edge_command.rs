//! `tenon edge`: what it prints and how it exits.

use std::{path::Path, process::Output};

use serde_json::Value;

use crate::harness::tenon;

const INVENTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/inventory/inventory.binpb");

fn edge(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = tenon().arg("edge").args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

fn upstreams(folder: &Path, more: &str) -> String {
    let file = folder.join("upstreams.toml");
    let entry = format!("[[upstream]]\nname = \"inventory\"\nendpoints = [\"http://127.0.0.1:1\"]\n{more}\n");
    std::fs::write(&file, entry).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn check_says_what_would_be_served_what_is_odd_and_what_breaks() {
    let folder = tempfile::tempdir().unwrap();
    let file = upstreams(folder.path(), &format!("descriptors = {INVENTORY:?}"));
    let (code, said) = edge(&["check", "--upstreams", &file, "--strict"]);
    assert_eq!(code, Some(0), "{said}");
    for expected in [
        "upstream inventory",
        "inventory.v1.StockService.MoveStock   TENANT inventory.stock.move meter=stock_moves rate=WRITE",
        "    POST /v1/{name=stock/*}:move",
        "2 methods of 1 upstreams",
    ] {
        assert!(said.contains(expected), "{expected}\n{said}");
    }
    let (code, said) = edge(&["check", "--upstreams", &file, "--against", INVENTORY]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nothing changes"), "{said}");

    // Compared with something else altogether, everything that was is gone.
    let old = folder.path().join("old.binpb");
    std::fs::write(&old, tenon_proto::DESCRIPTOR_SET).unwrap();
    let (code, said) = edge(&["check", "--upstreams", &file, "--against", old.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("- tenon.billing.v1.UsageService.GetUsage: method removed   BREAKING"), "{said}");
    assert!(said.contains("+ inventory.v1.StockService.GetStock: method added"), "{said}");
}

#[test]
fn check_refuses_what_the_edge_would_and_says_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("own.binpb");
    std::fs::write(&taken, tenon_proto::DESCRIPTOR_SET).unwrap();
    for (more, expected) in [
        ("descriptors = \"own.binpb\"", "is claimed by upstream inventory and by the mesh itself"),
        ("reflections = true", "unknown field `reflections`"),
        ("", "give descriptors = \"file.binpb\" or reflection = true"),
    ] {
        let (code, said) = edge(&["check", "--upstreams", &upstreams(folder.path(), more)]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(expected), "{expected}\n{said}");
    }
    let (code, said) = edge(&["check", "--strict", "--upstreams", &upstreams(folder.path(), "reflection = true")]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("it cannot be reached; the edge would start without its routes"), "{said}");
}

#[test]
fn routes_are_a_table_and_json_and_protos_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = upstreams(folder.path(), &format!("descriptors = {INVENTORY:?}"));
    let (code, said) = edge(&["routes", "--upstreams", &file]);
    assert_eq!(code, Some(0), "{said}");
    let line = |part: &str| said.lines().find(|line| line.contains(part)).unwrap_or_default();
    assert!(line("/v1/auth/login").starts_with("POST "), "{said}");
    assert!(line("/v1/{name=stock/*}:move").contains(" inventory "), "{said}");
    let (_, said) = edge(&["routes", "--json", "--upstreams", &file, "--upstream", "inventory"]);
    let rows: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(rows.as_array().map(Vec::len), Some(2), "{rows}");
    assert_eq!((&rows[0]["verb"], &rows[0]["access"]), (&"GET".into(), &"TENANT".into()));

    let out = folder.path().join("third_party");
    assert_eq!(edge(&["protos", "--out", out.to_str().unwrap()]).0, Some(0));
    assert!(std::fs::read_to_string(out.join("tenon/options/v1/policy.proto")).unwrap().contains("message Policy"));
}
