//! What each kind of state does, and runs that are stopped, parked or late.

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::{ended, history, only, publish, start};
use crate::harness::{Backends, EVENTS, Mesh, Tenant, eventually, text};

const USAGE: &str = "grpc:tenon.billing.v1.UsageService/GetUsage";
/// Fails each time.
const NO_RUN: &str = "grpc:tenon.workflow.v1.RunService/GetRun";

fn machine(start: &str, states: Value) -> Value {
    Value::Object([("StartAt".to_owned(), json!(start)), ("States".to_owned(), states)].into_iter().collect())
}

/// What it shows, the definition, the input, and what the run must come to: its state, and its output or error.
type Case = (&'static str, Value, Value, &'static str, Value);

fn good(what: &'static str, definition: Value, input: Value, output: Value) -> Case {
    (what, definition, input, "SUCCEEDED", output)
}

fn pass(name: &str, output: &str) -> Value {
    machine(name, json!({ name: { "Type": "Pass", "Output": output, "End": true } }))
}

/// A state whose failure becomes the output.
fn caught(mut state: Value) -> Value {
    let output = "{% $states.errorOutput.Error %}";
    state["Catch"] = json!([{ "ErrorEquals": ["States.ALL"], "Next": "C", "Output": output }]);
    state["End"] = json!(true);
    machine("A", json!({ "A": state, "C": { "Type": "Succeed" } }))
}

fn plain_states() -> Vec<Case> {
    let first = json!({
        "Type": "Pass", "Output": { "x": "{% $states.input.n + 1 %}" },
        "Assign": { "v": "{% $states.input.n %}" }, "Next": "B",
    });
    let second = json!({ "Type": "Pass", "Output": "{% $states.input.x * 10 + $v %}", "End": true });
    let rules = json!([
        { "Condition": "{% $states.input.n > 10 %}", "Next": "Many", "Output": "{% $states.input.n %}" },
        { "Condition": "{% $states.input.n < 0 %}", "Next": "None" },
    ]);
    let fail = json!({ "Type": "Fail", "Error": "Negative", "Cause": "{% 'it is ' & $states.input.n %}" });
    let many = json!({ "Type": "Pass", "Output": "{% 'many: ' & $states.input %}", "End": true });
    let choice = json!({ "A": { "Type": "Choice", "Choices": rules }, "Many": many, "None": fail });
    let choice = machine("A", choice);
    let nothing = json!(
        "States.Runtime: An error occurred while executing the state 'A' (entered at the event id #2). \
         Failed to transition out of the state. The state does not point to a next state."
    );
    let past = json!({ "Type": "Wait", "Timestamp": "2020-01-01T00:00:00Z", "Output": "awake" });
    let second_long = json!({ "Type": "Wait", "Seconds": 1 });
    let mut late = only(json!({ "Type": "Wait", "Seconds": 3600 }));
    late["TimeoutSeconds"] = json!(1);
    let succeed = json!({ "S": { "Type": "Succeed", "Output": { "done": true } } });
    vec![
        good("Pass and variables", machine("A", json!({ "A": first, "B": second })), json!({ "n": 1 }), json!(21)),
        good("Choice", choice.clone(), json!({ "n": 11 }), json!("many: 11")),
        ("Choice and Fail", choice.clone(), json!({ "n": -1 }), "FAILED", json!("Negative: it is -1")),
        ("no Choice", choice, json!({ "n": 5 }), "FAILED", nothing),
        good("Wait for a past time", only(past), json!({}), json!("awake")),
        good("Wait for a second", only(second_long), json!({ "k": [1] }), json!({ "k": [1] })),
        good("Succeed", machine("S", succeed), json!({}), json!({ "done": true })),
        ("TimeoutSeconds of the whole", late, json!({}), "TIMED_OUT", json!("States.Timeout: ")),
    ]
}

