//! The rules of the house that a compiler does not know: imports, sizes, names, where SQL and contracts may stand.

use std::{fs, path::PathBuf};

/// Lines of a file and of a function at most (STYLE.md).
const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
/// Code lines of the chassis, without comments, blank lines and tests: a thing enters it when three crates need it.
const CHASSIS_LINES: usize = 3_230;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_path_buf()
}

/// (path from the root, text) of every file with this ending below these folders.
fn files(folders: &[&str], ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder of the checkout can be read");
            open.extend(entries.map(|entry| entry.expect("an entry of the checkout can be read").path()));
        } else if path.to_string_lossy().ends_with(ending) {
            let name = path.strip_prefix(root()).expect("it is below the root").to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&path).expect("a source file is text")));
        }
    }
    found.sort();
    found
}

const CODE: [&str; 8] = ["proto", "chassis", "services", "gateway", "cli", "sdk", "tests", "bench"];

#[track_caller]
fn none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n  {}", faults.join("\n  "));
}

/// The part of a file that is no test.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or_default()
}

#[test]
fn crates_import_only_what_the_plan_allows() {
    let mut faults = Vec::new();
    for (file, text) in files(&CODE, "Cargo.toml") {
        let allowed: &[&str] = match file.split('/').next() {
            Some("proto") => &[],
            Some("chassis" | "sdk") => &["tenon-proto"],
            Some("services" | "gateway") => &["tenon-proto", "tenon-chassis"],
            _ => continue,
        };
        let (deps, _) = text.split_once("[dev-dependencies]").unwrap_or((&text, ""));
        let ours = deps.lines().filter(|line| line.starts_with("tenon-")).filter_map(|line| line.split(' ').next());
        faults.extend(ours.filter(|dep| !allowed.contains(dep)).map(|dep| format!("{file}: {dep}")));
    }
    none(
        &faults,
        "proto imports nothing of ours, chassis and sdk only proto, services and gateway only proto and chassis",
    );
}

#[test]
fn every_dependency_has_its_version_in_the_workspace() {
    let mut faults = Vec::new();
    for (file, text) in files(&CODE, "Cargo.toml") {
        let mut in_deps = false;
        for line in text.lines() {
            if line.starts_with('[') {
                in_deps = line.ends_with("dependencies]");
            } else if in_deps && line.contains('=') && !line.contains("workspace = true") && !line.starts_with('#') {
                faults.push(format!("{file}: {line}"));
            }
        }
    }
    none(&faults, "a version stands once, in the root Cargo.toml; here write `name = { workspace = true }`");
}

#[test]
fn sql_stands_only_in_store_files() {
    let marks = ["sqlx::query", "query!(", "query_as!(", "query_scalar!("];
    let code = files(&["chassis", "services", "gateway", "cli"], ".rs");
    let outside = code.iter().filter(|(file, _)| !file.ends_with("store.rs"));
    let faults = outside.filter(|(_, text)| marks.iter().any(|mark| without_tests(text).contains(mark)));
    let faults: Vec<String> = faults.map(|(file, _)| file.clone()).collect();
    none(&faults, "statements stand in store.rs, next to the rpc.rs that needs them");
}

#[test]
fn contract_types_stand_only_at_the_edges_of_a_service() {
    // rpc.rs serves a contract, beside it pb.rs where a message is large; steps.rs and tasks.rs call others', lib.rs adds the
    // services up.
    let edges = ["rpc.rs", "pb.rs", "steps.rs", "tasks.rs", "src/lib.rs"];
    let mut faults = Vec::new();
    for (file, text) in files(&["services"], ".rs") {
        if edges.iter().any(|edge| file.ends_with(edge)) || file.contains("/tests/") {
            continue;
        }
        let text = without_tests(&text).replace("tenon_proto::policy", "").replace("tenon_proto::foreign", "");
        if text.contains("tenon_proto") {
            faults.push(file);
        }
    }
    none(&faults, "generated types stand in rpc.rs (served) or steps.rs and tasks.rs (called), and nowhere deeper");
}

