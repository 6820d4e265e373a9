//! What people and services write by a call: killed and failed before and after each commit, and sent again under the same
//! key, it is done once. The chassis has these places for every method of the contract, by the method's path.

mod accounts;
mod answers;
mod hooks;
mod runs;
mod setup;

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenon_proto::policy::Effect;

use super::{Eyes, LEASE, comes_again};
use crate::harness::{Backends, Dns, Edge, Endpoint, Mesh, Outside, Tenant, eventually, text};

/// Methods that write and are not killed here, and why.
const ELSEWHERE: [(&str, &str); 1] = [(
    "workflow.v1.ActivityService/PollActivities",
    "a stream: crash/failpoints.rs kills what it commits, at the places tasks.commit and answers.commit",
)];

const SERVICES: [&str; 4] = ["auth", "billing", "tenant", "workflow"];

/// Who calls.
#[derive(Clone)]
enum Who {
    Bearer(String),
    Operator,
    Nobody,
}

/// What it comes to when a call is sent again whose change was committed and whose answer was lost.
enum Again {
    /// It is answered as if nothing had happened.
    Same,
    /// It is done once more: its answer holds a secret that nothing keeps.
    Another,
    /// It is refused, and this is there instead.
    Refused(StatusCode, String),
}

/// A call that changes something.
struct Write {
    /// `workflow.v1.RunService/CancelRun`.
    method: &'static str,
    /// Which of its commits is the one that changes something.
    commit: u32,
    who: Option<Who>,
    verb: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// What was done, in rows; each write does one.
    done: String,
    again: Again,
}

impl Write {
    fn new(method: &'static str, verb: Method, path: impl Into<String>, done: impl Into<String>) -> Self {
        let (path, done, headers, body) = (path.into(), done.into(), Vec::new(), Vec::new());
        Self { method, commit: 1, who: None, verb, path, headers, body, done, again: Again::Same }
    }

    fn post(method: &'static str, path: impl Into<String>, body: &Value, done: impl Into<String>) -> Self {
        Self::new(method, Method::POST, path, done).json(body)
    }

    fn delete(method: &'static str, path: impl Into<String>, done: impl Into<String>) -> Self {
        Self::new(method, Method::DELETE, path, done)
    }

    fn json(self, body: &Value) -> Self {
        self.raw("application/json", body.to_string())
    }

    fn raw(mut self, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        self.headers.push(("content-type", kind.to_owned()));
        self.body = body.into();
        self
    }

    fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    fn by(self, who: Who) -> Self {
        Self { who: Some(who), ..self }
    }

    /// What it changes is in this one of its commits.
    fn at(self, commit: u32) -> Self {
        Self { commit, ..self }
    }

    fn again(self, again: Again) -> Self {
        Self { again, ..self }
    }

    /// The process that it is a method of.
    fn target(&self) -> &'static str {
        let of = |service: &&&str| self.method.starts_with(&format!("{service}.v1."));
        SERVICES.iter().find(of).expect("a method is of a service")
    }

    fn place(&self, when: &str, deed: &str, passing: u32) -> String {
        format!("/tenon.{}.{when}={deed}:{passing}", self.method)
    }
}

/// A run, as the owner finds it.
fn of_run(run: &str, and: &str) -> String {
    let id = run.trim_start_matches("runs/run_");
    format!("workflow.runs r where replace(r.id::text, '-', '') = '{id}' and {and}")
}

/// A task as a state.
fn task(resource: &str, arguments: &Value) -> Value {
    json!({ "Type": "Task", "Resource": resource, "Arguments": arguments, "End": true })
}

/// Methods that are tried on one mesh.
#[derive(Clone, Copy)]
enum Group {
    Accounts,
    Runs,
    Answers,
    Setup,
    Hooks,
}

impl Group {
    const ALL: [Self; 5] = [Self::Accounts, Self::Runs, Self::Answers, Self::Setup, Self::Hooks];

    fn methods(self) -> &'static [&'static str] {
        match self {
            Self::Accounts => &accounts::METHODS,
            Self::Runs => &runs::METHODS,
            Self::Answers => &answers::METHODS,
            Self::Setup => &setup::METHODS,
            Self::Hooks => &hooks::METHODS,
        }
    }
}

