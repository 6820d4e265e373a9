//! The service on real Postgres, with a stand-in for the tenant registry and for billing.

use std::{
    collections::HashMap,
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use clap::Parser;
use serde_json::{Value, json};
use tenon_chassis::{Clock, Mesh, TenantId, client::Peer};
use tenon_proto::{
    billing::v1::{
        GetUsageRequest, IngestUsageRequest, IngestUsageResponse, MeterUsage, Usage,
        usage_service_server::{UsageService, UsageServiceServer},
    },
    tenant::v1::{
        DirectoryEntry, LookupTenantRequest, WatchTenantsRequest, WatchTenantsResponse,
        directory_service_server::{DirectoryService, DirectoryServiceServer},
        lookup_tenant_request::Key,
        tenant::Status as TenantStatus,
    },
    workflow::v1::{
        CancelRunRequest, CreateRunRequest, CreateWorkflowRequest, GetRunRequest, ListRunHistoryRequest,
        ListRunsRequest, Run, run::State, run_service_client::RunServiceClient,
        workflow_service_client::WorkflowServiceClient,
    },
};
use tenon_workflow::{Service, config::Config, json as pb};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    mesh: tenon_chassis::config::Config,
    #[command(flatten)]
    workflow: Config,
}

#[derive(Clone, Default)]
struct Outside {
    status: Arc<Mutex<HashMap<String, TenantStatus>>>,
    /// Idempotency keys of calls, in order.
    calls: Arc<Mutex<Vec<String>>>,
    /// Calls to fail before one succeeds, and how slow each is.
    failures: Arc<Mutex<u32>>,
    slow: Arc<Mutex<Duration>>,
}

#[tonic::async_trait]
impl DirectoryService for Outside {
    type WatchTenantsStream = tokio_stream::Pending<Result<WatchTenantsResponse, Status>>;

    async fn lookup_tenant(&self, request: Request<LookupTenantRequest>) -> Result<Response<DirectoryEntry>, Status> {
        let Some(Key::Id(id)) = request.into_inner().key else { return Err(Status::not_found("slug")) };
        let status = self.status.lock().unwrap().get(&id).copied().unwrap_or(TenantStatus::Active);
        let entry = DirectoryEntry { id: id.clone(), slug: id[4..].to_owned(), ..DirectoryEntry::default() };
        Ok(Response::new(DirectoryEntry { status: status.into(), ..entry }))
    }

    async fn watch_tenants(
        &self,
        _: Request<WatchTenantsRequest>,
    ) -> Result<Response<Self::WatchTenantsStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }
}

#[tonic::async_trait]
impl UsageService for Outside {
    async fn get_usage(&self, request: Request<GetUsageRequest>) -> Result<Response<Usage>, Status> {
        let key = request.metadata().get("idempotency-key").unwrap().to_str().unwrap().to_owned();
        assert!(request.metadata().contains_key("authorization") && request.metadata().contains_key("grpc-timeout"));
        self.calls.lock().unwrap().push(key);
        let slow = *self.slow.lock().unwrap();
        tokio::time::sleep(slow).await;
        let fails = {
            let mut failures = self.failures.lock().unwrap();
            let fails = *failures > 0;
            *failures = failures.saturating_sub(1);
            fails
        };
        if fails {
            return Err(tenon_chassis::Fault::new(tonic::Code::Aborted, "CONFLICT", "again").into());
        }
        let meters = vec![MeterUsage { meter: "workflow_runs".to_owned(), quantity: 7 }];
        Ok(Response::new(Usage { meters, ..Usage::default() }))
    }

