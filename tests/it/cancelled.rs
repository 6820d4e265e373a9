//! Calls that are let go of at any moment: no connection stays inside a transaction, no acknowledged write is lost, and
//! the pool serves on.

use std::{collections::BTreeSet, time::Duration};

use prost::Message as _;
use serde_json::json;
use sqlx::{Executor as _, Row as _};
use tenon_proto::{
    auth::v1::CreateUserRequest,
    billing::v1::{IngestUsageRequest, UsageEvent},
    workflow::v1::CreateRunRequest,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::harness::{Answer, Backends, Headers, Mesh, Tenant, Wire, eventually};

/// Calls of each kind in the storm; a password takes so long to hash that fewer do.
const CALLS: [(Kind, usize, u64); 3] = [(Kind::Usage, 150, 12_000), (Kind::Run, 150, 20_000), (Kind::User, 40, 90_000)];
/// Three times the connections of a pool: calls are let go of while they wait for one, too.
const AT_ONCE: usize = 12;

/// What is written; each write has an id of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Usage,
    Run,
}

impl Kind {
    fn service(self) -> &'static str {
        match self {
            Self::User => "auth",
            Self::Usage => "billing",
            Self::Run => "workflow",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::User => "/tenon.auth.v1.UserService/CreateUser",
            Self::Usage => "/tenon.billing.v1.UsageService/IngestUsage",
            Self::Run => "/tenon.workflow.v1.RunService/CreateRun",
        }
    }

    fn request(self, id: &str) -> Vec<u8> {
        match self {
            Self::User => {
                let (email, password) = (id.to_owned(), "correct horse battery".to_owned());
                CreateUserRequest { email, password, roles: vec!["viewer".to_owned()] }.encode_to_vec()
            }
            Self::Usage => {
                let event = UsageEvent { id: id.to_owned(), meter: "calls".to_owned(), quantity: 1, time: None };
                IngestUsageRequest { events: vec![event] }.encode_to_vec()
            }
            Self::Run => {
                let (workflow, entity_id) = ("hello".to_owned(), id.to_owned());
                CreateRunRequest { workflow, entity_id, ..CreateRunRequest::default() }.encode_to_vec()
            }
        }
    }

    /// The ids that are in the database.
    fn query(self) -> &'static str {
        match self {
            Self::User => "select email from auth.users where email like '%@storm.test'",
            Self::Usage => "select id from billing.usage_events where meter = 'calls'",
            Self::Run => "select entity_id from workflow.runs",
        }
    }
}

/// A mesh, a tenant that has a workflow, and a client.
struct Sea {
    mesh: Mesh,
    tenant: Tenant,
    wire: Wire,
}

impl Sea {
    async fn still() -> Self {
        let mesh = Mesh::start(Backends::Embedded).await;
        mesh.lift_limits().await;
        let tenant = mesh.onboard("acme").await;
        let definition =
            json!({ "QueryLanguage": "JSONata", "StartAt": "A", "States": { "A": { "Type": "Succeed" } } });
        let body = json!({ "workflowId": "hello", "definition": definition });
        let (status, answer) = mesh.post("/v1/workflows", &tenant.token, &body).await;
        assert!(status.is_success(), "{answer}");
        Self { mesh, tenant, wire: Wire::new() }
    }

    /// A call as a future that owns all it needs, so that it can be dropped anywhere.
    fn call(
        &self,
        wire: &Wire,
        kind: Kind,
        id: &str,
        timeout: Option<Duration>,
    ) -> impl Future<Output = Answer> + Send + 'static {
        let mut headers: Headers = vec![("authorization", format!("Bearer {}", self.tenant.token))];
        headers.extend(timeout.map(|timeout| ("grpc-timeout", format!("{}u", timeout.as_micros()))));
        let (wire, port, request) = (wire.clone(), self.mesh.ports[kind.service()], kind.request(id));
        async move { wire.grpc_bytes(port, kind.path(), &headers, &request).await }
    }

    async fn stored(&self, kind: Kind) -> BTreeSet<String> {
        let rows = self.mesh.database.owner().await.fetch_all(kind.query()).await.expect("the owner may read");
        rows.into_iter().map(|row| row.get(0)).collect()
    }

    /// Makes calls and lets go of each after a moment up to `longest_us`, or up to less on a machine on which most of them
    /// are answered by then: the ids that were acknowledged in time.
    async fn storm(&self, kind: Kind, calls: usize, mut longest_us: u64) -> BTreeSet<String> {
        let mut acknowledged = BTreeSet::new();
        for turn in 0.. {
            let let_go = self.gust(kind, calls, longest_us, turn, &mut acknowledged).await;
            if let_go > calls / 10 {
                break;
            }
            longest_us /= 2;
            assert!(longest_us > 0, "{kind:?}: only {let_go} of {calls} calls were let go of");
        }
        acknowledged
    }

    /// One turn of a storm: how many calls were let go of.
    async fn gust(
        &self,
        kind: Kind,
        calls: usize,
        longest_us: u64,
        turn: usize,
        acknowledged: &mut BTreeSet<String>,
    ) -> usize {
        let (mut let_go, mut running) = (0, JoinSet::new());
        let mut wire = self.wire.clone();
        for n in 0..calls {
            // Servers close a connection that sees 20 streams reset before it takes them in (CVE-2023-44487).
            if n % 10 == 0 {
                wire = Wire::new();
            }
            let id = format!("{turn}-{n}@storm.test");
            // Spread over the whole span, in no order.
            let moment = Duration::from_micros((n as u64).wrapping_mul(7_919) % longest_us);
            // The client goes away, or the server is told how long it has.
            let by_server = n % 3 == 0;
            let call = self.call(&wire, kind, &id, by_server.then_some(moment));
            running.spawn(async move {
                let answer = if by_server { Some(call.await) } else { tokio::time::timeout(moment, call).await.ok() };
                (id, answer)
            });
            while running.len() >= AT_ONCE {
                count(running.join_next().await, acknowledged, &mut let_go);
            }
        }
        while let Some(ended) = running.join_next().await {
            count(Some(ended), acknowledged, &mut let_go);
        }
        let_go
    }

    async fn no_connection_is_inside_a_transaction(&self) {
        let inside = "select application_name || ': ' || query from pg_stat_activity
                      where datname = current_database() and state like 'idle in transaction%'";
        // What an engine has open at the moment is gone the next; what was forgotten stays.
        eventually("no connection is inside a transaction that nobody goes on with", || async {
            let rows = self.mesh.database.owner().await.fetch_all(inside).await.expect("the owner may look");
            rows.is_empty().then_some(())
        })
        .await;
    }
}

