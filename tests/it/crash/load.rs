//! Many runs whose steps have effects that can be counted, and the check that each was had once.

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Eyes, comes_again};
use crate::harness::{EVENTS, Mesh, Tenant, answer, eventually};

/// Runs of a load.
const RUNS: u64 = 40;

/// What a step of a run can be. None is harmless when it is done twice: a child run would be one more, an id drawn anew
/// would count again, and a user that exists fails the run.
pub(super) const ALL: [&str; 3] = ["Child", "Count", "User"];
/// Steps that call other services only.
pub(super) const OUTSIDE: [&str; 2] = ["Count", "User"];

/// A tenant whose runs are under way.
pub(super) struct Load {
    tenant: Tenant,
    steps: &'static [&'static str],
    eyes: Eyes,
    started: JoinSet<String>,
    names: BTreeSet<String>,
}

/// Counts the steps that are done.
fn done() -> String {
    format!("select count(*) from {EVENTS} h where type = 'TaskSucceeded'")
}

fn task(step: &str) -> Value {
    let (resource, arguments) = match step {
        "Child" => (
            "workflow.v1.RunService/CreateRun",
            json!({ "workflow": "child", "entityId": "{% $states.context.Execution.Name %}" }),
        ),
        "Count" => (
            "billing.v1.UsageService/IngestUsage",
            json!({ "events": [{ "id": "{% $string($random()) %}", "meter": "steps" }] }),
        ),
        _ => (
            "auth.v1.UserService/CreateUser",
            json!({
                "email": "{% $states.context.Execution.Name & '@steps.test' %}",
                "password": "correct horse battery",
                "roles": ["viewer"],
            }),
        ),
    };
    json!({ "Type": "Task", "Resource": format!("grpc:tenon.{resource}"), "Arguments": arguments })
}

fn definition(steps: &[&str]) -> Value {
    let mut states = serde_json::Map::new();
    for (index, step) in steps.iter().enumerate() {
        let mut state = task(step);
        match steps.get(index + 1) {
            Some(next) => state["Next"] = json!(next),
            None => state["End"] = json!(true),
        }
        states.insert((*step).to_owned(), state);
    }
    json!({ "StartAt": steps[0], "States": states })
}

/// Starts a run, however often it takes: the key makes that once.
async fn started(request: RequestBuilder) -> String {
    let asked = eventually("the run is acknowledged", || {
        let request = request.try_clone().expect("a body of JSON can be sent again");
        async move {
            let response = request.send().await.ok()?;
            let status = response.status();
            let body: Value = response.json().await.ok()?;
            (!comes_again(status, &body)).then_some((status, body))
        }
    });
    let (status, body) = asked.await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body["name"].as_str().expect("a run has a name").to_owned()
}

