//! Runs that are started, stopped, held back and told something.

use serde_json::json;

use super::{Desk, Write, of_run, task};

pub(super) const METHODS: [&str; 8] = [
    "workflow.v1.RunService/CreateRun",
    "workflow.v1.RunService/BatchCreateRuns",
    "workflow.v1.RunService/CancelRun",
    "workflow.v1.RunService/TerminateRun",
    "workflow.v1.RunService/PauseRun",
    "workflow.v1.RunService/ResumeRun",
    "workflow.v1.RunService/SignalRun",
    "workflow.v1.RunService/RetryRun",
];

pub(super) async fn prepare(desk: &mut Desk) {
    desk.workflow("waits", task("signal:go", &json!({}))).await;
    desk.workflow("fails", json!({ "Type": "Fail", "Error": "E" })).await;
    starts(desk);
    controls(desk).await;
}

fn starts(desk: &mut Desk) {
    let one = json!({ "workflow": "waits", "entityId": "one" });
    let batch = json!({ "requests": [{ "workflow": "waits", "entityId": "batch" }] });
    desk.writes.extend([
        Write::post(METHODS[0], "/v1/runs", &one, "workflow.runs where entity_id = 'one'"),
        Write::post(METHODS[1], "/v1/runs:batchCreate", &batch, "workflow.runs where entity_id = 'batch'"),
    ]);
}

async fn controls(desk: &mut Desk) {
    let redriven = "exists (select from workflow.history h where h.tenant_id = r.tenant_id and h.run_id = r.id
                    having count(*) filter (where h.events::text like '%ExecutionRedriven%') = 1)";
    let go = json!({ "signal": "go" });
    for (method, commit, verb, workflow, body, done) in [
        (METHODS[2], 1, "cancel", "waits", json!({}), "r.state = 'CANCELLED'"),
        (METHODS[3], 1, "terminate", "waits", json!({}), "r.state = 'CANCELLED'"),
        (METHODS[4], 2, "pause", "waits", json!({}), "r.paused is not null"),
        (METHODS[5], 2, "resume", "waits", json!({}), "r.paused is null"),
        (METHODS[6], 1, "signal", "waits", go, "r.state = 'SUCCEEDED'"),
        (METHODS[7], 1, "retry", "fails", json!({}), redriven),
    ] {
        let run = desk.run(workflow).await;
        if verb == "resume" {
            desk.made(&format!("/v1/{run}:pause"), json!({})).await;
        }
        if verb == "retry" {
            desk.eyes.reaches(&format!("select count(*) from {}", of_run(&run, "r.state = 'FAILED'")), 1).await;
        }
        let write = Write::post(method, format!("/v1/{run}:{verb}"), &body, of_run(&run, done)).at(commit);
        desk.writes.push(write);
    }
}
