//! Workflows: templates in Amazon States Language, and the durable runs that execute them.

pub mod activities;
pub mod approvals;
pub mod asl;
pub mod cel;
pub mod config;
pub mod endpoints;
pub mod engine;
pub mod error;
pub mod fair;
pub mod hooks;
pub mod json;
pub mod pauses;
mod payloads;
mod purges;
pub mod quotas;
pub mod runs;
pub mod schedules;
pub mod secrets;
pub mod simulate;
pub mod starts;
pub mod tasks;
pub mod workflows;

use std::sync::Arc;

use tenon_chassis::{
    Mesh,
    server::{Server, StartError, open_db},
};
use tenon_proto::workflow::v1::{
    activity_service_server::{ActivityServiceServer, SERVICE_NAME as ACTIVITIES},
    approval_service_server::{ApprovalServiceServer, SERVICE_NAME as APPROVALS},
    endpoint_service_server::{EndpointServiceServer, SERVICE_NAME as ENDPOINTS},
    hook_service_server::{HookServiceServer, SERVICE_NAME as HOOKS},
    pause_service_server::{PauseServiceServer, SERVICE_NAME as PAUSES},
    run_service_server::{RunServiceServer, SERVICE_NAME as RUNS},
    schedule_service_server::{SERVICE_NAME as SCHEDULES, ScheduleServiceServer},
    secret_service_server::{SERVICE_NAME as SECRETS, SecretServiceServer},
    workflow_service_server::{SERVICE_NAME as WORKFLOWS, WorkflowServiceServer},
};
use tonic::service::Routes;

pub use config::Config;

/// The part's name: its role, its schema, its `aud`.
pub const NAME: &str = "workflow";

/// Opens the service's port and database, and starts the engine; it serves when `Server::serve` is called.
///
/// # Errors
/// When the database is not configured or the port is taken.
pub async fn bind(mesh: &Mesh, config: &Config) -> Result<Server, StartError> {
    let db = open_db(mesh, NAME, &config.workflow_db_password, |_| Vec::new())?;
    let quotas = quotas::Quotas::new(db.clone());
    let waker = Arc::new(engine::Waker::new(db.clone(), quotas.clone()));
    let starter = runs::start::Starter::new((config.workflow_partitions, config.workflow_keys_days), quotas.clone());
    let runs = runs::Runs::new(mesh, db.clone(), starter.clone(), waker.clone());
    let pauses = pauses::Pauses::new(db.clone(), waker.clone());
    let foreign = tasks::Foreign::new(mesh, config.edge_url.as_deref());
    let workflows = workflows::Workflows::new(db.clone(), mesh.contract.clone(), foreign);
    let activities = activities::Activities::new(mesh.clone(), db.clone(), waker.clone());
    let approvals = approvals::Approvals::new(mesh.clone(), db.clone(), waker.clone(), config);
    let secrets = secrets::Secrets::new(db.clone(), mesh.clone());
    let starts = Arc::new(starts::Starts::new(starter.clone(), waker.clone()));
    let schedules = schedules::Schedules::new(db.clone(), starts.clone());
    let hooks = hooks::Hooks::new(mesh.clone(), db.clone(), starts.clone());
    let endpoints = endpoints::Endpoints::new(mesh.clone(), db.clone(), config);
    let (consumer, deliverer) = (endpoints.consumer(starts), endpoints.deliver());
    let ticker = schedules.tick(mesh);
    let routes = Routes::new(WorkflowServiceServer::new(workflows))
        .add_service(RunServiceServer::new(runs))
        .add_service(PauseServiceServer::new(pauses))
        .add_service(ScheduleServiceServer::new(schedules))
        .add_service(HookServiceServer::new(hooks))
        .add_service(EndpointServiceServer::new(endpoints))
        .add_service(ActivityServiceServer::new(activities.clone()))
        .add_service(ApprovalServiceServer::new(approvals.clone()))
        .add_service(SecretServiceServer::new(secrets));
    let services = vec![WORKFLOWS, RUNS, PAUSES, SCHEDULES, HOOKS, ENDPOINTS, ACTIVITIES, APPROVALS, SECRETS];
    let server = Server::bind(mesh, NAME, routes, services).await?;
    let stop = mesh.stop.clone();
    let engine = engine::Engine::new(mesh, (db.clone(), config.clone()), waker, starter.templates, stop);
    mesh.tasks.spawn(engine.run());
    mesh.tasks.spawn(activities.run(mesh.stop.clone()));
    mesh.tasks.spawn(approvals.run(mesh.stop.clone()));
    mesh.tasks.spawn(quotas.run(mesh.stop.clone()));
    mesh.tasks.spawn(purges::run(db.clone(), config.clone(), mesh.stop.clone()));
    mesh.tasks.spawn(mesh.bus.clone().consume(db.clone(), quotas::Quotas::consumer(), mesh.stop.clone()));
    mesh.tasks.spawn(ticker);
    mesh.tasks.spawn(deliverer);
    mesh.tasks.spawn(mesh.bus.clone().consume(db, consumer, mesh.stop.clone()));
    Ok(server)
}
