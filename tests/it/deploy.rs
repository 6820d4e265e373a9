//! What the project is deployed with names only settings and commands that the binary knows. The schemas of these files
//! are checked by `make deploy`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::harness::{PARTS, tenon};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The settings of a command by their environment names.
fn settings(command: &[&str]) -> BTreeSet<String> {
    let output = tenon().args(["config", "print"]).args(command).output().expect("the binary can be started");
    let text = String::from_utf8(output.stdout).expect("settings are text");
    assert!(output.status.success(), "tenon config print {command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let keys = text.lines().filter_map(|line| line.trim_start_matches("# ").split(" = ").next());
    keys.map(|key| format!("TENON_{}", key.to_uppercase())).collect()
}

/// Every TENON_... of a text; what a template puts together from parts is not one.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c: char| !is_name(c));
    words.filter(|word| word.starts_with("TENON_") && !word.ends_with('_')).map(str::to_owned).collect()
}

#[test]
fn every_setting_that_a_deployment_names_exists() {
    let commands: [&[&str]; 4] = [&["serve", "all"], &["migrate"], &["dev"], &["health"]];
    let mut known: BTreeSet<String> = commands.iter().flat_map(|command| settings(command)).collect();
    known.insert("TENON_CONFIG".to_owned());
    let mut files = vec!["compose.yaml".to_owned(), "Dockerfile".to_owned(), "scripts/secrets".to_owned()];
    for folder in ["k8s", "helm/tenon", "helm/tenon/templates"] {
        let entries = fs::read_dir(root().join(folder)).expect("a folder of the checkout").flatten();
        let inside = entries.filter(|entry| entry.path().is_file());
        files.extend(inside.map(|entry| format!("{folder}/{}", entry.file_name().to_string_lossy())));
    }
    let unknown: Vec<String> = files
        .iter()
        .flat_map(|file| named(&read(file)).into_iter().map(move |name| format!("{file}: {name}")))
        .filter(|line| !known.iter().any(|name| line.ends_with(&format!(": {name}"))))
        .collect();
    assert!(unknown.is_empty(), "no setting of the binary is called so:\n  {}", unknown.join("\n  "));
}

#[test]
fn every_process_is_given_what_it_cannot_start_without() {
    let (config, compose) = (read("k8s/config.yaml"), read("compose.yaml"));
    for part in PARTS {
        let manifest = read(&format!("k8s/{part}.yaml"));
        let given: BTreeSet<String> = named(&manifest).union(&named(&config)).cloned().collect();
        let service = compose.split(&format!("\n  {part}:\n")).nth(1).unwrap_or_default();
        let service = service.split("\n\n").next().unwrap_or_default();
        assert!(service.contains(&format!("command: [\"serve\", \"{part}\"]")), "compose.yaml does not serve {part}");
        let mut needed = vec!["TENON_MESH_KEY".to_owned(), "TENON_MASTER_KEY".into(), "TENON_OPERATOR_KEY".into()];
        if part != "gateway" {
            let password = format!("TENON_{}_DB_PASSWORD", part.to_uppercase());
            assert!(service.contains(&password), "compose.yaml gives {part} no {password}");
            needed.extend([password, "TENON_DATABASE_URL".to_owned()]);
        }
        for name in needed {
            assert!(given.contains(&name), "k8s/{part}.yaml and k8s/config.yaml do not give {name}");
            assert!(settings(&["serve", part]).contains(&name), "tenon serve {part} does not know {name}");
        }
        let others = PARTS.iter().filter(|other| **other != part && **other != "gateway");
        for password in others.map(|other| format!("TENON_{}_DB_PASSWORD", other.to_uppercase())) {
            assert!(!given.contains(&password), "k8s/{part}.yaml gives {part} the password of another: {password}");
        }
    }
}
