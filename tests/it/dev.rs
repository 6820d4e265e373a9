//! `tenon dev`: ports, data, secrets, and that nothing outlives it.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Dev, Ports, eventually, port_flags, tenon, text};

#[test]
fn a_taken_port_is_named_with_the_flag_that_moves_it() {
    let ports = Ports::take();
    let flags = port_flags(&ports);
    let billing = flags.iter().position(|flag| flag == "--billing-port").map(|at| flags[at + 1].clone()).unwrap();
    let _held = TcpListener::bind(format!("127.0.0.1:{billing}")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = tenon();
    let output = command.arg("dev").args(&flags).arg("--data-dir").arg(folder.path().join("data")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("{billing} (billing)")), "{said}");
    assert!(said.contains("--billing-port PORT") && said.contains("--port-offset"), "{said}");
    assert!(!folder.path().join("data").exists(), "ports are checked before anything is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_finds_the_data_and_nothing_runs_in_between() {
    let (ports, folder) = (Ports::take(), tempfile::tempdir().unwrap());
    let flags = port_flags(&ports);
    open_to_all(folder.path());
    let data = folder.path().join("data");
    let mut first = Dev::on(&data, &flags).await;
    let acme = first.edge.onboard("acme").await;
    assert_eq!(fs::metadata(data.join("secrets.toml")).unwrap().permissions().mode() & 0o777, 0o600);
    let refused = Command::new(tenon().get_program())
        .arg("dev")
        .arg("--data-dir")
        .arg(&data)
        .args(port_flags(&Ports::take()))
        .output();
    let refused = String::from_utf8_lossy(&refused.unwrap().stderr).into_owned();
    assert!(refused.contains("another `tenon dev`") && refused.contains("--ephemeral"), "{refused}");
    first.process.signal(Signal::INT);
    assert_eq!(first.process.wait(), Some(0), "{}", first.process.log());
    assert_eq!(processes_of(&data), Vec::<i32>::new(), "Ctrl-C ends all that was started");

    let second = Dev::on(&data, &flags).await;
    let (status, session) = second.edge.login("acme", &acme.email, &acme.password).await;
    assert_eq!(status, StatusCode::OK, "{session}");
    let (status, me) = second.edge.get("/v1/auth/whoami", &acme.token).await;
    assert_eq!((status, text(&me["tenant"])), (StatusCode::OK, acme.name.clone()), "old tokens stay good");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_leaves_neither_processes_nor_temporary_data() {
    let dev = Dev::ephemeral(&Ports::take()).await;
    let folder = text(&dev.ready["dataDir"]);
    assert!(!processes_of(Path::new(&folder)).is_empty(), "Postgres runs on the folder");
    dev.process.kill_9();
    eventually("Postgres has ended and its folder is gone", || async {
        (processes_of(Path::new(&folder)).is_empty() && !Path::new(&folder).exists()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_takes_over_from_one_that_was_killed_with_its_guard() {
    let (ports, folder) = (Ports::take(), tempfile::tempdir().unwrap());
    let flags = port_flags(&ports);
    open_to_all(folder.path());
    let data = folder.path().join("data");
    let first = Dev::on(&data, &flags).await;
    let acme = first.edge.onboard("acme").await;
    let guards = processes(|line| line.contains("guard --interrupt") && line.contains(&*data.to_string_lossy()));
    assert_eq!(guards.len(), 1, "one guard holds Postgres");
    for guard in guards {
        kill_process(Pid::from_raw(guard).unwrap(), Signal::KILL).unwrap();
    }
    first.process.kill_9();
    assert!(!processes_of(&data).is_empty(), "Postgres is an orphan now");
    let mut second = Dev::on(&data, &flags).await;
    assert!(second.process.log().contains("left behind"), "{}", second.process.log());
    let (status, session) = second.edge.login("acme", &acme.email, &acme.password).await;
    assert_eq!(status, StatusCode::OK, "{session}");
    second.process.signal(Signal::TERM);
    assert_eq!(second.process.wait(), Some(0), "{}", second.process.log());
    assert_eq!(processes_of(&data), Vec::<i32>::new());
}

/// Postgres may run as another user, who must be able to pass.
fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Every process that names this folder on its command line, but for this test itself.
fn processes_of(folder: &Path) -> Vec<i32> {
    processes(|line| line.contains(&*folder.to_string_lossy()))
}

fn processes(wanted: impl Fn(&str) -> bool) -> Vec<i32> {
    let line = |pid: i32| {
        let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&raw).replace('\0', " ")
    };
    let all: Vec<(i32, String)> = if Path::new("/proc/self/cmdline").exists() {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(|pid| (pid, line(pid))).collect()
    } else {
        let output = Command::new("ps").args(["-axo", "pid=,args="]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let split =
            |line: &str| line.trim().split_once(' ').and_then(|(pid, args)| Some((pid.parse().ok()?, args.to_owned())));
        text.lines().filter_map(split).collect()
    };
    all.into_iter().filter(|(_, line)| wanted(line)).map(|(pid, _)| pid).collect()
}
