//! Workflows, schedules, secrets and pauses.

use reqwest::Method;
use serde_json::json;

use super::{Desk, Write};

pub(super) const METHODS: [&str; 11] = [
    "workflow.v1.WorkflowService/CreateWorkflow",
    "workflow.v1.ScheduleService/CreateSchedule",
    "workflow.v1.ScheduleService/PauseSchedule",
    "workflow.v1.ScheduleService/ResumeSchedule",
    "workflow.v1.ScheduleService/BackfillSchedule",
    "workflow.v1.ScheduleService/DeleteSchedule",
    "workflow.v1.SecretService/CreateSecret",
    "workflow.v1.SecretService/UpdateSecret",
    "workflow.v1.SecretService/DeleteSecret",
    "workflow.v1.PauseService/CreatePause",
    "workflow.v1.PauseService/DeletePause",
];

/// That a row is gone, as one row.
fn gone(row: &str) -> String {
    format!("(values (1)) as one where not exists (select from {row})")
}

pub(super) async fn prepare(desk: &mut Desk) {
    let succeed = json!({ "Type": "Succeed" });
    for id in ["idle", "backfilled", "paused"] {
        desk.workflow(id, succeed.clone()).await;
    }
    let new = json!({ "workflowId": "new", "definition": { "StartAt": "Only", "States": { "Only": succeed } } });
    let row = "workflow.workflows where workflow_id = 'new'";
    desk.writes.push(Write::post(METHODS[0], "/v1/workflows", &new, row));
    schedules(desk).await;
    secrets(desk).await;
    desk.made("/v1/pauses", json!({ "workflow": "paused" })).await;
    let (idle, paused) = ("workflow.pauses where workflow_id = 'idle'", "workflow.pauses where workflow_id = 'paused'");
    desk.writes.extend([
        Write::post(METHODS[9], "/v1/pauses", &json!({ "workflow": "idle" }), idle),
        Write::delete(METHODS[10], "/v1/pauses/paused", gone(paused)),
    ]);
}

async fn schedules(desk: &mut Desk) {
    let yearly = |id: &str, workflow: &str, paused: bool| json!({ "scheduleId": id, "workflow": workflow, "cron": "0 0 1 1 *", "paused": paused });
    for (id, workflow, paused) in [
        ("pauses", "idle", false),
        ("resumes", "idle", true),
        ("backfills", "backfilled", true),
        ("goes", "idle", true),
    ] {
        desk.made("/v1/schedules", yearly(id, workflow, paused)).await;
    }
    let new_year = json!({ "startTime": "2025-12-31T00:00:00Z", "endTime": "2026-01-02T00:00:00Z" });
    let row = |id: &str, and: &str| format!("workflow.schedules where schedule_id = '{id}' {and}");
    desk.writes.extend([
        Write::post(METHODS[1], "/v1/schedules", &yearly("new", "idle", true), row("new", "")),
        Write::post(METHODS[2], "/v1/schedules/pauses:pause", &json!({}), row("pauses", "and paused")),
        Write::post(METHODS[3], "/v1/schedules/resumes:resume", &json!({}), row("resumes", "and not paused")),
        Write::post(
            METHODS[4],
            "/v1/schedules/backfills:backfill",
            &new_year,
            "workflow.runs where workflow_id = 'backfilled'",
        ),
        Write::delete(METHODS[5], "/v1/schedules/goes", gone(&row("goes", ""))),
    ]);
}

async fn secrets(desk: &mut Desk) {
    for id in ["changes", "goes"] {
        desk.made("/v1/secrets", json!({ "secretId": id, "value": "before" })).await;
    }
    let row = |id: &str, and: &str| format!("workflow.secrets where name = '{id}' {and}");
    let new = json!({ "secretId": "new", "value": "v" });
    desk.writes.extend([
        Write::post(METHODS[6], "/v1/secrets", &new, row("new", "")),
        Write::new(METHODS[7], Method::PATCH, "/v1/secrets/changes", row("changes", "and updated_at > created_at"))
            .json(&json!({ "value": "after" })),
        Write::delete(METHODS[8], "/v1/secrets/goes", gone(&row("goes", ""))),
    ]);
}