fn states_that_work() -> Vec<Case> {
    let fails = json!({ "Type": "Task", "Resource": NO_RUN, "Arguments": { "name": "runs/none" } });
    let mut retried = fails.clone();
    retried["Retry"] = json!([{ "ErrorEquals": ["RUN_NOT_FOUND"], "IntervalSeconds": 1, "MaxAttempts": 1 }]);
    let output = "{% $type($states.result.meters) %}";
    let task = json!({ "Type": "Task", "Resource": USAGE, "Arguments": {}, "Output": output });
    let squares = json!({
        "Type": "Map", "Items": "{% $states.input.items %}", "MaxConcurrency": 2,
        "ItemProcessor": pass("I", "{% $states.input * $states.input %}"),
    });
    let branches = |second: Value| json!({ "Type": "Parallel", "Branches": [pass("L", "a"), second] });
    let broken = branches(machine("F", json!({ "F": { "Type": "Fail", "Error": "Mine" } })));
    let no_value = json!({ "Type": "Task", "Resource": USAGE, "Arguments": "{% $error('no') %}" });
    let none = || json!({});
    vec![
        good("Task", only(task), none(), json!("array")),
        ("Task that fails", only(fails.clone()), none(), "FAILED", json!("RUN_NOT_FOUND: there is no such run")),
        good("Catch", caught(fails), none(), json!("RUN_NOT_FOUND")),
        good("Retry and Catch", caught(retried), none(), json!("RUN_NOT_FOUND")),
        good("Parallel", only(branches(pass("R", "b"))), none(), json!(["a", "b"])),
        good("Parallel that fails", caught(broken), none(), json!("Mine")),
        good("Map", only(squares.clone()), json!({ "items": [1, 2, 3, 4, 5] }), json!([1, 4, 9, 16, 25])),
        good("Map of nothing", only(squares), json!({ "items": [] }), json!([])),
        good("an expression that fails", caught(no_value), none(), json!("States.QueryEvaluationError")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_does_what_its_type_says() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("states").await;
    let mut runs = Vec::new();
    for (number, (what, definition, input, state, result)) in
        (1..).zip(plain_states().into_iter().chain(states_that_work()))
    {
        let id = format!("case-{number}");
        publish(&mesh, &token, &id, &definition).await;
        runs.push((what, start(&mesh, &token, &json!({ "workflow": id, "input": input })).await, state, result));
    }
    for (what, name, state, result) in runs {
        let run = ended(&mesh, &token, &name).await;
        assert_eq!(run["state"], state, "{what}: {run}");
        let came_to = match state {
            "SUCCEEDED" => run["output"].clone(),
            "TIMED_OUT" => json!(format!("{}: ", text(&run["error"]))),
            _ => json!(format!("{}: {}", text(&run["error"]), text(&run["cause"]))),
        };
        assert_eq!(came_to, result, "{what}: {run}");
        tells_its_story(&mesh, &token, &name, what).await;
    }
}

/// A history is numbered without holes, each event leads back to the first, and it begins and ends as it must.
async fn tells_its_story(mesh: &Mesh, token: &str, name: &str, what: &str) {
    let events = history(mesh, token, name).await;
    let number =
        |event: &Value, field: &str| text(&event[field]).parse::<usize>().expect("an int64 is a text of digits");
    let kinds: Vec<String> = events.iter().map(|event| text(&event["type"])).collect();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(number(event, "id"), index + 1, "{what}: {event}");
        let previous = number(event, "previousEventId");
        // As in Step Functions, the first state follows nothing, and neither does the end of a run that times out.
        let is_first = index < 2 || event["type"] == "ExecutionTimedOut";
        assert!(previous <= index && (previous > 0) != is_first, "{what}: {event}");
    }
    let count = |kind: &str| kinds.iter().filter(|known| *known == kind).count();
    assert_eq!(kinds.first().map(String::as_str), Some("ExecutionStarted"), "{what}: {kinds:?}");
    assert!(kinds.last().is_some_and(|kind| kind.starts_with("Execution")), "{what}: {kinds:?}");
    match what {
        "Pass and variables" => assert_eq!(
            kinds,
            [
                "ExecutionStarted",
                "PassStateEntered",
                "PassStateExited",
                "PassStateEntered",
                "PassStateExited",
                "ExecutionSucceeded"
            ]
        ),
        "Task" => assert_eq!(
            kinds[1..kinds.len() - 1],
            ["TaskStateEntered", "TaskScheduled", "TaskStarted", "TaskSucceeded", "TaskStateExited"]
        ),
        "Retry and Catch" => assert_eq!((count("TaskScheduled"), count("TaskFailed")), (2, 2), "{kinds:?}"),
        "Map" => assert_eq!(count("PassStateExited"), 5, "{kinds:?}"),
        _ => {}
    }
}

async fn cancelled(mesh: &Mesh, token: &str, name: &str) -> Value {
    let (status, run) = mesh.post(&format!("/v1/{name}:cancel"), token, &json!({ "reason": "enough" })).await;
    assert_eq!(status, StatusCode::OK, "{run}");
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_cancelled_asleep_in_a_call_and_not_after_its_end() {
    let mut mesh = Mesh::start_separately(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("cancels").await;
    let calls = json!({ "Type": "Task", "Resource": USAGE, "Arguments": {} });
    let mut late = calls.clone();
    late["TimeoutSeconds"] = json!(1);
    for (id, state) in [("sleeps", json!({ "Type": "Wait", "Seconds": 3600 })), ("calls", calls), ("late", late)] {
        publish(&mesh, &token, id, &only(state)).await;
    }
    let finished = start(&mesh, &token, &json!({ "workflow": "calls" })).await;
    assert_eq!(ended(&mesh, &token, &finished).await["state"], "SUCCEEDED");
    assert_eq!(cancelled(&mesh, &token, &finished).await["state"], "SUCCEEDED", "an end is an end");
    // From here on a call gets no answer.
    mesh.signal("billing", Signal::STOP);
    for (workflow, last) in [("sleeps", "WaitStateEntered"), ("calls", "TaskScheduled")] {
        let name = start(&mesh, &token, &json!({ "workflow": workflow })).await;
        eventually(&format!("{workflow} is at its state"), || async {
            history(&mesh, &token, &name).await.iter().any(|event| event["type"] == last).then_some(())
        })
        .await;
        let run = cancelled(&mesh, &token, &name).await;
        assert_eq!(ended(&mesh, &token, &name).await["state"], "CANCELLED", "{workflow}: {run}");
        assert_eq!(cancelled(&mesh, &token, &name).await["state"], "CANCELLED", "twice is as once");
        let events = history(&mesh, &token, &name).await;
        let end = events.last().expect("there is a history");
        assert_eq!((&end["type"], &end["details"]["cause"]), (&json!("ExecutionAborted"), &json!("enough")), "{end}");
    }
    let name = start(&mesh, &token, &json!({ "workflow": "late" })).await;
    let run = ended(&mesh, &token, &name).await;
    assert_eq!((&run["state"], &run["error"]), (&json!("FAILED"), &json!("States.Timeout")), "{run}");
    mesh.signal("billing", Signal::CONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_a_suspended_tenant_parks_and_goes_on_when_it_is_active() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let tenant = mesh.onboard("parks").await;
    let states = json!({
        "Call": { "Type": "Task", "Resource": USAGE, "Arguments": {}, "Next": "Rest" },
        "Rest": { "Type": "Wait", "Seconds": 1, "Next": "Call" },
    });
    publish(&mesh, &tenant.token, "loops", &machine("Call", states)).await;
    let name = start(&mesh, &tenant.token, &json!({ "workflow": "loops" })).await;
    let owner = tokio::sync::Mutex::new(mesh.database.owner().await);
    let count = async |sql: &str| {
        sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql))
            .fetch_one(&mut *owner.lock().await)
            .await
            .expect("the owner reads all")
    };
    let done = format!("select count(*) from {EVENTS} h where type = 'TaskSucceeded'");
    eventually("the run is at work", || async { (count(&done).await > 0).then_some(()) }).await;
    let path = format!("/v1/{name}");
    let (status, answer) = mesh.operate(&format!("/v1/{}:suspend", tenant.name), &json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    eventually("the suspension is known", || async {
        (mesh.get(&path, &tenant.token).await.0 == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    // It waits for one second between calls that take milliseconds: one that is silent for longer is parked.
    let silent = format!(
        "select count(*) from (select max(time) as last from {EVENTS} h) e
         where last < clock_timestamp() - interval '3 seconds'"
    );
    eventually("the run is parked", || async { (count(&silent).await == 1).then_some(()) }).await;
    let parked = count(&done).await;
    let (status, answer) = mesh.operate(&format!("/v1/{}:activate", tenant.name), &json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    eventually("the run goes on", || async { (count(&done).await > parked).then_some(()) }).await;
    eventually("the tenant is let in", || async {
        (mesh.get(&path, &tenant.token).await.0 == StatusCode::OK).then_some(())
    })
    .await;
    cancelled(&mesh, &tenant.token, &name).await;
    assert_eq!(ended(&mesh, &tenant.token, &name).await["state"], "CANCELLED");
}
