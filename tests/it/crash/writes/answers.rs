//! What runs wait for: decisions of people and answers of workers.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Again, Desk, Who, Write, of_run, task};
use crate::harness::eventually;

pub(super) const METHODS: [&str; 6] = [
    "workflow.v1.ApprovalService/DecideApproval",
    "workflow.v1.ApprovalService/SubmitApprovalPage",
    "workflow.v1.ActivityService/ClaimActivities",
    "workflow.v1.ActivityService/HeartbeatActivity",
    "workflow.v1.ActivityService/CompleteActivity",
    "workflow.v1.ActivityService/FailActivity",
];

const QUEUES: [&str; 4] = ["claimed", "beats", "completes", "fails-at-work"];

pub(super) async fn prepare(desk: &mut Desk) {
    desk.workflow("asks", task("approval:", &json!({ "title": "Well?" }))).await;
    let mailed = json!({ "title": "Well?", "notify": { "email": ["ada@b.test"] } });
    desk.workflow("mails", task("approval:", &mailed)).await;
    for queue in QUEUES {
        let mut work = task(&format!("activity:{queue}"), &json!({}));
        // As long as a lease lasts without a sign of life.
        work["HeartbeatSeconds"] = json!(3_600);
        desk.workflow(queue, work).await;
    }
    decisions(desk).await;
    work(desk).await;
}

async fn decisions(desk: &mut Desk) {
    let (asks, mails) = (desk.run("asks").await, desk.run("mails").await);
    let name = eventually("it is asked", || async {
        let (_, page) = desk.mesh.get("/v1/approvals", &desk.tenant.token).await;
        let asked = page["approvals"].as_array()?.iter().find(|asked| asked["run"] == json!(asks))?.clone();
        asked["name"].as_str().map(str::to_owned)
    })
    .await;
    let mail = eventually("the other is mailed", || std::future::ready(desk.mail.seen().pop())).await;
    let mail = mail.replace("=\n", "").replace("=3D", "=");
    let from = mail.find("https://acme.test/approve/").expect("the mail has a link") + "https://acme.test".len();
    let link = mail[from..].split(['\n', '"', ' ', '<']).next().unwrap_or_default().trim().to_owned();
    let (decided, approved) = (|run: &str| of_run(run, "r.state = 'SUCCEEDED'"), json!({ "decision": "approved" }));
    // Whoever sends the page again is shown that the link was used.
    let used = Again::Refused(StatusCode::NOT_FOUND, decided(&mails));
    desk.writes.extend([
        Write::post(METHODS[0], format!("/v1/{name}:decide"), &approved, decided(&asks)).at(2),
        Write::new(METHODS[1], Method::POST, link, decided(&mails))
            .raw("application/x-www-form-urlencoded", "decision=approved")
            .by(Who::Nobody)
            .at(2)
            .again(used),
    ]);
}

async fn work(desk: &mut Desk) {
    let mut tokens = Vec::new();
    for queue in QUEUES {
        let name = desk.run(queue).await;
        let open = format!("select count(*) from workflow.tasks where name = '{queue}'");
        desk.eyes.reaches(&open, 1).await;
        if queue == "claimed" {
            continue;
        }
        let claimed = desk.made("/v1/activities:claim", json!({ "queues": [queue], "worker": "w" })).await;
        tokens.push((name, claimed["tasks"][0]["taskToken"].clone()));
    }
    desk.eyes.change("update workflow.tasks set heartbeat_at = 'epoch' where name = 'beats'").await;
    let claim = json!({ "queues": ["claimed"], "worker": "w" });
    let [(_, beats), (completes, complete), (fails, fail)] = &tokens[..] else { panic!("{tokens:?}") };
    let failure = json!({ "taskToken": fail, "error": "Bad" });
    let token = |token: &Value| json!({ "taskToken": token });
    desk.writes.extend([
        Write::post(
            METHODS[2],
            "/v1/activities:claim",
            &claim,
            "workflow.tasks where name = 'claimed' and attempts = 1",
        ),
        Write::post(
            METHODS[3],
            "/v1/activities:heartbeat",
            &token(beats),
            "workflow.tasks where name = 'beats' and heartbeat_at > 'epoch'",
        ),
        Write::post(
            METHODS[4],
            "/v1/activities:complete",
            &token(complete),
            of_run(completes, "r.state = 'SUCCEEDED'"),
        ),
        Write::post(METHODS[5], "/v1/activities:fail", &failure, of_run(fails, "r.error = 'Bad'")),
    ]);
}
