//! Random programs of counters, timers, branches, signals and runs of runs, killed while they run: at the end every counter
//! is exact. The seed makes the programs and the kills the same in each test run.

use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{Dice, Eyes, LEASE};
use crate::harness::{Backends, Mesh, Tenant, answer, eventually};

/// Programs, and runs of each.
const PROGRAMS: usize = 6;
const RUNS: usize = 3;

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
}

struct Program {
    id: String,
    steps: Vec<Step>,
}

impl Program {
    fn random(number: usize, dice: &mut Dice) -> Self {
        let steps = (0..3 + dice.below(4)).map(|_| match dice.below(5) {
            0 => Step::Both,
            1 => Step::Nap,
            2 => Step::Child,
            3 => Step::Signal,
            _ => Step::Count,
        });
        Self { id: format!("program-{number}"), steps: steps.collect() }
    }

    fn definition(&self) -> Value {
        let mut states = Map::new();
        for (index, step) in self.steps.iter().enumerate() {
            let branch = |name: &str| json!({ "StartAt": name, "States": { name: with_end(count()) } });
            let mut state = match step {
                Step::Count => count(),
                Step::Both => json!({ "Type": "Parallel",
                    "Branches": [branch(&format!("L{index}")), branch(&format!("R{index}"))] }),
                Step::Nap => json!({ "Type": "Wait", "Seconds": 1 }),
                Step::Child => json!({ "Type": "Task", "Resource": "workflow:leaf", "Arguments": {} }),
                Step::Signal => json!({ "Type": "Task", "Resource": format!("signal:s{index}"), "Arguments": {} }),
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
                Step::Count | Step::Child => 1,
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

fn with_end(mut state: Value) -> Value {
    state["End"] = json!(true);
    state
}

/// Sends a request until it is answered by something that lives.
async fn answered(mesh: &Mesh, tenant: &Tenant, path: &str, body: &Value) -> Value {
    let (status, body) = eventually(&format!("{path} is answered"), || async {
        let request = mesh.request(Method::POST, path).bearer_auth(&tenant.token).json(body);
        let response = request.send().await.ok()?;
        let status = response.status();
        let body: Value = response.json().await.ok()?;
        (!status.is_server_error()).then_some((status, body))
    })
    .await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

async fn published(mesh: &Mesh, tenant: &Tenant, id: &str, definition: &Value) {
    let request = mesh.request(Method::POST, "/v1/workflows").bearer_auth(&tenant.token);
    let (status, body) = answer(request.json(&json!({ "workflowId": id, "definition": definition }))).await;
    assert_eq!(status, StatusCode::OK, "{id}: {body}\n{definition}");
}

#[tokio::test(flavor = "multi_thread")]
async fn random_programs_that_are_killed_count_exactly() {
    let mut mesh = Mesh::start_with(Backends::Embedded, &[LEASE]).await;
    mesh.lift_limits().await;
    let (tenant, eyes, mut dice) = (mesh.onboard("verifier").await, Eyes::open(&mesh).await, Dice(11));
    published(
        &mesh,
        &tenant,
        "leaf",
        &json!({ "StartAt": "One", "QueryLanguage": "JSONata",
        "States": { "One": with_end(count()) } }),
    )
    .await;
    let programs: Vec<Program> = (0..PROGRAMS).map(|number| Program::random(number, &mut dice)).collect();
    for program in &programs {
        published(&mesh, &tenant, &program.id, &program.definition()).await;
    }
    let runs = i64::try_from(RUNS).expect("a few");
    let expected = runs * programs.iter().map(Program::counts).sum::<i64>();
    let children = RUNS * programs.iter().map(|program| program.of(Step::Child)).sum::<usize>();
    assert!(expected > 20 && children > 3, "the seed makes dull programs: {expected} counts, {children} children");

    let mut names = Vec::new();
    for program in &programs {
        for number in 0..RUNS {
            let body = json!({ "workflow": program.id, "idempotencyKey": format!("{}-{number}", program.id) });
            let run = answered(&mesh, &tenant, "/v1/runs", &body).await;
            names.push((program, run["name"].as_str().expect("a run has a name").to_owned()));
        }
    }
    let counted = "select count(*) from billing.usage_events where meter = 'verified'";
    let half = (names.len() / 2).max(1);
    for (index, (program, name)) in names.iter().enumerate() {
        if index == half {
            // Some have their signals already and some not.
            mesh.kill_9("all");
            mesh.restart("all").await;
        }
        for (step, _) in program.steps.iter().enumerate().filter(|(_, step)| **step == Step::Signal) {
            let signal = json!({ "signal": format!("s{step}"), "signalId": format!("s{step}") });
            for _ in 0..2 {
                answered(&mesh, &tenant, &format!("/v1/{name}:signal"), &signal).await;
            }
        }
    }
    eyes.reaches(counted, dice.below(u64::try_from(expected).expect("it counts up")).cast_signed()).await;
    mesh.kill_9("all");
    mesh.restart("all").await;
    let ended = "select count(*) from workflow.runs where ended_at is not null";
    let all = i64::try_from(names.len() + children).expect("a few");
    eyes.reaches(ended, all).await;
    let wrong = "select coalesce(string_agg(concat_ws(' ', workflow_id, state, error, cause), '; '), '')
                 from workflow.runs where state <> 'SUCCEEDED'";
    assert_eq!(eyes.text(wrong).await, "", "runs have failed");
    assert_eq!(eyes.count(counted).await, expected, "steps were done twice or not at all");
    assert_eq!(eyes.count("select count(*) from workflow.runs").await, all, "runs were started twice or not at all");
    for left in ["workflow.tasks", "workflow.messages"] {
        assert_eq!(eyes.count(&format!("select count(*) from {left}")).await, 0, "{left} keeps what nobody needs");
    }
}
