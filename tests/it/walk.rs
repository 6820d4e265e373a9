//! What a newcomer does, in the order of README.md: in one process, in five, and on Redis and JetStream.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenon_proto::workflow::v1::{GetRunRequest, run_service_client::RunServiceClient};
use tonic::{Code, Request, transport::Endpoint};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::harness::{Backends, Dev, Edge, Mesh, Ports, Second, Tenant, answer, eventually, sign_up, text};

#[tokio::test(flavor = "multi_thread")]
async fn in_one_process() {
    let ports = Ports::take();
    let mut dev = Dev::ephemeral(&ports).await;
    let port = text(&dev.ready["workflow"]).rsplit(':').next().and_then(|port| port.parse().ok());
    walk(&dev.edge, port.expect("a URL of ours ends in a port")).await;
    one_trace(&dev).await;
    dev.process.signal(rustix::process::Signal::INT);
    assert_eq!(dev.process.wait(), Some(0), "Ctrl-C ends it well: {}", dev.process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_five_processes() {
    let mesh = Mesh::start_separately(Backends::Embedded).await;
    walk(&mesh.edge, mesh.ports["workflow"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_five_processes_on_redis_and_jetstream() {
    let mesh = Mesh::start_separately(Backends::Full).await;
    walk(&mesh.edge, mesh.ports["workflow"]).await;
}

async fn walk(edge: &Edge, workflow_port: u16) {
    let acme = sign_up_and_in(edge).await;
    let run = run_a_workflow(edge, &acme).await;
    look_at_usage(edge, &acme).await;
    call_by_grpc(edge, &acme, &run, workflow_port).await;
    suspend_and_activate(edge, &acme).await;
}

async fn sign_up_and_in(edge: &Edge) -> Tenant {
    let (email, password) = ("ada@acme.test", "correct horse battery");
    let sign_up = || {
        let request = edge.request(Method::POST, "/v1/tenants:onboard").header("idempotency-key", "first");
        request.json(&sign_up("acme", email, password))
    };
    let (status, first) = answer(sign_up()).await;
    assert_eq!(status, StatusCode::OK, "{first}");
    assert_eq!(first["tenant"]["status"], "ACTIVE");
    assert_eq!(answer(sign_up()).await, (StatusCode::OK, first.clone()), "the same key gives the same answer");
    let (status, taken) = edge.post("/v1/tenants:onboard", "", &crate::harness::sign_up("acme", email, password)).await;
    assert_eq!((status, reason(&taken)), (StatusCode::CONFLICT, "SLUG_TAKEN".to_owned()), "{taken}");

    let body = json!({ "email": email, "password": password });
    let on_its_host = edge.request(Method::POST, "/v1/auth/login").header("host", "acme.localhost").json(&body);
    let (status, session) = answer(on_its_host).await;
    assert_eq!(status, StatusCode::OK, "{session}");
    let refresh = json!({ "refreshToken": session["refreshToken"] });
    let (status, session) = edge.post("/v1/auth/refresh", "", &refresh).await;
    assert_eq!(status, StatusCode::OK, "{session}");
    assert_eq!(session["expiresIn"], 900);
    let token = text(&session["accessToken"]);
    let (status, me) = edge.get("/v1/auth/whoami", &token).await;
    assert_eq!((status, &me["email"], &me["tenant"]), (StatusCode::OK, &json!(email), &first["tenant"]["name"]));
    let keys = edge.request(Method::GET, "/.well-known/jwks.json").header("host", "acme.localhost");
    let (status, keys) = answer(keys).await;
    assert_eq!((status, &keys["keys"][0]["crv"]), (StatusCode::OK, &json!("Ed25519")), "{keys}");
    let (email, password) = (email.to_owned(), password.to_owned());
    let (name, refresh_token) = (text(&first["tenant"]["name"]), text(&session["refreshToken"]));
    Tenant { name, slug: "acme".to_owned(), email, password, token, refresh_token }
}

/// Pass, a call of another service as the tenant, Choice, Wait, Succeed.
fn hello() -> Value {
    json!({
        "QueryLanguage": "JSONata",
        "StartAt": "Greet",
        "States": {
            "Greet": {
                "Type": "Pass", "Assign": { "greeting": "{% 'Hello, ' & $states.input.name %}" }, "Next": "Plan",
            },
            "Plan": {
                "Type": "Task", "Resource": "grpc:tenon.billing.v1.SubscriptionService/GetSubscription",
                "Arguments": {}, "Output": "{% $states.result.plan %}", "Next": "Which",
            },
            "Which": {
                "Type": "Choice",
                "Choices": [{ "Condition": "{% $states.input = 'plans/free' %}", "Next": "Pause" }],
                "Default": "Done",
            },
            "Pause": { "Type": "Wait", "Seconds": 1, "Next": "Done" },
            "Done": { "Type": "Succeed", "Output": { "said": "{% $greeting %}", "plan": "{% $states.input %}" } },
        },
    })
}

async fn run_a_workflow(edge: &Edge, acme: &Tenant) -> String {
    let template = json!({ "workflowId": "hello", "definition": hello() });
    let (status, template) = edge.post("/v1/workflows", &acme.token, &template).await;
    assert_eq!((status, &template["name"]), (StatusCode::OK, &json!("workflows/hello")), "{template}");
    let body = json!({ "workflow": "hello", "entityId": "order-1", "input": { "name": "Ada" } });
    let started = edge.request(Method::POST, "/v1/runs").bearer_auth(&acme.token).header("traceparent", traceparent());
    let (status, run) = answer(started.json(&body)).await;
    assert_eq!((status, &run["state"]), (StatusCode::OK, &json!("RUNNING")), "{run}");
    let name = text(&run["name"]);
    let done = eventually("the run ends", || async {
        let (_, run) = edge.get(&format!("/v1/{name}"), &acme.token).await;
        (run["state"] != "RUNNING").then_some(run)
    })
    .await;
    assert_eq!(done["state"], "SUCCEEDED", "{done}");
    assert_eq!(done["output"], json!({ "said": "Hello, Ada", "plan": "plans/free" }));
    let (_, history) = edge.get(&format!("/v1/{name}/history"), &acme.token).await;
    let types: Vec<&str> =
        history["events"].as_array().into_iter().flatten().filter_map(|e| e["type"].as_str()).collect();
    assert_eq!(types.first(), Some(&"ExecutionStarted"));
    assert_eq!(types.last(), Some(&"ExecutionSucceeded"));
    assert_eq!(types.iter().filter(|kind| **kind == "TaskSucceeded").count(), 1, "{types:?}");
    let (_, runs) = edge.get("/v1/runs", &acme.token).await;
    assert_eq!(runs["runs"].as_array().map(Vec::len), Some(1), "{runs}");
    name
}

async fn look_at_usage(edge: &Edge, acme: &Tenant) {
    let usage = eventually("the run is counted", || async {
        let (_, usage) = edge.get("/v1/usage", &acme.token).await;
        usage["meters"].as_array().is_some_and(|meters| !meters.is_empty()).then_some(usage)
    })
    .await;
    assert_eq!(usage["meters"], json!([{ "meter": "workflow_runs", "quantity": "1" }]));
    let (status, plans) = edge.get("/v1/plans", "").await;
    assert_eq!((status, &plans["plans"][0]["name"]), (StatusCode::OK, &json!("plans/free")), "{plans}");
    let (_, subscription) = edge.get("/v1/subscription", &acme.token).await;
    assert_eq!(subscription["plan"], "plans/free");
    let (status, preview) = edge.post("/v1/invoices:preview", &acme.token, &json!({})).await;
    assert_eq!(status, StatusCode::OK, "{preview}");
    let lines = preview["lines"].as_array().into_iter().flatten();
    let line = lines.clone().find(|line| line["meter"] == "workflow_runs");
    assert_eq!(line.map(|line| &line["quantity"]), Some(&json!("1")), "{preview}");
}

async fn call_by_grpc(edge: &Edge, acme: &Tenant, run: &str, port: u16) {
    let channel = Endpoint::try_from(format!("http://127.0.0.1:{port}")).unwrap().connect().await.unwrap();
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = ServerReflectionClient::new(channel.clone()).server_reflection_info(tokio_stream::once(ask)).await;
    let answer = asked.unwrap().into_inner().message().await.unwrap().and_then(|answer| answer.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("not a list: {answer:?}") };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains(&"tenon.workflow.v1.RunService".to_owned()), "{names:?}");

    let call = |token: Option<&str>| {
        let mut request = Request::new(GetRunRequest { name: run.to_owned() });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut client = RunServiceClient::new(channel.clone());
        async move { client.get_run(request).await.map(|run| run.into_inner().name).map_err(|status| status.code()) }
    };
    let other = edge.onboard("other").await;
    assert_eq!(call(Some(&acme.token)).await, Ok(run.to_owned()));
    assert_eq!(call(None).await, Err(Code::Unauthenticated));
    assert_eq!(call(Some(&other.token)).await, Err(Code::NotFound));
}

/// One read of each service.
const READS: [&str; 4] = ["/v1/auth/whoami", "/v1/runs", "/v1/usage", "/v1/subscription"];

async fn suspend_and_activate(edge: &Edge, acme: &Tenant) {
    let (status, tenant) = edge.operate(&format!("/v1/{}:suspend", acme.name), &json!({ "reason": "a test" })).await;
    assert_eq!((status, &tenant["status"]), (StatusCode::OK, &json!("SUSPENDED")), "{tenant}");
    refused_within_a_second(edge, acme, StatusCode::FORBIDDEN).await;
    let (status, _) = edge.operate(&format!("/v1/{}:activate", acme.name), &json!({})).await;
    assert_eq!(status, StatusCode::OK);
    eventually("the tenant is let in again", || async {
        let (status, _) = edge.get("/v1/runs", &acme.token).await;
        status.is_success().then_some(())
    })
    .await;
    let (status, _) = edge.operate(&format!("/v1/{}:requirePayment", acme.name), &json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let body = json!({ "workflow": "hello", "input": {} });
    let owing = eventually("a run must be paid for", || async {
        let (status, answer) = edge.post("/v1/runs", &acme.token, &body).await;
        (status == StatusCode::PAYMENT_REQUIRED).then_some(answer)
    })
    .await;
    assert_eq!(reason(&owing), "TENANT_PENDING_PAYMENT");
    let (status, own) = edge.get(&format!("/v1/{}", acme.name), &acme.token).await;
    assert_eq!(
        (status, &own["status"]),
        (StatusCode::OK, &json!("PENDING_PAYMENT")),
        "allow_unpaid still works: {own}"
    );
    assert_eq!(edge.get("/v1/runs", "not a token").await.0, StatusCode::UNAUTHORIZED);
    edge.operate(&format!("/v1/{}:activate", acme.name), &json!({})).await;
}

async fn refused_within_a_second(edge: &Edge, acme: &Tenant, expected: StatusCode) {
    let second = Second::begins();
    for path in READS {
        eventually("a suspended tenant is refused", || async {
            let asked = second.ask();
            let (status, answer) = edge.get(path, &acme.token).await;
            if status == expected {
                return Some(());
            }
            asked.may_be_old(&format!("{path}: {status} {answer}"));
            None
        })
        .await;
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn traceparent() -> String {
    format!("00-{TRACE}-b7ad6b7169203331-01")
}

/// From the edge through workflow and the service that its task calls, down to their SQL.
async fn one_trace(dev: &Dev) {
    let has = |spans: &[(String, String)], part: &str, name: &str| {
        spans.iter().any(|(its_part, its_name)| its_part == part && its_name.contains(name))
    };
    dev.trace(TRACE, |spans| {
        spans.iter().any(|(_, name)| name == "POST /v1/runs")
            && has(spans, "gateway", "tenon.workflow.v1.RunService/CreateRun")
            && has(spans, "workflow", "RunService/CreateRun")
            && has(spans, "workflow", "insert")
            && has(spans, "billing", "SubscriptionService/GetSubscription")
            && has(spans, "billing", "select")
    })
    .await;
}

fn reason(answer: &Value) -> String {
    let details = answer["details"].as_array().into_iter().flatten();
    details.filter_map(|detail| detail["reason"].as_str()).next().unwrap_or_default().to_owned()
}
