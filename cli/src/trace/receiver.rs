//! Takes spans by OTLP over gRPC.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::{net::TcpListener, sync::Mutex};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Server};

use super::store::Store;

struct Receiver(Arc<Mutex<Store>>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().await.add(request.into_inner().resource_spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Serves until told to stop.
pub(crate) async fn serve(listener: TcpListener, store: Arc<Mutex<Store>>, stop: CancellationToken) -> Result<()> {
    let service = TraceServiceServer::new(Receiver(store));
    let incoming = TcpListenerStream::new(listener);
    // Not graceful: the exporter keeps its connection open for ever, and its last batch was sent before we are told.
    tokio::select! {
        served = Server::builder().add_service(service).serve_with_incoming(incoming) => served.context("trace receiver"),
        () = stop.cancelled() => Ok(()),
    }
}