    async fn ingest_usage(&self, _: Request<IngestUsageRequest>) -> Result<Response<IngestUsageResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Node {
    mesh: Mesh,
    stop: CancellationToken,
    task: JoinHandle<()>,
    tenant: TenantId,
}

async fn outside() -> (Outside, u16) {
    let (outside, port) = (Outside::default(), port());
    let server = tonic::transport::Server::builder()
        .add_service(DirectoryServiceServer::new(outside.clone()))
        .add_service(UsageServiceServer::new(outside.clone()));
    tokio::spawn(server.serve(([127, 0, 0, 1], port).into()));
    (outside, port)
}

async fn node(outside: u16, tenant: TenantId) -> Node {
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let url = format!("http://127.0.0.1:{outside}");
    let args = ["test", "--mesh-key", key, "--master-key", key, "--operator-key", "operator", "--tenant-url", &url];
    let port = port().to_string();
    let database =
        std::env::var("TENON_TEST_DATABASE_URL").expect("a database with the migrations of mesh and workflow");
    let more = [
        "--billing-url",
        &url,
        "--workflow-port",
        &port,
        "--database-url",
        &database,
        "--workflow-db-password",
        "x",
        "--workflow-lease-ms",
        "1000",
    ];
    let settings = Settings::parse_from(args.into_iter().chain(more));
    let mesh = Mesh::join(settings.mesh, Clock::default()).await.unwrap();
    let service = Service::start(&mesh, settings.workflow).await.unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(service.serve(stop.clone()));
    Node { mesh, stop, task, tenant }
}

impl Node {
    fn peer(&self) -> Peer {
        self.mesh.peer("gateway", "workflow").acting_for(self.tenant, &["admin".to_owned()])
    }

    fn runs(&self) -> RunServiceClient<Peer> {
        RunServiceClient::new(self.peer())
    }

    async fn publish(&self, id: &str, definition: Value) -> Result<i32, Status> {
        let Value::Object(fields) = definition else { panic!("an object") };
        let request = CreateWorkflowRequest { workflow_id: id.to_owned(), definition: Some(pb::to_struct(fields)) };
        let workflow = WorkflowServiceClient::new(self.peer()).create_workflow(request).await?;
        Ok(workflow.into_inner().version)
    }

    async fn start(&self, id: &str, input: Value) -> String {
        let request =
            CreateRunRequest { workflow: id.to_owned(), entity_id: "e1".to_owned(), input: Some(pb::to_pb(input)) };
        self.runs().create_run(request).await.unwrap().into_inner().name
    }

    async fn get(&self, name: &str) -> Run {
        self.runs().get_run(GetRunRequest { name: name.to_owned() }).await.unwrap().into_inner()
    }