fn count(
    ended: Option<Result<(String, Option<Answer>), tokio::task::JoinError>>,
    acknowledged: &mut BTreeSet<String>,
    let_go: &mut usize,
) {
    let (id, answer) = ended.expect("something runs").expect("no call panics");
    match answer {
        None => *let_go += 1,
        Some(answer) if answer.code == Code::DeadlineExceeded => {
            assert_eq!(answer.reason, "DEADLINE_EXCEEDED");
            *let_go += 1;
        }
        // Twelve at once of few connections and hashing slots: some are told to come back.
        Some(answer) if matches!(answer.code, Code::Unavailable | Code::ResourceExhausted) => *let_go += 1,
        Some(answer) => {
            assert_eq!(answer.code, Code::Ok, "{id}: {} {}", answer.reason, answer.text());
            assert!(acknowledged.insert(id), "an id is used once");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_let_go_of_leave_nothing_behind() {
    let sea = Sea::still().await;
    for (kind, calls, longest_us) in CALLS {
        let mut acknowledged = sea.storm(kind, calls, longest_us).await;
        sea.no_connection_is_inside_a_transaction().await;
        // Whatever connections are in the pool now, what is written through them is kept.
        let mut after = JoinSet::new();
        for n in 0..AT_ONCE * 2 {
            let id = format!("after-{n}@storm.test");
            let call = sea.call(&sea.wire, kind, &id, None);
            after.spawn(async move { (id, call.await) });
        }
        for (id, answer) in after.join_all().await {
            assert_eq!(answer.code, Code::Ok, "{kind:?} {id}: {} {}", answer.reason, answer.text());
            acknowledged.insert(id);
        }
        let stored = sea.stored(kind).await;
        let lost: Vec<_> = acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "{kind:?}: acknowledged and not there: {lost:?}");
    }
    // Each run that is there was counted, and none that is not.
    let (runs, calls) = (sea.stored(Kind::Run).await.len(), sea.stored(Kind::Usage).await.len());
    eventually("the meters say what is there", || async {
        let (_, usage) = sea.mesh.get("/v1/usage", &sea.tenant.token).await;
        let meters = usage["meters"].as_array().cloned().unwrap_or_default();
        let said = |name: &str, count: usize| meters.contains(&json!({ "meter": name, "quantity": count.to_string() }));
        (said("workflow_runs", runs) && said("calls", calls)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_said_to_have_passed_and_nothing_is_written() {
    let sea = Sea::still().await;
    let mut owner = sea.mesh.database.owner().await;
    let lock = "begin; lock table billing.usage_events in access exclusive mode";
    sqlx::raw_sql(lock).execute(&mut owner).await.expect("the owner may lock");
    let mut stuck = JoinSet::new();
    for n in 0..AT_ONCE {
        stuck.spawn(sea.call(&sea.wire, Kind::Usage, &format!("late-{n}"), Some(Duration::from_millis(200))));
    }
    for answer in stuck.join_all().await {
        assert_eq!((answer.code, &*answer.reason), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"), "{}", answer.text());
    }
    let headers: Headers =
        vec![("authorization", format!("Bearer {}", sea.tenant.token)), ("x-request-timeout", "0.2".to_owned())];
    let body = json!({ "events": [{ "id": "late-at-the-edge", "meter": "calls" }] }).to_string();
    let post = reqwest::Method::POST;
    let answer = sea.wire.http(&sea.mesh, post, "/v1/usage:ingest", &headers, body.as_bytes()).await;
    assert_eq!((answer.http.as_u16(), &*answer.reason), (504, "DEADLINE_EXCEEDED"), "{}", answer.text());
    sqlx::raw_sql("rollback").execute(&mut owner).await.expect("the lock can be let go of");
    eventually("the service takes usage again", || async {
        let answer = sea.call(&sea.wire, Kind::Usage, "in-time", None).await;
        (answer.code == Code::Ok).then_some(())
    })
    .await;
    sea.no_connection_is_inside_a_transaction().await;
    assert_eq!(
        sea.stored(Kind::Usage).await,
        BTreeSet::from(["in-time".to_owned()]),
        "what was given up was rolled back"
    );
}
