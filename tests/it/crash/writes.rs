//! What people and services write by a call: killed and failed before and after each commit, and sent again under the same
//! key, it is done once. The chassis has these places for every method of the contract, by the method's path.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Eyes, LEASE, comes_again};
use crate::harness::{Backends, Edge, Mesh, Outside, Tenant, eventually, text};

/// A call that changes something.
struct Write {
    /// `workflow.v1.RunService/CancelRun`.
    method: &'static str,
    /// Which of its commits is the one that changes something.
    commit: u32,
    verb: Method,
    path: String,
    body: Value,
    /// What was done, in rows; each write does one.
    done: String,
}

/// A tenant, what it writes and who sees it.
struct Desk {
    tenant: Tenant,
    eyes: Eyes,
    writes: Vec<Write>,
    /// Writes that are sent until they are answered.
    sent: Vec<tokio::task::JoinHandle<()>>,
}

impl Desk {
    async fn new(mesh: &Mesh, slug: &str) -> Self {
        mesh.lift_limits().await;
        let (tenant, eyes) = (mesh.onboard(slug).await, Eyes::open(mesh).await);
        let task = |resource: &str| json!({ "Type": "Task", "Resource": resource, "Arguments": { "title": "Well?" }, "End": true });
        let states = [
            ("waits", json!({ "Type": "Task", "Resource": "signal:go", "End": true })),
            ("asks", task("approval:")),
            ("fails", json!({ "Type": "Fail", "Error": "E" })),
            ("idle", json!({ "Type": "Succeed" })),
        ];
        for (id, state) in states {
            let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "Only", "States": { "Only": state } });
            let (status, answer) =
                mesh.post("/v1/workflows", &tenant.token, &json!({ "workflowId": id, "definition": definition })).await;
            assert!(status.is_success(), "{answer}");
        }
        let mut desk = Self { tenant, eyes, writes: Vec::new(), sent: Vec::new() };
        desk.of_runs(mesh).await;
        desk.of_others(slug);
        desk
    }

    async fn run(&self, mesh: &Mesh, workflow: &str) -> String {
        let (status, run) = mesh.post("/v1/runs", &self.tenant.token, &json!({ "workflow": workflow })).await;
        assert!(status.is_success(), "{run}");
        text(&run["name"])
    }

    /// What is told to runs that wait, to one that failed, and to one that asks.
    async fn of_runs(&mut self, mesh: &Mesh) {
        let of = |method, commit, verb: &str, run: &str, body: Value, done: &str| {
            let id = run.trim_start_matches("runs/run_").to_owned();
            let done = format!("workflow.runs r where replace(r.id::text, '-', '') = '{id}' and {done}");
            Write { method, commit, verb: Method::POST, path: format!("/v1/{run}:{verb}"), body, done }
        };
        let redriven = "exists (select from workflow.history h where h.tenant_id = r.tenant_id and h.run_id = r.id
                        having count(*) filter (where h.events::text like '%ExecutionRedriven%') = 1)";
        let paused = self.run(mesh, "waits").await;
        let (status, answer) = mesh.post(&format!("/v1/{paused}:pause"), &self.tenant.token, &json!({})).await;
        assert!(status.is_success(), "{answer}");
        for (method, commit, verb, workflow, body, done) in [
            ("workflow.v1.RunService/CancelRun", 1, "cancel", "waits", json!({}), "r.state = 'CANCELLED'"),
            ("workflow.v1.RunService/TerminateRun", 1, "terminate", "waits", json!({}), "r.state = 'CANCELLED'"),
            ("workflow.v1.RunService/PauseRun", 2, "pause", "waits", json!({}), "r.paused is not null"),
            (
                "workflow.v1.RunService/SignalRun",
                1,
                "signal",
                "waits",
                json!({ "signal": "go" }),
                "r.state = 'SUCCEEDED'",
            ),
            ("workflow.v1.RunService/RetryRun", 1, "retry", "fails", json!({}), redriven),
        ] {
            let run = self.run(mesh, workflow).await;
            if workflow == "fails" {
                let id = run.trim_start_matches("runs/run_");
                let ended = format!(
                    "select count(*) from workflow.runs where replace(id::text, '-', '') = '{id}' and state = 'FAILED'"
                );
                self.eyes.reaches(&ended, 1).await;
            }
            self.writes.push(of(method, commit, verb, &run, body, done));
        }
        self.writes.push(of("workflow.v1.RunService/ResumeRun", 2, "resume", &paused, json!({}), "r.paused is null"));
        let asks = self.run(mesh, "asks").await;
        let name = eventually("it is asked", || async {
            let (_, page) = mesh.get("/v1/approvals", &self.tenant.token).await;
            page["approvals"][0]["name"].as_str().map(str::to_owned)
        })
        .await;
        let decided = "r.state = 'SUCCEEDED'";
        let mut decide =
            of("workflow.v1.ApprovalService/DecideApproval", 2, "", &asks, json!({ "decision": "approved" }), decided);
        decide.path = format!("/v1/{name}:decide");
        self.writes.push(decide);
    }

    /// What makes something.
    fn of_others(&mut self, slug: &str) {
        let tenant = format!("tenant_id = (select tenant_id from tenant.tenants where slug = '{slug}')");
        let user = json!({ "email": "bob@b.test", "password": "correct horse battery", "roles": ["viewer"] });
        let usage = json!({ "events": [{ "id": "one", "meter": "points" }] });
        let runs = json!({ "requests": [{ "workflow": "waits", "entityId": "batch" }] });
        for (method, path, body, done) in [
            ("auth.v1.UserService/CreateUser", "/v1/users", user, "auth.users where roles = '{viewer}' and"),
            (
                "billing.v1.UsageService/IngestUsage",
                "/v1/usage:ingest",
                usage,
                "billing.usage_events where meter = 'points' and",
            ),
            (
                "workflow.v1.RunService/BatchCreateRuns",
                "/v1/runs:batchCreate",
                runs,
                "workflow.runs where entity_id = 'batch' and",
            ),
            (
                "workflow.v1.SecretService/CreateSecret",
                "/v1/secrets",
                json!({ "secretId": "s", "value": "v" }),
                "workflow.secrets where",
            ),
            (
                "workflow.v1.PauseService/CreatePause",
                "/v1/pauses",
                json!({ "workflow": "idle" }),
                "workflow.pauses where",
            ),
        ] {
            let (path, done) = (path.to_owned(), format!("{done} {tenant}"));
            self.writes.push(Write { method, commit: 1, verb: Method::POST, path, body, done });
        }
    }

    /// Sends a write under a key until something that lives answers.
    fn send(&mut self, mesh: &Mesh, index: usize) {
        let write = &self.writes[index];
        let (edge, token): (Edge, String) = (mesh.edge.clone(), self.tenant.token.clone());
        let (verb, path, body, key) = (write.verb.clone(), write.path.clone(), write.body.clone(), write.method);
        self.sent.push(tokio::spawn(async move {
            eventually(&format!("{path} is answered"), || async {
                let request = edge.request(verb.clone(), &path).bearer_auth(&token).header("idempotency-key", key);
                let response = request.json(&body).send().await.ok()?;
                let status = response.status();
                let answer = response.json().await.unwrap_or_default();
                assert!(status.is_success() || comes_again(status, &answer), "{path}: {status} {answer}");
                status.is_success().then_some(())
            })
            .await;
        }));
    }

    async fn is_answered(&mut self) {
        for sent in self.sent.drain(..) {
            sent.await.expect("what was sent is acknowledged");
        }
    }

    /// Waits for every answer; then each was done once.
    async fn comes_out_whole(&mut self) {
        self.is_answered().await;
        for Write { method, done, .. } in &self.writes {
            self.eyes.reaches(&format!("select count(*) from {done}"), 1).await;
            assert_eq!(self.eyes.count(&format!("select count(*) from {done}")).await, 1, "{method}: {done}");
        }
    }
}

