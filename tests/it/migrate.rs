//! `tenon migrate`: safe to run twice and at once; servers refuse what is behind; settings are refused by name.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use sqlx::Row as _;

use crate::harness::{Cluster, Database, Ports, tenon};

const SERVICES: [&str; 4] = ["AUTH", "TENANT", "BILLING", "WORKFLOW"];

fn migrate(url: &str) -> Command {
    let mut command = tenon();
    command.arg("migrate").env("TENON_ADMIN_DATABASE_URL", url);
    command.envs(SERVICES.map(|service| (format!("TENON_{service}_DB_PASSWORD"), Database::ROLE_PASSWORD)));
    command
}

#[tokio::test]
async fn it_can_run_at_once_and_again() {
    let database = Database::create_empty().await;
    let url = database.owner_url();
    let start = || migrate(&url).stderr(Stdio::piped()).spawn().unwrap();
    let outputs: Vec<_> =
        [start(), start(), start()].into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let said: Vec<String> = outputs.iter().map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).collect();
    assert!(outputs.iter().all(|output| output.status.success()), "{said:?}");
    let applied = |text: &String| text.matches("applied ").count();
    assert_eq!(said.iter().filter(|text| applied(text) > 0).count(), 1, "one applied all, the others none: {said:?}");
    let again = migrate(&url).output().unwrap();
    assert!(again.status.success());
    assert_eq!(applied(&String::from_utf8_lossy(&again.stderr).into_owned()), 0);
}

#[test]
fn it_waits_for_a_server_that_is_not_there_yet() {
    let ports = Ports::take();
    let port = ports.next();
    let url = format!("postgres://tenon@127.0.0.1:{port}/mesh");
    let mut early = migrate(&url).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(early.stderr.take().unwrap()).lines();
    let first = said.next().unwrap().unwrap();
    assert!(first.contains("waiting 15 s at most for the database"), "{first}");
    let _cluster = Cluster::start(port);
    let rest: Vec<String> = said.map_while(Result::ok).collect();
    assert!(early.wait().unwrap().success(), "{rest:?}");
}

#[tokio::test]
async fn service_roles_own_nothing_and_stand_below_row_level_security() {
    let database = Database::create().await;
    let rows = sqlx::query(
        "select rolname from pg_roles where rolname like 'tenon\\_%' and
         (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or oid in (select relowner from pg_class))",
    )
    .fetch_all(&mut database.owner().await)
    .await
    .unwrap();
    let mighty: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(mighty, Vec::<String>::new());
}

#[tokio::test]
async fn a_server_refuses_a_database_that_is_behind_and_says_what_to_type() {
    let (database, ports) = (Database::create_empty().await, Ports::take());
    let output = serve("auth", &database.url(), Database::ROLE_PASSWORD, &ports);
    assert!(output.contains("`tenon migrate`"), "{output}");
    let migrated = Database::create().await;
    let output = serve("auth", &migrated.url(), "another password", &ports);
    assert!(output.contains("TENON_AUTH_DB_PASSWORD") && output.contains("`tenon migrate`"), "{output}");
}

/// What a server says that does not start.
fn serve(service: &str, url: &str, password: &str, ports: &Ports) -> String {
    let key = "bWVzaC1rZXktb2YtdGhlLXRlc3RzLTMyLWJ5dGVzISE=";
    let mut command = tenon();
    command.args(["serve", service]).env("TENON_DATABASE_URL", url).env("TENON_AUTH_DB_PASSWORD", password);
    command.env("TENON_MESH_KEY", key).env("TENON_MASTER_KEY", key).env("TENON_OPERATOR_KEY", "operator");
    command.env("TENON_AUTH_PORT", ports.next().to_string()).env("TENON_ADMIN_PORT", ports.next().to_string());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_settings_file_stands_below_the_environment_and_its_mistakes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tenon.toml");
    let print = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = tenon();
        command.args(["config", "print", "serve", "auth", "--drain-s", "3"]).env("TENON_CONFIG", &file);
        let output = command.env("TENON_LOG", "debug").env("TENON_OPERATOR_KEY", "hush-hush").output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    let (ok, text) = print("log = \"warn\"\ndomain = \"from.file\"\ndrain_s = 9\n");
    assert!(ok, "{text}");
    for line in [
        "log = \"debug\"  # TENON_LOG",
        "domain = \"from.file\"  # /",
        "drain_s = 3  # flag",
        "bind = \"127.0.0.1\"  # default",
    ] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
    assert!(text.contains("operator_key = \"[redacted]\"") && !text.contains("hush"), "{text}");
    let (ok, text) = print("databse_url = \"x\"");
    assert!(!ok && text.contains("unknown key `databse_url`; did you mean `database_url`?"), "{text}");
}

#[test]
fn a_secret_that_cannot_be_used_is_not_shown() {
    let output = tenon().args(["serve", "auth"]).env("TENON_MESH_KEY", "hush-hush").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--mesh-key") && said.contains("openssl rand -base64 32"), "{said}");
    assert!(!said.contains("hush"), "{said}");
}
