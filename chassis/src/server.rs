//! A service's port: every call through the guard, with a span, a deadline and metrics; health, reflection, drain.

mod layer;

use std::{io, sync::Arc};

use http_body_util::Full;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{Db, Mesh, accept, bus::Consumer, config::Config, db::OpenError, secret::Secret};
pub use layer::Guarded;

/// Why a service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Database(#[from] OpenError),
    #[error(transparent)]
    Port(#[from] io::Error),
}

/// Opens a service's database and keeps its background work going: the pulse, the relay of its outbox, its consumers.
///
/// # Errors
/// When the database is not configured.
pub fn open_db(
    mesh: &Mesh,
    name: &'static str,
    password: &Secret,
    consumers: impl FnOnce(&Db) -> Vec<Consumer>,
) -> Result<Db, StartError> {
    let db = Db::open(&mesh.config, name, password, mesh.clock.clone())?;
    mesh.tasks.spawn(db.pulse().clone().run(mesh.stop.clone()));
    mesh.tasks.spawn(mesh.bus.clone().relay(db.clone(), mesh.stop.clone()));
    for consumer in consumers(&db) {
        mesh.tasks.spawn(mesh.bus.clone().consume(db.clone(), consumer, mesh.stop.clone()));
    }
    Ok(db)
}

/// One edge carries the calls of all clients; those that give up early must not cut the others off.
const PENDING_RESETS: usize = 1_000;

/// A service that listens but does not serve yet.
pub struct Server {
    name: &'static str,
    listener: TcpListener,
    routes: Routes,
    health: HealthReporter,
    services: Vec<&'static str>,
    mesh: Mesh,
}

impl Server {
    /// Takes a service's port and routes; `services` are the full names of what the routes serve.
    ///
    /// # Errors
    /// When the port cannot be opened.
    pub async fn bind(
        mesh: &Mesh,
        name: &'static str,
        routes: Routes,
        services: Vec<&'static str>,
    ) -> io::Result<Self> {
        let listener = accept::bind(mesh.config.listen(name)).await?;
        let (health, health_service) = tonic_health::server::health_reporter();
        let mut reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tenon_proto::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("grpc.health.v1.Health");
        for service in &services {
            health.set_service_status(*service, ServingStatus::Serving).await;
            reflection = reflection.with_service_name(*service);
        }
        let reflection = reflection.build_v1().expect("the embedded descriptor set was checked by a test");
        let routes = routes.add_service(health_service).add_service(reflection).prepare();
        Ok(Self { name, listener, routes, health, services, mesh: mesh.clone() })
    }

    /// Serves until stopped, then says NOT_SERVING, sends GOAWAY and lets calls in flight end.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { name, listener, routes, health, services, mesh } = self;
        let limits = accept::Limits { pending_resets: PENDING_RESETS, ..accept::Limits::from(&mesh.config) };
        let guarded = Guarded::new(&mesh, name, routes);
        let ending = stop.clone();
        let announce = async move {
            ending.cancelled().await;
            health.set_service_status("", ServingStatus::NotServing).await;
            for service in services {
                health.set_service_status(service, ServingStatus::NotServing).await;
            }
        };
        tracing::info!(service = name, address = ?listener.local_addr().ok(), "serving");
        tokio::join!(accept::serve(listener, guarded, limits, stop), announce);
        tracing::info!(service = name, "drained");
    }
}

/// The plaintext port of health and metrics.
pub struct Admin {
    listener: TcpListener,
    ready: watch::Receiver<bool>,
    metrics: Option<PrometheusHandle>,
    limits: accept::Limits,
}

impl Admin {
    /// `ready` tells whether the process can take calls.
    ///
    /// # Errors
    /// When the port cannot be opened.
    pub async fn bind(
        config: &Config,
        ready: watch::Receiver<bool>,
        metrics: Option<PrometheusHandle>,
    ) -> io::Result<Self> {
        let listener = accept::bind((config.bind, config.admin_port).into()).await?;
        Ok(Self { listener, ready, metrics, limits: config.into() })
    }

    /// /healthz: the process lives. /readyz: it takes calls. /metrics: Prometheus text.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { listener, ready, metrics, limits } = self;
        let state = Arc::new((ready, metrics));
        let service = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let state = state.clone();
            async move {
                let (ready, metrics) = &*state;
                let ready = *ready.borrow();
                let (status, body) = match request.uri().path() {
                    "/healthz" => (200, "ok\n".to_owned()),
                    "/readyz" if ready => (200, "ready\n".to_owned()),
                    "/readyz" => (503, "not ready\n".to_owned()),
                    "/metrics" => (200, metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default()),
                    _ => (404, "try /healthz, /readyz or /metrics\n".to_owned()),
                };
                let response = http::Response::builder().status(status).header("content-type", "text/plain");
                Ok(response.body(Full::new(bytes::Bytes::from(body))).expect("a constant status and header are valid"))
            }
        });
        accept::serve(listener, service, limits, stop).await;
    }
}