    async fn ended(&self, name: &str) -> Run {
        for _ in 0..2_000 {
            let run = self.get(name).await;
            if run.state() != State::Running {
                return run;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} does not end: {:?}", self.history(name).await);
    }

    async fn history(&self, name: &str) -> Vec<String> {
        let request = ListRunHistoryRequest { parent: name.to_owned(), page_size: 1000, page_token: String::new() };
        let events = self.runs().list_run_history(request).await.unwrap().into_inner().events;
        events.into_iter().map(|event| event.r#type).collect()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn output(run: Run) -> Value {
    assert_eq!(run.state(), State::Succeeded, "{run:?}");
    pb::from_pb(run.output.unwrap())
}

fn hello() -> Value {
    json!({
        "StartAt": "Ask",
        "States": {
            "Ask": {
                "Type": "Task",
                "Resource": "grpc:tenon.billing.v1.UsageService/GetUsage",
                "Arguments": {},
                "Retry": [{"ErrorEquals": ["CONFLICT"], "IntervalSeconds": 1}],
                "Assign": {"n": "{% $number($states.result.meters[0].quantity) %}"},
                "Next": "Sleep"
            },
            "Sleep": {"Type": "Wait", "Seconds": "{% $states.context.Execution.Input.wait %}", "Next": "Both"},
            "Both": {"Type": "Parallel", "End": true, "Branches": [
                {"StartAt": "A", "States": {"A": {"Type": "Pass", "Output": "{% $n + 1 %}", "End": true}}},
                {"StartAt": "B", "States": {"B": {
                    "Type": "Task", "Resource": "grpc:tenon.billing.v1.UsageService/GetUsage", "Arguments": {},
                    "Output": "{% $states.result.meters[0].meter %}", "End": true
                }}}
            ]}
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_go_on_across_engines() {
    let (outside, port) = outside().await;
    let tenant = TenantId::new(&Clock::default());
    let node1 = node(port, tenant).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node1.publish("hello", hello()).await.unwrap(), 1);
    assert_eq!(node1.publish("hello", hello()).await.unwrap(), 1, "the same definition is the same version");
    let bad = node1.publish("bad", json!({"StartAt": "X", "States": {}})).await.unwrap_err();
    assert_eq!(tenon_chassis::fault::reason(&bad).as_deref(), Some("INVALID_DEFINITION"));

    let begun = std::time::Instant::now();
    let name = node1.start("hello", json!({"wait": 0})).await;
    assert_eq!(output(node1.ended(&name).await), json!([8, "workflow_runs"]));
    eprintln!("first run {:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    let name = node1.start("hello", json!({"wait": 0})).await;
    assert_eq!(output(node1.ended(&name).await), json!([8, "workflow_runs"]));
    eprintln!("second run {:?}", begun.elapsed());
    assert_eq!(node1.history(&name).await.last().map(String::as_str), Some("ExecutionSucceeded"));
    let calls = std::mem::take(&mut *outside.calls.lock().unwrap());
    assert_eq!(calls.len(), 4);
    assert_eq!(calls[2], format!("{}/1", &name[5..]));

    // A retry is a new attempt with a key of its own.
    *outside.failures.lock().unwrap() = 1;
    let name = node1.start("hello", json!({"wait": 0})).await;
    output(node1.ended(&name).await);
    let calls = std::mem::take(&mut *outside.calls.lock().unwrap());
    assert!(calls.len() == 3 && calls[0] != calls[1], "{calls:?}");

    // A second engine takes half of the partitions; many runs end whoever owns them.
    let node2 = node(port, tenant).await;
    let begun = std::time::Instant::now();
    let mut names = Vec::new();
    for _ in 0..50 {
        names.push(node1.start("hello", json!({"wait": 1})).await);
        names.push(node2.start("hello", json!({"wait": 0})).await);
    }
    for name in &names {
        output(node2.ended(name).await);
    }
    eprintln!("100 runs {:?}", begun.elapsed());
    let mut calls = std::mem::take(&mut *outside.calls.lock().unwrap());
    calls.sort();
    calls.dedup();
    assert_eq!(calls.len(), 200);

    // Cancel, asleep in the database and with a call in flight.
    let asleep = node1.start("hello", json!({"wait": 1000})).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    *outside.slow.lock().unwrap() = Duration::from_secs(20);
    let calling = node2.start("hello", json!({"wait": 0})).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for name in [asleep, calling] {
        let request = CancelRunRequest { name: name.clone(), reason: "enough".to_owned() };
        let run = node1.runs().cancel_run(request).await.unwrap().into_inner();
        assert_eq!((run.state(), run.cause.as_str()), (State::Cancelled, "enough"), "{:?}", node1.history(&name).await);
    }

    // A stopped engine gives its runs back; the other calls again with the same key.
    outside.calls.lock().unwrap().clear();
    let mut names = Vec::new();
    for _ in 0..8 {
        names.push(node1.start("hello", json!({"wait": 0})).await);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    *outside.slow.lock().unwrap() = Duration::ZERO;
    // An engine that dies without a word.
    node2.task.abort();
    node1.stop().await;
    let node3 = node(port, tenant).await;
    for name in &names {
        output(node3.ended(name).await);
    }
    let mut calls = std::mem::take(&mut *outside.calls.lock().unwrap());
    calls.sort();
    let all = calls.len();
    calls.dedup();
    assert_eq!(calls.len(), 16, "{all} calls, of which 16 are different");
    assert!(all > 16, "some were repeated");

    let request = ListRunsRequest { page_size: 60, state: State::Succeeded.into(), ..ListRunsRequest::default() };
    let page = node3.runs().list_runs(request.clone()).await.unwrap().into_inner();
    assert_eq!(page.runs.len(), 60);
    let request = ListRunsRequest { page_token: page.next_page_token, ..request };
    let page = node3.runs().list_runs(request).await.unwrap().into_inner();
    assert_eq!((page.runs.len(), page.next_page_token.as_str()), (51, ""));
    node3.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_tenant_parks_at_the_next_call() {
    let (outside, port) = outside().await;
    let tenant = TenantId::new(&Clock::default());
    let node = node(port, tenant).await;
    node.publish("hello", hello()).await.unwrap();
    let name = node.start("hello", json!({"wait": 7})).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    outside.status.lock().unwrap().insert(tenant.to_string(), TenantStatus::Suspended);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(outside.calls.lock().unwrap().len(), 1, "no call for a suspended tenant");
    outside.status.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(6)).await;
    output(node.ended(&name).await);
    node.stop().await;
}