async fn killed(when: &str, slug: &str) {
    let mut mesh = Mesh::start_with(Backends::Embedded, &[LEASE]).await;
    let mut desk = Desk::new(&mesh, slug).await;
    mesh.kill_9("all");
    for index in 0..desk.writes.len() {
        let Write { method, commit, .. } = desk.writes[index];
        mesh.start_failing("all", &format!("/tenon.{method}.{when}=kill:{commit}"));
        // What the death before has cut off is another method's.
        desk.is_answered().await;
        desk.send(&mesh, index);
        let what = format!("it dies {when} the commit of {method}");
        eventually(&what, || std::future::ready(mesh.has_ended("all").then_some(()))).await;
    }
    mesh.restart("all").await;
    desk.comes_out_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_what_a_call_commits_it_does_it_once() {
    killed("before", "writes-before").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_what_a_call_commits_it_does_it_once() {
    killed("after", "writes-after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_before_and_after_what_each_call_commits_it_does_it_once() {
    let mut mesh = Mesh::start_with(Backends::Embedded, &[LEASE]).await;
    let mut desk = Desk::new(&mesh, "writes-failing").await;
    mesh.kill_9("all");
    let places = desk.writes.iter().flat_map(|Write { method, commit, .. }| {
        ["before", "after"].map(|when| format!("/tenon.{method}.{when}=error:{commit}"))
    });
    let services = ["auth", "billing", "tenant", "workflow"].iter();
    let services = services.flat_map(|service| ["before", "after"].map(|when| format!("{service}.{when}=error")));
    let places: Vec<String> = places.chain(services).collect();
    mesh.start_failing("all", &places.join(","));
    for index in 0..desk.writes.len() {
        desk.send(&mesh, index);
    }
    desk.comes_out_whole().await;
}

/// A call that fails is the run's to handle: what was not made is made once by a Retry; of what was made and not told, a
/// Retry is another attempt, under a key of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fails_is_tried_again_as_the_definition_says() {
    let web = Outside::web().await;
    let outside = ("TENON_WORKFLOW_HTTP_ALLOW_CIDRS", "127.0.0.1/32");
    let mut mesh = Mesh::start_with(Backends::Embedded, &[LEASE, outside]).await;
    let Tenant { token, .. } = mesh.onboard("failing-calls").await;
    let task = |resource: &str, arguments: Value| {
        json!({ "Type": "Task", "Resource": resource, "Arguments": arguments,
                "Retry": [{ "ErrorEquals": ["FAILPOINT"], "IntervalSeconds": 1, "MaxAttempts": 2 }] })
    };
    let mut call = task("http:invoke", json!({ "url": format!("http://127.0.0.1:{}/echo", web.port) }));
    call["Next"] = json!("Tell");
    let mut tell = task("event:shop.told.v1", json!({ "data": {} }));
    tell["End"] = json!(true);
    let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "Call", "States": { "Call": call, "Tell": tell } });
    let (status, answer) =
        mesh.post("/v1/workflows", &token, &json!({ "workflowId": "calls", "definition": definition })).await;
    assert!(status.is_success(), "{answer}");
    let eyes = Eyes::open(&mesh).await;
    // The first event of the three is the use of the meter.
    for (place, passing, calls) in [("task.call.before", 1, 1), ("emit.commit.before", 2, 1), ("task.call.after", 1, 2)]
    {
        let before = web.seen().len();
        mesh.kill_9("all");
        mesh.start_failing("all", &format!("{place}=error:{passing}"));
        let run = eventually("it is started", || async {
            let request = mesh.request(Method::POST, "/v1/runs").bearer_auth(&token);
            let start = json!({ "workflow": "calls", "idempotencyKey": place });
            let run: Value = request.json(&start).send().await.ok()?.json().await.ok()?;
            run["name"].as_str().map(str::to_owned)
        })
        .await;
        let ended = eventually("it ends", || async {
            let (_, run) = mesh.get(&format!("/v1/{run}"), &token).await;
            run["endTime"].is_string().then_some(run)
        })
        .await;
        assert_eq!(ended["state"], "SUCCEEDED", "{place}: {ended}");
        assert_eq!(web.seen().len() - before, calls, "{place}");
        let told = "select count(*) from mesh.outbox where type = 'shop.told.v1'";
        eyes.reaches(told, 1).await;
        assert_eq!(eyes.count(told).await, 1, "{place}");
        eyes.change("delete from mesh.outbox where type = 'shop.told.v1'").await;
    }
}
