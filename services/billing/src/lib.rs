//! Billing: what can be bought, who is on which plan, what was used, and what it costs.

pub mod config;
pub mod error;
pub mod invoices;
pub mod plans;
pub mod quotas;
pub mod subscriptions;
pub mod usage;

use tenon_chassis::{
    Mesh,
    server::{Server, StartError, open_db},
};
use tenon_proto::billing::v1::{
    invoice_service_server::{InvoiceServiceServer, SERVICE_NAME as INVOICES},
    plan_service_server::{PlanServiceServer, SERVICE_NAME as PLANS},
    subscription_service_server::{SERVICE_NAME as SUBSCRIPTIONS, SubscriptionServiceServer},
    usage_service_server::{SERVICE_NAME as USAGE, UsageServiceServer},
};
use tonic::service::Routes;

pub use config::Config;

/// The part's name: its role, its schema, its `aud`.
pub const NAME: &str = "billing";

/// Opens the service's port and database; it serves when `Server::serve` is called.
///
/// # Errors
/// When the database is not configured or the port is taken.
pub async fn bind(mesh: &Mesh, config: &Config) -> Result<Server, StartError> {
    let db = open_db(mesh, NAME, &config.billing_db_password, |_| vec![usage::consumer(mesh.clock.clone())])?;
    let routes = Routes::new(PlanServiceServer::new(plans::Plans::new(db.clone())))
        .add_service(SubscriptionServiceServer::new(subscriptions::Subscriptions::new(db.clone())))
        .add_service(UsageServiceServer::new(usage::Usage::new(db.clone())))
        .add_service(InvoiceServiceServer::new(invoices::Invoices::new(db.clone())));
    mesh.tasks.spawn(quotas::keeper::run(db, mesh.stop.clone()));
    Ok(Server::bind(mesh, NAME, routes, vec![PLANS, SUBSCRIPTIONS, USAGE, INVOICES]).await?)
}
