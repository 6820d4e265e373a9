//! Tenants: who the customers are, how they sign up, the host names of their own, and the directory that lets every process
//! know.

pub mod config;
pub mod directory;
pub mod error;
pub mod onboarding;
pub mod tenants;

pub mod dns;
pub mod domains;

use tenon_chassis::{
    Mesh,
    server::{Server, StartError, open_db},
};
use tenon_proto::tenant::v1::{
    directory_service_server::{DirectoryServiceServer, SERVICE_NAME as DIRECTORY},
    domain_service_server::{DomainServiceServer, SERVICE_NAME as DOMAINS},
    tenant_service_server::{SERVICE_NAME as TENANTS, TenantServiceServer},
};
use tonic::service::Routes;

pub use config::Config;

/// The part's name: its role, its schema, its `aud`.
pub const NAME: &str = "tenant";

/// Opens the service's port and database; it serves when `Server::serve` is called.
///
/// # Errors
/// When the database is not configured or the port is taken.
pub async fn bind(mesh: &Mesh, config: &Config) -> Result<Server, StartError> {
    let db = open_db(mesh, NAME, &config.tenant_db_password, |_| Vec::new())?;
    let onboarding = onboarding::Onboarding::new(mesh, db.clone());
    mesh.tasks.spawn(onboarding.clone().resume(mesh.stop.clone()));
    let directory = directory::Directory::new(mesh, db.clone());
    mesh.tasks.spawn(directory.clone().follow(mesh.stop.clone()));
    let domains = domains::Domains::new(mesh, db.clone(), config);
    mesh.tasks.spawn(domains.clone().watch(mesh.stop.clone()));
    let tenants = tenants::Tenants::new(db, onboarding, config.regions.clone());
    let routes = Routes::new(TenantServiceServer::new(tenants))
        .add_service(DomainServiceServer::new(domains))
        .add_service(DirectoryServiceServer::new(directory));
    Ok(Server::bind(mesh, NAME, routes, vec![TENANTS, DOMAINS, DIRECTORY]).await?)
}