/// A mesh with a tenant, what it writes and who sees it.
struct Desk {
    mesh: Mesh,
    mail: Outside,
    dns: Dns,
    tenant: Tenant,
    eyes: Eyes,
    writes: Vec<Write>,
    /// Writes that are sent until they are answered.
    sent: Vec<tokio::task::JoinHandle<()>>,
}

impl Desk {
    async fn of(group: Group) -> Self {
        let (mail, dns) = (Outside::mail().await, Dns::start());
        let smtp = format!("smtp://127.0.0.1:{}", mail.port);
        let settings = [
            LEASE,
            ("TENON_SMTP_URL", smtp.as_str()),
            ("TENON_SMTP_FROM", "no-reply@acme.test"),
            ("TENON_PUBLIC_URL", "https://acme.test/"),
            ("TENON_DNS_SERVERS", dns.address.as_str()),
        ];
        let mesh = Mesh::start_separately_with(Backends::Embedded, &settings).await;
        mesh.lift_limits().await;
        let (tenant, eyes) = (mesh.onboard("writes").await, Eyes::open(&mesh).await);
        let mut desk = Self { mesh, mail, dns, tenant, eyes, writes: Vec::new(), sent: Vec::new() };
        match group {
            Group::Accounts => accounts::prepare(&mut desk).await,
            Group::Runs => runs::prepare(&mut desk).await,
            Group::Answers => answers::prepare(&mut desk).await,
            Group::Setup => setup::prepare(&mut desk).await,
            Group::Hooks => hooks::prepare(&mut desk).await,
        }
        let prepared: Vec<&str> = desk.writes.iter().map(|write| write.method).collect();
        assert_eq!(prepared, group.methods(), "what METHODS names is what prepare makes, in that order");
        desk
    }

    /// Something that a write is about.
    async fn made(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.mesh.post(path, &self.tenant.token, &body).await;
        assert!(status.is_success(), "{path}: {answer}");
        answer
    }

    /// A workflow of one state.
    async fn workflow(&self, id: &str, state: Value) {
        let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "Only", "States": { "Only": state } });
        self.made("/v1/workflows", json!({ "workflowId": id, "definition": definition })).await;
    }

    /// A run of a workflow.
    async fn run(&self, workflow: &str) -> String {
        text(&self.made("/v1/runs", json!({ "workflow": workflow })).await["name"])
    }

    /// Sends a write under a key until something that lives answers.
    fn send(&mut self, index: usize) {
        let write = &self.writes[index];
        let edge: Edge = self.mesh.edge.clone();
        let who = write.who.clone().unwrap_or_else(|| Who::Bearer(self.tenant.token.clone()));
        let (verb, path, body, key) = (write.verb.clone(), write.path.clone(), write.body.clone(), write.method);
        let headers = write.headers.clone();
        let refused = match &write.again {
            Again::Refused(status, _) => Some(*status),
            Again::Same | Again::Another => None,
        };
        self.sent.push(tokio::spawn(async move {
            eventually(&format!("{path} is answered"), || async {
                let request = edge.request(verb.clone(), &path).header("idempotency-key", key).body(body.clone());
                let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
                let request = match &who {
                    Who::Bearer(token) => request.bearer_auth(token),
                    Who::Operator => request.header("x-operator-key", &edge.operator_key),
                    Who::Nobody => request,
                };
                let response = request.send().await.ok()?;
                let status = response.status();
                // A page is none.
                let answer: Value = response.json().await.unwrap_or_default();
                let is_answer = status.is_success() || Some(status) == refused;
                assert!(is_answer || comes_again(status, &answer), "{path}: {status} {answer}");
                is_answer.then_some(())
            })
            .await;
        }));
    }

    async fn is_answered(&mut self) {
        for sent in self.sent.drain(..) {
            sent.await.expect("what was sent is acknowledged");
        }
    }

    /// Waits for every answer; then each was done once, or what a repetition after its commit comes to.
    async fn comes_out_whole(&mut self, committed: bool) {
        self.is_answered().await;
        for Write { method, done, again, .. } in &self.writes {
            let (done, times) = match again {
                Again::Another if committed => (done, 2),
                Again::Refused(_, instead) if committed => (instead, 1),
                Again::Same | Again::Another | Again::Refused(..) => (done, 1),
            };
            self.eyes.reaches(&format!("select count(*) from {done}"), times).await;
            assert_eq!(self.eyes.count(&format!("select count(*) from {done}")).await, times, "{method}: {done}");
        }
    }
}

