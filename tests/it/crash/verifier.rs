//! Random programs of counters, timers, branches, signals, workers and runs of runs, while all that they stand on is killed:
//! at the end every counter is exact. The seed makes the programs and the kills the same in each test run.

use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tenon_sdk::{Task, Worker};

use super::{Dice, Eyes, LEASE, comes_again, program::ended};
use crate::harness::{Backends, Edge, Mesh, Process, Tenant, eventually};

/// Programs, and runs of each.
const PROGRAMS: usize = 6;
const RUNS: usize = 3;
/// What tells a process of this test binary that it is the worker: where the mesh is, and as whom.
const WORKER: &str = "VERIFIER_WORKER";

/// A step of a program.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    /// Counts one.
    Count,
    /// Counts two, side by side.
    Both,
    Nap,
    /// A run that counts one.
    Child,
    /// Waits for a signal of its own name.
    Signal,
    /// A worker counts one, in a process of its own.
    Work,
}

struct Program {
    id: String,
    steps: Vec<Step>,
}

impl Program {
    fn random(number: usize, dice: &mut Dice) -> Self {
        let steps = (0..3 + dice.below(4)).map(|_| match dice.below(6) {
            0 => Step::Both,
            1 => Step::Nap,
            2 => Step::Child,
            3 => Step::Signal,
            4 => Step::Work,
            _ => Step::Count,
        });
        Self { id: format!("program-{number}"), steps: steps.collect() }
    }

    fn definition(&self) -> Value {
        let mut states = Map::new();
        for (index, step) in self.steps.iter().enumerate() {
            let branch = |name: &str| json!({ "StartAt": name, "States": { name: ended(count()) } });
            let mut state = match step {
                Step::Count => count(),
                Step::Both => json!({ "Type": "Parallel",
                    "Branches": [branch(&format!("L{index}")), branch(&format!("R{index}"))] }),
                Step::Nap => json!({ "Type": "Wait", "Seconds": 1 }),
                Step::Child => json!({ "Type": "Task", "Resource": "workflow:leaf", "Arguments": {} }),
                Step::Signal => json!({ "Type": "Task", "Resource": format!("signal:s{index}"), "Arguments": {} }),
                Step::Work => json!({ "Type": "Task", "Resource": "activity:count", "Arguments": {} }),
            };
            match index + 1 == self.steps.len() {
                true => state["End"] = json!(true),
                false => state["Next"] = json!(format!("S{}", index + 1)),
            }
            states.insert(format!("S{index}"), state);
        }
        json!({ "StartAt": "S0", "QueryLanguage": "JSONata", "States": states })
    }

    /// What one run of it counts.
    fn counts(&self) -> i64 {
        self.steps
            .iter()
            .map(|step| match step {
                Step::Both => 2,
                Step::Count | Step::Child | Step::Work => 1,
                Step::Nap | Step::Signal => 0,
            })
            .sum()
    }

    fn of(&self, wanted: Step) -> usize {
        self.steps.iter().filter(|step| **step == wanted).count()
    }
}

/// Counts one more each time that it is done without its idempotency key.
fn count() -> Value {
    json!({ "Type": "Task", "Resource": "grpc:tenon.billing.v1.UsageService/IngestUsage",
            "Arguments": { "events": [{ "id": "{% $string($random()) %}", "meter": "verified" }] } })
}

