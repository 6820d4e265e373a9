//! The workflow service: publishes templates in Amazon States Language and runs them, durably.

pub mod asl;
pub mod config;
pub mod engine;
pub mod error;
pub mod json;
pub mod runs;
pub mod tasks;
pub mod workflows;

use std::{io, sync::Arc};

use tenon_chassis::{Db, Mesh, db::OpenError, server::Server};
use tenon_proto::workflow::v1::{run_service_server, workflow_service_server};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use config::Config;
use engine::{Engine, Waker};
use runs::rpc::Runs;
use workflows::rpc::Workflows;

/// The name of the service: its part of the contract, its database roles and its tokens.
pub const NAME: &str = "workflow";

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the engine cannot start: {0:?}")]
    Engine(#[from] error::Error),
    #[error("the port of workflow cannot be opened: {0}")]
    Bind(#[from] io::Error),
}

/// The service, listening but not serving yet.
pub struct Service {
    mesh: Mesh,
    db: Db,
    server: Server,
    engine: Engine,
}

impl Service {
    /// Opens the database and the port.
    ///
    /// # Errors
    /// When either cannot be opened.
    pub async fn start(mesh: &Mesh, config: Config) -> Result<Self, StartError> {
        let db = Db::open(&mesh.config, NAME, &config.db_password, mesh.clock.clone()).await?;
        let waker = Arc::new(Waker::new(db.clone()));
        let runs = Runs { db: db.clone(), partitions: config.workflow_partitions, waker: waker.clone() };
        let workflows = Workflows { db: db.clone(), contract: mesh.contract.clone() };
        let routes = Routes::new(workflow_service_server::WorkflowServiceServer::new(workflows))
            .add_service(run_service_server::RunServiceServer::new(runs));
        let services = vec![workflow_service_server::SERVICE_NAME, run_service_server::SERVICE_NAME];
        let engine = Engine::new(mesh, db.clone(), config, waker).await?;
        let server = Server::bind(mesh, NAME, routes, services).await?;
        Ok(Self { mesh: mesh.clone(), db, server, engine })
    }

    /// Whether the database answers.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Serves until stopped; then drains calls, ends the engine's turn and closes the database.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { mesh, db, server, engine } = self;
        // Beats and the relay go on while the rest drains: what it commits must be heard.
        let last = CancellationToken::new();
        let pulse = mesh.tasks.spawn(db.pulse().clone().run(last.clone()));
        let relay = mesh.tasks.spawn(mesh.bus.clone().relay(db.clone(), last.clone()));
        tokio::join!(server.serve(stop.clone()), engine.run(stop));
        last.cancel();
        let _ = tokio::join!(pulse, relay);
        db.close().await;
    }
}