#[test]
fn every_method_that_writes_is_killed_here() {
    let writes = |at: &Endpoint| at.method.effect != Effect::None;
    let of_contract = Endpoint::all().into_iter().filter(writes);
    let of_contract: BTreeSet<String> =
        of_contract.map(|at| at.method.path.trim_start_matches("/tenon.").to_owned()).collect();
    let here = Group::ALL.into_iter().flat_map(Group::methods).copied();
    let known: Vec<&str> = here.chain(ELSEWHERE.map(|(method, _)| method)).collect();
    let missing: Vec<&String> = of_contract.iter().filter(|method| !known.contains(&method.as_str())).collect();
    assert!(missing.is_empty(), "add to METHODS and prepare of a group in crash/writes/, or to ELSEWHERE: {missing:?}");
    let gone: Vec<&&str> = known.iter().filter(|method| !of_contract.contains(**method)).collect();
    assert!(gone.is_empty(), "the contract has no such methods that write: {gone:?}");
    assert_eq!(known.iter().collect::<BTreeSet<_>>().len(), known.len(), "each once");
}

async fn killed(when: &str, group: Group) {
    let mut desk = Desk::of(group).await;
    let mut dead: Option<&'static str> = None;
    for index in 0..desk.writes.len() {
        let (target, place) =
            (desk.writes[index].target(), desk.writes[index].place(when, "kill", desk.writes[index].commit));
        match dead {
            Some(dead) if dead == target => {}
            Some(dead) => {
                desk.mesh.restart(dead).await;
                desk.mesh.kill_9(target);
            }
            None => desk.mesh.kill_9(target),
        }
        desk.mesh.start_failing(target, &place);
        // What the death before has cut off is another method's.
        desk.is_answered().await;
        desk.send(index);
        let what = format!("it dies at {place}");
        eventually(&what, || std::future::ready(desk.mesh.has_ended(target).then_some(()))).await;
        dead = Some(target);
    }
    desk.mesh.restart(dead.expect("something was killed")).await;
    desk.comes_out_whole(when == "after").await;
}

async fn failing(group: Group) {
    let mut desk = Desk::of(group).await;
    // The second try comes to the same commit, after those before it.
    let places = desk.writes.iter().flat_map(|write| {
        [write.place("before", "error", write.commit), write.place("after", "error", 2 * write.commit - 1)]
    });
    let own = SERVICES.iter().flat_map(|service| ["before", "after"].map(|when| format!("{service}.{when}=error")));
    let places: Vec<String> = places.chain(own).collect();
    for service in SERVICES {
        desk.mesh.kill_9(service);
        desk.mesh.start_failing(service, &places.join(","));
    }
    for index in 0..desk.writes.len() {
        desk.send(index);
        desk.is_answered().await;
    }
    desk.comes_out_whole(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_its_commit_what_a_call_does_to_accounts_is_done_once() {
    killed("before", Group::Accounts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_its_commit_what_a_call_does_to_accounts_is_done_once() {
    killed("after", Group::Accounts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_before_and_after_its_commit_what_a_call_does_to_accounts_is_done_once() {
    failing(Group::Accounts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_its_commit_what_a_call_tells_runs_is_done_once() {
    killed("before", Group::Runs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_its_commit_what_a_call_tells_runs_is_done_once() {
    killed("after", Group::Runs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_before_and_after_its_commit_what_a_call_tells_runs_is_done_once() {
    failing(Group::Runs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_its_commit_what_a_call_answers_is_done_once() {
    killed("before", Group::Answers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_its_commit_what_a_call_answers_is_done_once() {
    killed("after", Group::Answers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_before_and_after_its_commit_what_a_call_answers_is_done_once() {
    failing(Group::Answers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_its_commit_what_a_call_sets_up_is_done_once() {
    killed("before", Group::Setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_its_commit_what_a_call_sets_up_is_done_once() {
    killed("after", Group::Setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_before_and_after_its_commit_what_a_call_sets_up_is_done_once() {
    failing(Group::Setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_its_commit_what_a_call_does_to_webhooks_is_done_once() {
    killed("before", Group::Hooks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_its_commit_what_a_call_does_to_webhooks_is_done_once() {
    killed("after", Group::Hooks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_before_and_after_its_commit_what_a_call_does_to_webhooks_is_done_once() {
    failing(Group::Hooks).await;
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
