//! The control: the least that an axum server in front of a tonic server can do with the same request and answer.

use anyhow::Result;
use axum::{
    Json, Router,
    extract::{Path, State},
    routing::get,
};
use serde_json::{Value, json};
use tenon_proto::workflow::v1::{
    BatchCreateRunsRequest, BatchCreateRunsResponse, CancelRunRequest, CreateRunRequest, ExplainRunRequest,
    ExplainRunResponse, GetRunRequest, ListRunHistoryRequest, ListRunHistoryResponse, ListRunsRequest,
    ListRunsResponse, PauseRunRequest, ResumeRunRequest, RetryRunRequest, Run, SignalRunRequest, SignalRunResponse,
    TerminateRunRequest, WatchRunRequest, WatchRunResponse,
    run_service_client::RunServiceClient,
    run_service_server::{RunService, RunServiceServer},
};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

/// Answers GetRun from nothing.
struct Bare;

#[tonic::async_trait]
impl RunService for Bare {
    async fn get_run(&self, request: Request<GetRunRequest>) -> Result<Response<Run>, Status> {
        let name = request.into_inner().name;
        let (workflow, entity_id) = ("workflows/bench".to_owned(), "customer-1".to_owned());
        Ok(Response::new(Run { name, workflow, entity_id, version: 1, state: 2, ..Run::default() }))
    }

    async fn create_run(&self, _: Request<CreateRunRequest>) -> Result<Response<Run>, Status> {
        Err(Status::unimplemented("the control only gets"))
    }

    async fn list_runs(&self, _: Request<ListRunsRequest>) -> Result<Response<ListRunsResponse>, Status> {
        Err(Status::unimplemented("the control only gets"))
    }

    async fn list_run_history(
        &self,
        _: Request<ListRunHistoryRequest>,
    ) -> Result<Response<ListRunHistoryResponse>, Status> {
        Err(Status::unimplemented("the control only gets"))
    }

    async fn cancel_run(&self, _: Request<CancelRunRequest>) -> Result<Response<Run>, Status> {
        Err(Status::unimplemented("the control only gets"))
    }

    async fn batch_create_runs(
        &self,
        _: Request<BatchCreateRunsRequest>,
    ) -> Result<Response<BatchCreateRunsResponse>, Status> {
        Err(Status::unimplemented("the control only gets"))
    }

    async fn terminate_run(&self, _: Request<TerminateRunRequest>) -> Result<Response<Run>, Status> {
        Err(Status::unimplemented("the control only gets"))
    }

    async fn pause_run(&self, _: Request<PauseRunRequest>) -> Result<Response<Run>, Status> {
        Err(Status::unimplemented("the control only gets"))
    }

    async fn resume_run(&self, _: Request<ResumeRunRequest>) -> Result<Response<Run>, Status> {
        Err(Status::unimplemented("the control only gets"))
    }

    async fn signal_run(&self, _: Request<SignalRunRequest>) -> Result<Response<SignalRunResponse>, Status> {
        Err(Status::unimplemented("the control only gets"))
    }

    async fn retry_run(&self, _: Request<RetryRunRequest>) -> Result<Response<Run>, Status> {
        Err(Status::unimplemented("the control only gets"))
    }

    type WatchRunStream = tonic::codegen::BoxStream<WatchRunResponse>;

    async fn watch_run(&self, _: Request<WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        Err(Status::unimplemented("the control only gets"))
    }

    async fn explain_run(&self, _: Request<ExplainRunRequest>) -> Result<Response<ExplainRunResponse>, Status> {
        Err(Status::unimplemented("the control only gets"))
    }
}

pub(crate) async fn upstream(port: u16) -> Result<()> {
    let address = ([127, 0, 0, 1], port).into();
    Ok(Server::builder().add_service(RunServiceServer::new(Bare)).serve(address).await?)
}

pub(crate) async fn edge(port: u16, upstream: u16) -> Result<()> {
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{upstream}"))?.tcp_nodelay(true).connect_lazy();
    let client = RunServiceClient::new(channel);
    let routes = Router::new().route("/v1/runs/{run}", get(get_run)).with_state(client);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    Ok(axum::serve(listener, routes).await?)
}

async fn get_run(Path(run): Path<String>, State(mut client): State<RunServiceClient<Channel>>) -> Json<Value> {
    let run = client.get_run(GetRunRequest { name: format!("runs/{run}") }).await;
    let run = run.map(Response::into_inner).unwrap_or_default();
    Json(json!({ "name": run.name, "workflow": run.workflow, "version": run.version, "entityId": run.entity_id,
        "state": "SUCCEEDED" }))
}