impl Load {
    /// Signs a tenant up, publishes, and begins to start runs.
    pub(super) async fn start(mesh: &Mesh, slug: &str, steps: &'static [&'static str]) -> Self {
        let eyes = Eyes::open(mesh).await;
        // Its many starts must not be held up by the free plan.
        eyes.change(r#"update billing.plans set limits = '{"rate.write": 100000, "rate.read": 100000}'"#).await;
        let tenant = mesh.onboard(slug).await;
        let child = json!({ "StartAt": "Only", "States": { "Only": { "Type": "Succeed" } } });
        for (id, definition) in [("child", child), ("parent", definition(steps))] {
            let body = json!({ "workflowId": id, "definition": definition });
            let (status, answer) = mesh.post("/v1/workflows", &tenant.token, &body).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
        }
        let mut runs = JoinSet::new();
        for number in 0..RUNS {
            let request = mesh.request(Method::POST, "/v1/runs").bearer_auth(&tenant.token);
            let request = request.header("idempotency-key", format!("start-{number}"));
            runs.spawn(started(request.json(&json!({ "workflow": "parent" }))));
        }
        Self { tenant, steps, eyes, started: runs, names: BTreeSet::new() }
    }

    pub(super) fn eyes(&self) -> &Eyes {
        &self.eyes
    }

    /// Steps of all runs together.
    pub(super) fn steps(&self) -> u64 {
        RUNS * u64::try_from(self.steps.len()).expect("a few")
    }

    /// Waits until so many steps have been done.
    pub(super) async fn has_done(&self, steps: u64) {
        let (sql, steps) = (done(), steps.cast_signed());
        let what = format!("{steps} steps are done");
        let done = eventually(&what, || async {
            let faults = self.faults().await;
            (!faults.is_empty()).then_some(faults).or((self.eyes.count(&sql).await >= steps).then(String::new))
        });
        assert_eq!(done.await, "", "runs have failed");
    }

    /// What runs have failed of.
    async fn faults(&self) -> String {
        let sql = "select coalesce(string_agg(distinct concat_ws(' ', workflow_id, state, error, cause), '; '), '')
                   from workflow.runs where state not in ('SUCCEEDED', 'RUNNING')";
        self.eyes.text(sql).await
    }

    /// Waits until every run is acknowledged.
    pub(super) async fn is_acknowledged(&mut self) {
        while let Some(name) = self.started.join_next().await {
            self.names.insert(name.expect("the start of a run is answered"));
        }
        assert_eq!(u64::try_from(self.names.len()), Ok(RUNS), "two starts were answered with one run");
    }

    /// Waits for the end of every run; then each has succeeded, and everything happened once.
    pub(super) async fn comes_out_whole(mut self, mesh: &Mesh) {
        self.is_acknowledged().await;
        let runs = RUNS.cast_signed();
        let ended = "select count(*) from workflow.runs where state <> 'RUNNING' and workflow_id = 'parent'";
        self.eyes.reaches(ended, runs).await;
        assert_eq!(self.faults().await, "", "runs have failed");
        let parents = "select count(*) from workflow.runs where workflow_id = 'parent'";
        assert_eq!(self.eyes.count(parents).await, runs, "a start was done twice");
        self.has_whole_histories().await;
        self.has_effects_once().await;
        self.is_counted_once(mesh).await;
    }

    async fn has_whole_histories(&self) {
        let torn = format!(
            "select count(*) from (
                 select run_id from {EVENTS} h group by tenant_id, run_id
                 having count(*) <> max(id) or min(id) <> 1 or bool_or(previous_id >= id)
                     or count(*) filter (where type = 'ExecutionSucceeded') > 1) as torn"
        );
        assert_eq!(self.eyes.count(&torn).await, 0, "histories with holes");
        let twice = format!(
            "select count(*) from (
                 select run_id, state, type from {EVENTS} h
                 where state <> '' group by tenant_id, run_id, state, type having count(*) > 1) as twice"
        );
        assert_eq!(self.eyes.count(&twice).await, 0, "steps that happened twice");
        assert_eq!(self.eyes.count(&done()).await, self.steps().cast_signed(), "steps");
    }

    async fn has_effects_once(&self) {
        let runs = RUNS.cast_signed();
        if self.steps.contains(&"Child") {
            let children = "select count(*) from workflow.runs where workflow_id = 'child'";
            assert_eq!(self.eyes.count(children).await, runs, "child runs");
            let parents = "select count(distinct entity_id) from workflow.runs where workflow_id = 'child'";
            assert_eq!(self.eyes.count(parents).await, runs, "parents of child runs");
        }
        let users = "select count(*) from auth.users where email like '%@steps.test'";
        assert_eq!(self.eyes.count(users).await, runs, "users");
        let counted = "select count(*) from billing.usage_events where meter = 'steps'";
        assert_eq!(self.eyes.count(counted).await, runs, "events of usage");
    }

    /// The usage that billing shows is that of the runs, no more and no less, once all events were taken in.
    async fn is_counted_once(&self, mesh: &Mesh) {
        let runs = self.eyes.count("select count(*) from workflow.runs").await;
        let counted =
            "select coalesce(sum(quantity), 0)::bigint from billing.usage_events where meter = 'workflow_runs'";
        self.eyes.reaches(counted, runs).await;
        let (email, password) = (&self.tenant.email, &self.tenant.password);
        let (status, session) = mesh.login(&self.tenant.slug, email, password).await;
        assert_eq!(status, StatusCode::OK, "{session}");
        let token = session["accessToken"].as_str().expect("a login has a token");
        let (status, usage) = answer(mesh.request(Method::GET, "/v1/usage").bearer_auth(token)).await;
        assert_eq!(status, StatusCode::OK, "{usage}");
        let of = |meter: &str| {
            let mut meters = usage["meters"].as_array().into_iter().flatten();
            meters.find(|row| row["meter"] == meter).map(|row| row["quantity"].clone())
        };
        assert_eq!(of("workflow_runs"), Some(json!(runs.to_string())), "{usage}");
        assert_eq!(of("steps"), Some(json!(RUNS.to_string())), "{usage}");
    }
}