#[test]
fn files_and_functions_stay_short() {
    let mut faults = Vec::new();
    for (file, text) in files(&CODE, ".rs") {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES {
            faults.push(format!("{file}: {} lines; split it by meaning", lines.len()));
        }
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let words = line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
            let words = words.trim_start_matches("pub ").trim_start_matches("async ").trim_start_matches("const ");
            if !words.starts_with("fn ") {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| *line == close).unwrap_or(0);
            if length > FUNCTION_LINES {
                faults.push(format!("{file}:{}: a function of {length} lines; split it", start + 1));
            }
        }
    }
    none(&faults, "a file has at most 500 lines and a function 70");
}

#[test]
fn files_say_what_they_are() {
    let code = files(&CODE, ".rs");
    let silent = code.iter().filter(|(_, text)| !text.starts_with("//! "));
    let silent: Vec<String> = silent.map(|(file, _)| file.clone()).collect();
    none(&silent, "a file opens with one //! sentence that says what it is for");
}

#[test]
fn modules_are_named_for_what_they_hold() {
    let vague = ["common", "util", "utils", "helper", "helpers", "misc"];
    let code = files(&CODE, ".rs");
    let named =
        code.iter().filter(|(file, _)| file.split('/').any(|part| vague.contains(&part.trim_end_matches(".rs"))));
    let named: Vec<String> = named.map(|(file, _)| file.clone()).collect();
    none(&named, "name a module for what it holds");
}

#[test]
fn lints_are_expected_with_a_reason_and_tests_are_never_put_off() {
    let mut faults = Vec::new();
    // Spelt apart so that this file does not find itself.
    let marks = [concat!("#[", "allow("), concat!("#![", "allow("), concat!("#[", "ignore"), concat!("todo", "!(")];
    for (file, text) in files(&CODE, ".rs") {
        let found = marks.iter().filter(|mark| text.contains(**mark));
        faults.extend(found.map(|mark| format!("{file}: {mark}")));
    }
    none(&faults, "write #[expect(lint, reason = ..)]; finish or delete what is not done");
}

#[test]
fn tests_wait_for_things_and_never_for_time() {
    // A harness polls in one place; everything else waits through it. Services that tests call may take their time.
    let code = files(&["tests/it", "gateway/tests/it"], ".rs");
    let may = ["harness/", "it/patience.rs", "it/house.rs", "it/shop.rs", "it/talker.rs", "it/keyring.rs"];
    let sleeping = code.iter().filter(|(file, _)| !may.iter().any(|part| file.contains(part)));
    let mark = concat!("sle", "ep(");
    let sleeping = sleeping.filter(|(_, text)| text.contains(mark));
    let sleeping: Vec<String> = sleeping.map(|(file, _)| file.clone()).collect();
    none(&sleeping, "wait with harness::eventually (at the edge: patience::until) for what is to happen");
}

#[test]
fn the_chassis_stays_small_and_names_no_service_crate() {
    let mut lines = 0;
    let mut faults = Vec::new();
    for (file, text) in files(&["chassis/src"], ".rs") {
        let code = without_tests(&text).lines().map(str::trim);
        lines += code.filter(|line| !line.is_empty() && !line.starts_with("//")).count();
        let services = ["tenon_auth::", "tenon_tenant::", "tenon_billing::", "tenon_workflow::"];
        faults.extend(services.iter().filter(|name| text.contains(**name)).map(|name| format!("{file}: {name}")));
    }
    none(&faults, "the chassis knows no service");
    assert!(lines <= CHASSIS_LINES, "the chassis has {lines} code lines of {CHASSIS_LINES}: move something out");
}

#[test]
fn a_proto_file_holds_one_service() {
    let protos = files(&["proto/tenon"], ".proto");
    let many = protos.iter().filter(|(file, text)| {
        let services = text.lines().filter(|line| line.starts_with("service ")).count();
        services != usize::from(!file.contains("/options/"))
    });
    let many: Vec<String> = many.map(|(file, _)| file.clone()).collect();
    none(&many, "one file, one service, one resource");
}
