//! Identity: who the users of a tenant are, how they sign in, the keys that their tokens are signed with, and the API keys
//! of programs.

pub mod config;
pub mod error;
pub mod keys;
pub mod password;
pub mod sessions;
pub mod users;

pub mod api_keys;

use std::sync::Arc;

use tenon_chassis::{
    Mesh,
    server::{Server, StartError, open_db},
};
use tenon_proto::auth::v1::{
    api_key_service_server::{ApiKeyServiceServer, SERVICE_NAME as API_KEYS},
    key_service_server::{KeyServiceServer, SERVICE_NAME as KEYS},
    session_service_server::{SERVICE_NAME as SESSIONS, SessionServiceServer},
    user_service_server::{SERVICE_NAME as USERS, UserServiceServer},
};
use tonic::service::Routes;

pub use config::Config;

/// The part's name: its role, its schema, its `aud`.
pub const NAME: &str = "auth";

/// Opens the service's port and database; it serves when `Server::serve` is called.
///
/// # Errors
/// When the database is not configured or the port is taken.
pub async fn bind(mesh: &Mesh, config: &Config) -> Result<Server, StartError> {
    let db = open_db(mesh, NAME, &config.auth_db_password, |_| Vec::new())?;
    let hasher = Arc::new(password::Hasher::new(config.hash_concurrency, config.hash_queue));
    let keys = keys::Keys::new(mesh, db.clone());
    let users = users::Users::new(db.clone(), hasher.clone(), keys.clone());
    let sessions = sessions::Sessions::new(mesh, db.clone(), hasher, keys.clone(), config);
    let api_keys = api_keys::ApiKeys::new(mesh, db, keys.clone(), config);
    mesh.tasks.spawn(api_keys.clone().follow(mesh.stop.clone()));
    let routes = Routes::new(KeyServiceServer::new(keys))
        .add_service(UserServiceServer::new(users))
        .add_service(SessionServiceServer::new(sessions))
        .add_service(ApiKeyServiceServer::new(api_keys));
    Ok(Server::bind(mesh, NAME, routes, vec![KEYS, USERS, SESSIONS, API_KEYS]).await?)
}
