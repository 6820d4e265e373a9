//! A program that passes every place where the mesh can be made to fail, and what it must come to.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use hmac::{Hmac, Mac as _};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use tenon_sdk::{Task, Worker};

use super::{Eyes, comes_again};
use crate::harness::{Mesh, Outside, Tenant, eventually, text};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Runs of a round that are started under a key, and such whose start is not repeated.
const KEYED: usize = 2;

/// What is published: `main` counts, naps, waits for a signal, a run and a worker, tells, and counts again; `hooked` asks
/// somebody who does not answer.
fn definitions() -> [(&'static str, Value, Value); 5] {
    let on = json!({ "triggers": [{ "event": { "type": "shop.point.v1", "input": "event.data" } }] });
    let task = |resource: &str, arguments: &str, next: &str| json!({ "Type": "Task", "Resource": resource, "Arguments": arguments, "Output": "{% $states.input %}", "Next": next });
    let mut first = count();
    (first["Next"], first["Output"]) = (json!("Nap"), json!("{% $states.input %}"));
    let main = json!({
        "First": first,
        "Nap": { "Type": "Wait", "Seconds": 1, "Next": "Signal" },
        "Signal": task("signal:go", "{% {} %}", "Leaf"),
        "Leaf": task("workflow:leaf", "{% { 'input': $states.input } %}", "Work"),
        "Work": task("activity:work", "{% $states.input %}", "Tell"),
        "Tell": task("event:shop.point.v1", "{% { 'data': $states.input } %}", "Last"),
        "Last": ended(count()),
    });
    let program =
        |first: &str, states: Value| json!({ "QueryLanguage": "JSONata", "StartAt": first, "States": states });
    let one = || program("Only", json!({ "Only": ended(count()) }));
    let mut counted = count();
    counted["Next"] = json!("Ask");
    let ask = json!({ "Type": "Task", "Resource": "approval:", "Next": "Late", "Arguments":
                      { "title": "Well?", "expiresInSeconds": 1, "notify": { "email": ["ada@b.test"] } },
                      "Catch": [{ "ErrorEquals": ["States.Timeout"], "Next": "Late" }] });
    let hooked = json!({ "Only": counted, "Ask": ask, "Late": { "Type": "Succeed" } });
    [
        ("main", program("First", main), json!({})),
        ("leaf", one(), json!({})),
        ("hooked", program("Only", hooked), json!({})),
        ("told", one(), on),
        ("beat", program("Only", json!({ "Only": { "Type": "Succeed" } })), json!({})),
    ]
}

/// Counts one more each time that it is done without its idempotency key.
pub(super) fn count() -> Value {
    json!({ "Type": "Task", "Resource": "grpc:tenon.billing.v1.UsageService/IngestUsage",
            "Arguments": { "events": [{ "id": "{% $string($random()) %}", "meter": "{% $states.input.meter %}" }] } })
}

pub(super) fn ended(mut state: Value) -> Value {
    state["End"] = json!(true);
    state
}

/// A tenant with all of it, and those outside whom it talks to.
pub(super) struct Program {
    tenant: Tenant,
    pub(super) eyes: Eyes,
    web: Outside,
    /// What workers have done, by the key of the task.
    worked: Arc<Mutex<BTreeSet<String>>>,
}

/// What a round of the program sends, while the mesh comes and goes.
#[derive(Clone)]
struct Round {
    edge: crate::harness::Edge,
    token: String,
    slug: String,
    meter: String,
}

impl Program {
    pub(super) async fn start(mesh: &Mesh, slug: &str) -> Self {
        mesh.lift_limits().await;
        let (tenant, eyes, web) = (mesh.onboard(slug).await, Eyes::open(mesh).await, Outside::web().await);
        let post = async |path: &str, body: Value| {
            let (status, answer) = mesh.post(path, &tenant.token, &body).await;
            assert!(status.is_success(), "{path}: {answer}\n{body}");
        };
        for (id, definition, envelope) in definitions() {
            let body = json!({ "workflowId": id, "definition": definition, "envelope": envelope });
            post("/v1/workflows", body).await;
        }
        let start = json!({ "start": { "workflow": "hooked", "input": "{'meter': request.body.meter}" } });
        let signal = json!({ "signal": { "run": "request.body.meter", "signal": "nobody" } });
        // What starts one run alone goes another way than what does more.
        for (id, targets) in [("one", json!([start])), ("more", json!([start, signal]))] {
            let hook = json!({ "hookId": id, "scheme": "GITHUB", "secret": SECRET, "targets": targets });
            post("/v1/hooks", hook).await;
        }
        let url = format!("http://127.0.0.1:{}/status/200", web.port);
        post("/v1/endpoints", json!({ "endpointId": "out", "url": url, "eventTypes": ["shop.point.v1"] })).await;
        let cron = json!({ "scheduleId": "often", "workflow": "beat", "cron": "* * * * * *", "overlap": "ALLOW" });
        post("/v1/schedules", cron).await;
        let worked = Arc::<Mutex<BTreeSet<String>>>::default();
        let (seen, token) = (worked.clone(), tenant.token.clone());
        let work = move |task: Task| {
            seen.lock().unwrap().insert(task.idempotency_key.clone());
            std::future::ready(Ok(json!({})))
        };
        let url = format!("http://127.0.0.1:{}", mesh.ports["workflow"]);
        let worker = Worker::connect(&url, move || std::future::ready(Ok(token.clone()))).expect("a URL");
        tokio::spawn(worker.queue("work", work).run_until(std::future::pending()));
        Self { tenant, eyes, web, worked }
    }

    /// Sends what one round asks for, until all of it is acknowledged.
    pub(super) fn round(&self, mesh: &Mesh, meter: &str) -> tokio::task::JoinHandle<()> {
        let (edge, meter) = (mesh.edge.clone(), meter.to_owned());
        let round = Round { edge, token: self.tenant.token.clone(), slug: self.tenant.slug.clone(), meter };
        tokio::spawn(async move {
            let (started, hooked) = (async { round.born_after(&round.keyed().await).await }, round.hooked());
            tokio::join!(started, hooked);
        })
    }

    /// Waits until everything has ended; then each effect was had once.
    pub(super) async fn comes_out_whole(&self, mesh: &Mesh, meters: &[String]) {
        let round = |meter: &str| {
            let (token, slug) = (self.tenant.token.clone(), self.tenant.slug.clone());
            Round { edge: mesh.edge.clone(), token, slug, meter: meter.to_owned() }
        };
        let (status, _) = mesh.post("/v1/schedules/often:pause", &self.tenant.token, &json!({})).await;
        assert!(status.is_success());
        // A start that nobody was told of waits for its signal too.
        let mains = "select coalesce(string_agg('runs/run_' || replace(id::text, '-', ''), ' '), '')
                     from workflow.runs where workflow_id = 'main'";
        for name in self.eyes.text(mains).await.split_whitespace() {
            round("").signal(name).await;
        }
        eventually("every run ends", || async {
            // What a process that was killed had claimed just then would be another's after a lease.
            self.eyes.change("update workflow.tasks set lease_until = now() where state = 'CLAIMED'").await;
            self.eyes.change("update workflow.deliveries set next_at = now() where state = 'PENDING'").await;
            let open = "select count(*) from workflow.runs where ended_at is null";
            let undelivered = "select (select count(*) from workflow.runs where workflow_id = 'main')
                                    - (select count(*) from workflow.deliveries where state = 'DELIVERED')";
            let untold =
                "select count(*) filter (where workflow_id = 'main') - count(*) filter (where workflow_id = 'told')
                          from workflow.runs";
            let mut left = 0;
            for sql in [open, undelivered, untold] {
                left += self.eyes.count(sql).await.abs();
            }
            (left == 0).then_some(())
        })
        .await;
        let wrong = "select coalesce(string_agg(concat_ws(' ', workflow_id, state, error, cause), '; '), '')
                     from workflow.runs where state <> 'SUCCEEDED'";
        assert_eq!(self.eyes.text(wrong).await, "", "runs have failed");
        for meter in meters {
            self.is_exact(meter).await;
        }
        let beats = "select count(*) - count(distinct input #>> '{schedule,time}') from workflow.runs where workflow_id = 'beat'";
        assert_eq!(self.eyes.count(beats).await, 0, "a time of the schedule was run twice");
        let mains = self.eyes.count("select count(*) from workflow.runs where workflow_id = 'main'").await;
        let ids: BTreeSet<String> = self.web.seen().iter().map(|request| webhook_id(request)).collect();
        assert_eq!(i64::try_from(ids.len()), Ok(mains), "webhooks");
        assert_eq!(i64::try_from(self.worked.lock().unwrap().len()), Ok(mains), "tasks of workers");
        for (meter, of) in [("workflow_runs", "workflow.runs"), ("webhook_deliveries", "workflow.deliveries")] {
            let all = self.eyes.count(&format!("select count(*) from {of}")).await;
            let sql =
                format!("select coalesce(sum(quantity), 0)::bigint from billing.usage_events where meter = '{meter}'");
            self.eyes.reaches(&sql, all).await;
            assert_eq!(self.eyes.count(&sql).await, all, "{meter}");
        }
        for left in ["workflow.tasks", "workflow.messages"] {
            assert_eq!(self.eyes.count(&format!("select count(*) from {left}")).await, 0, "{left}");
        }
    }

    /// Compares the counts of a round with its runs.
    async fn is_exact(&self, meter: &str) {
        let runs = async |workflow: &str| {
            let sql = format!(
                "select count(*) from workflow.runs where workflow_id = '{workflow}' and input ->> 'meter' = '{meter}'"
            );
            self.eyes.count(&sql).await
        };
        let mains = runs("main").await;
        let keyed = format!(
            "select count(*) from workflow.run_keys k join workflow.runs r on r.tenant_id = k.tenant_id and r.id = k.run_id
             where r.workflow_id = 'main' and r.input ->> 'meter' = '{meter}' and k.key like 'run/%'"
        );
        assert_eq!(usize::try_from(self.eyes.count(&keyed).await), Ok(KEYED), "{meter}: starts with a key");
        let counted = format!("select count(*) from billing.usage_events where meter = '{meter}'");
        let all = [runs("leaf").await, runs("told").await, runs("hooked").await];
        assert_eq!(all, [mains, mains, 2], "{meter}: runs that others have started");
        assert_eq!(self.eyes.count(&counted).await, 4 * mains + 2, "{meter}: counts of {mains} runs");
    }
}

impl Round {
    /// Sends until something that lives answers.
    async fn answered(&self, path: &str, headers: &[(&str, String)], body: &Value) -> Value {
        eventually(&format!("{path} is answered"), || async {
            let mut request = self.edge.request(Method::POST, path).bearer_auth(&self.token);
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            let response =
                request.header("content-type", "application/json").body(body.to_string()).send().await.ok()?;
            let status = response.status();
            let answer: Value = response.json().await.ok()?;
            assert!(status.is_success() || comes_again(status, &answer), "{path}: {status} {answer}");
            status.is_success().then_some(answer)
        })
        .await
    }

    async fn signal(&self, name: &str) {
        let path = format!("/v1/{name}:signal");
        let request = json!({ "signal": "go", "signalId": "go" });
        self.answered(&path, &[], &request).await;
    }

    /// Starts that are done once, however often they are sent; the name of one.
    async fn keyed(&self) -> String {
        let mut name = String::new();
        for number in 0..KEYED {
            let key = format!("{}-{number}", self.meter);
            let start = json!({ "workflow": "main", "input": { "meter": self.meter }, "idempotencyKey": key });
            let run = self.answered("/v1/runs", &[], &start).await;
            name = text(&run["name"]);
            self.signal(&name).await;
        }
        name
    }

    /// Starts that may have been done also when nobody says so: each try may be one more. An engine does them together
    /// with the first step once it owns something, as it does when another run has taken one.
    async fn born_after(&self, other: &str) {
        eventually("an engine is at work", || async {
            let request = self.edge.request(Method::GET, &format!("/v1/{other}/history")).bearer_auth(&self.token);
            let history: Value = request.send().await.ok()?.json().await.ok()?;
            history["events"].get(0).is_some().then_some(())
        })
        .await;
        for _ in 0..2 {
            let start = json!({ "workflow": "main", "input": { "meter": self.meter } });
            let run = self.answered("/v1/runs", &[], &start).await;
            self.signal(&text(&run["name"])).await;
        }
    }

    async fn hooked(&self) {
        let body = json!({ "meter": self.meter });
        let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(body.to_string().as_bytes());
        let signature: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let headers = [
            ("x-github-delivery", self.meter.clone()),
            ("x-github-event", "push".to_owned()),
            ("x-hub-signature-256", format!("sha256={signature}")),
        ];
        for hook in ["one", "more"] {
            self.answered(&format!("/hooks/{}/{hook}", self.slug), &headers, &body).await;
        }
    }
}

fn webhook_id(request: &str) -> String {
    let line = request.lines().find_map(|line| line.strip_prefix("webhook-id: "));
    line.unwrap_or_else(|| panic!("no webhook-id in {request}")).to_owned()
}