/// Sends a request until it is answered by something that lives.
async fn answered(edge: &Edge, token: &str, path: &str, body: &Value) -> Value {
    let (status, body) = eventually(&format!("{path} is answered"), || async {
        let response = edge.request(Method::POST, path).bearer_auth(token).json(body).send().await.ok()?;
        let status = response.status();
        let body: Value = response.json().await.ok()?;
        (!comes_again(status, &body)).then_some((status, body))
    })
    .await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

/// Starts a run under a key and sends it what it waits for, each twice.
async fn driven(edge: Edge, token: String, key: String, workflow: String, signals: Vec<usize>) {
    let body = json!({ "workflow": workflow, "idempotencyKey": key });
    let run = answered(&edge, &token, "/v1/runs", &body).await;
    let name = run["name"].as_str().expect("a run has a name");
    for step in signals {
        let signal = json!({ "signal": format!("s{step}"), "signalId": format!("s{step}") });
        for _ in 0..2 {
            answered(&edge, &token, &format!("/v1/{name}:signal"), &signal).await;
        }
    }
}

/// A worker that `kill -9` ends: this binary again, with only the test that is one.
fn worker(mesh: &Mesh, tenant: &Tenant) -> Process {
    let mut command = Command::new(std::env::current_exe().expect("a test has a file"));
    command.args(["--exact", "crash::verifier::this_is_the_worker_of_the_verifier", "--nocapture"]);
    let service = format!("http://127.0.0.1:{}", mesh.ports["workflow"]);
    let told = json!({ "edge": mesh.edge.url, "service": service, "token": tenant.token });
    Process::start("worker", command.env(WORKER, told.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn this_is_the_worker_of_the_verifier() {
    let Ok(told) = std::env::var(WORKER) else { return };
    let told: Value = serde_json::from_str(&told).expect("the verifier writes JSON");
    let of = |name: &str| told[name].as_str().expect("a text").to_owned();
    let (edge, token, mine) = (Edge::new(&of("edge"), ""), of("token"), of("token"));
    let work = move |task: Task| {
        let (edge, token) = (edge.clone(), token.clone());
        async move {
            // The key makes the effect one, however many workers have died with the task.
            let event = json!({ "events": [{ "id": task.idempotency_key, "meter": "verified" }] });
            answered(&edge, &token, "/v1/usage:ingest", &event).await;
            Ok(json!({}))
        }
    };
    let worker = Worker::connect(&of("service"), move || std::future::ready(Ok(mine.clone()))).expect("a URL");
    worker.queue("count", work).run_until(std::future::pending()).await.expect("it is let in");
}

/// Runs random programs and kills one victim after the other meanwhile.
async fn count_exactly(mut mesh: Mesh, slug: &str, seed: u64, victims: &[&str]) {
    mesh.lift_limits().await;
    let (tenant, eyes, mut dice) = (mesh.onboard(slug).await, Eyes::open(&mesh).await, Dice(seed));
    let leaf = json!({ "StartAt": "One", "QueryLanguage": "JSONata", "States": { "One": ended(count()) } });
    let programs: Vec<Program> = (0..PROGRAMS).map(|number| Program::random(number, &mut dice)).collect();
    let definitions = programs.iter().map(|program| (program.id.as_str(), program.definition()));
    for (id, definition) in definitions.chain([("leaf", leaf)]) {
        let body = json!({ "workflowId": id, "definition": definition });
        answered(&mesh.edge, &tenant.token, "/v1/workflows", &body).await;
    }
    let runs = i64::try_from(RUNS).expect("a few");
    let expected = runs * programs.iter().map(Program::counts).sum::<i64>();
    let of = |step: Step| RUNS * programs.iter().map(|program| program.of(step)).sum::<usize>();
    let (children, works) = (of(Step::Child), of(Step::Work));
    assert!(expected > 20 && children > 3 && works > 3, "dull programs: {expected}, {children}, {works}");

    let mut worker_process = worker(&mesh, &tenant);
    let mut driving = Vec::new();
    for (program, number) in programs.iter().flat_map(|program| (0..RUNS).map(move |number| (program, number))) {
        let steps = program.steps.iter().enumerate();
        let signals = steps.filter(|(_, step)| **step == Step::Signal).map(|(index, _)| index).collect();
        let (edge, token, key) = (mesh.edge.clone(), tenant.token.clone(), format!("{}-{number}", program.id));
        driving.push(tokio::spawn(driven(edge, token, key, program.id.clone(), signals)));
    }
    let counted = "select count(*) from billing.usage_events where meter = 'verified'";
    let share = u64::try_from(expected).expect("it counts up") / (u64::try_from(victims.len()).expect("few") + 1);
    for (turn, victim) in (0..).zip(victims) {
        eyes.reaches(counted, (turn * share + dice.below(share)).cast_signed()).await;
        match *victim {
            "worker" => {
                worker_process.kill_9();
                worker_process = worker(&mesh, &tenant);
            }
            "postgres" => {
                mesh.crash_postgres();
                // It finds its database again by itself.
                let body = json!({ "workflow": "leaf", "idempotencyKey": format!("back-{turn}") });
                answered(&mesh.edge, &tenant.token, "/v1/runs", &body).await;
            }
            "redis" | "nats" => mesh.restart_backend(victim),
            _ => {
                mesh.kill_9("all");
                mesh.restart("all").await;
            }
        }
    }
    for driven in driving {
        driven.await.expect("all that was sent is acknowledged");
    }
    let extra = i64::try_from(victims.iter().filter(|victim| **victim == "postgres").count()).expect("a few");
    let all = runs * i64::try_from(PROGRAMS).expect("a few") + i64::try_from(children).expect("a few") + extra;
    are_exact(&eyes, (expected + extra, all)).await;
}

/// Waits for the end of all runs; then there are as many counts and runs as there must be.
async fn are_exact(eyes: &Eyes, (counts, runs): (i64, i64)) {
    let ended = "select count(*) from workflow.runs where ended_at is not null";
    eventually(&format!("{runs} runs end"), || async {
        // What a worker had claimed when it died would be another's after half a minute.
        eyes.change("update workflow.tasks set lease_until = now() where state = 'CLAIMED'").await;
        (eyes.count(ended).await >= runs).then_some(())
    })
    .await;
    let wrong = "select coalesce(string_agg(concat_ws(' ', workflow_id, state, error, cause), '; '), '')
                 from workflow.runs where state <> 'SUCCEEDED'";
    assert_eq!(eyes.text(wrong).await, "", "runs have failed");
    let counted = "select count(*) from billing.usage_events where meter = 'verified'";
    assert_eq!(eyes.count(counted).await, counts, "steps were done twice or not at all");
    assert_eq!(eyes.count("select count(*) from workflow.runs").await, runs, "runs were started twice or not at all");
    let used = "select coalesce(sum(quantity), 0)::bigint from billing.usage_events where meter = 'workflow_runs'";
    eyes.reaches(used, runs).await;
    assert_eq!(eyes.count(used).await, runs, "use was counted twice");
    for left in ["workflow.tasks", "workflow.messages"] {
        assert_eq!(eyes.count(&format!("select count(*) from {left}")).await, 0, "{left} keeps what nobody needs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_programs_that_are_killed_count_exactly() {
    let mesh = Mesh::start_with(Backends::Embedded, &[LEASE]).await;
    count_exactly(mesh, "verifier", 11, &["all", "worker", "all"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_programs_count_exactly_while_every_server_is_killed() {
    let mesh = Mesh::start_on_own_postgres(Backends::Full, &[LEASE]).await;
    let victims = ["worker", "postgres", "nats", "all", "redis", "postgres", "worker", "all"];
    count_exactly(mesh, "servers", 12, &victims).await;
}
