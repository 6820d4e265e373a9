//! A process as a deployment sees it: it drains when it is told to stop, and `tenon token` opens its port.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tenon_proto::workflow::v1::{ListRunsRequest, run_service_client::RunServiceClient};
use tonic::{Code, Request, Status};

use crate::harness::{Backends, Mesh, eventually};

/// Logins at once; each takes a core for a while, so some are waiting when the end comes.
const LOGINS: usize = 8;

/// Requests that the edge has taken in and not answered yet.
async fn in_flight(mesh: &Mesh) -> usize {
    let url = format!("http://127.0.0.1:{}/metrics", mesh.admin_port("all"));
    let metrics = mesh.http.get(url).send().await.expect("the process answers").text().await.expect("it is text");
    let gauge = metrics.lines().find_map(|line| line.strip_prefix("tenon_edge_in_flight "));
    gauge.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_process_ends_what_it_has_begun_and_then_itself() {
    let mut mesh = Mesh::start(Backends::Embedded).await;
    let acme = mesh.onboard("acme").await;
    let body = json!({ "tenant": acme.slug, "email": acme.email, "password": acme.password });
    let logins: Vec<_> =
        (0..LOGINS).map(|_| tokio::spawn(mesh.request(Method::POST, "/v1/auth/login").json(&body).send())).collect();
    eventually("all are in", || async {
        // In this order one that ends meanwhile is missed, and none is counted twice.
        let ended = logins.iter().filter(|login| login.is_finished()).count();
        (ended + in_flight(&mesh).await >= LOGINS).then_some(())
    })
    .await;
    let code = tokio::task::block_in_place(|| mesh.terminate("all"));
    assert_eq!(code, Some(0));
    for login in logins {
        match login.await.unwrap() {
            Ok(response) => assert_eq!(response.status(), StatusCode::OK),
            Err(error) => panic!("a login was cut: {error:?}"),
        }
    }
    mesh.restart("all").await;
    let refresh = json!({ "refreshToken": acme.refresh_token });
    let (status, session) = mesh.post("/v1/auth/refresh", "", &refresh).await;
    assert_eq!(status, StatusCode::OK, "{session}\n{}", mesh.log("all"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_mesh_opens_a_service_for_one_tenant_and_its_roles() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let acme = mesh.onboard("acme").await;
    let tenant = acme.name.strip_prefix("tenants/").unwrap();
    let list = |token: String| {
        let mut request = Request::new(ListRunsRequest::default());
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let mut client = RunServiceClient::new(mesh.grpc("workflow"));
        async move { client.list_runs(request).await.map(drop).map_err(|status: Status| status.code()) }
    };
    assert_eq!(list(mesh.mesh_token("workflow", Some(tenant), &["admin"])).await, Ok(()));
    assert_eq!(list(mesh.mesh_token("workflow", Some(tenant), &["nobody"])).await, Err(Code::PermissionDenied));
    assert_eq!(list(mesh.mesh_token("billing", Some(tenant), &["admin"])).await, Err(Code::Unauthenticated));
}
