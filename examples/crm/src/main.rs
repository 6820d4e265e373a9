//! Contacts behind Tenon's edge: plain tonic, nothing of Tenon's but the options in the proto.
#![expect(clippy::print_stdout, reason = "it tells who runs it what it does")]

mod contacts;
mod identity;

use std::{env, error::Error, net::SocketAddr};

use tonic::transport::Server;

use contacts::{Contacts, pb::contact_service_server::ContactServiceServer};
use identity::Identity;

/// Who calls is said by the user's own token, which the edge passes on; its keys are at the edge.
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = env::var("CRM_ADDRESS").unwrap_or_else(|_| "127.0.0.1:9201".to_owned()).parse()?;
    let edge = env::var("TENON_EDGE_URL").unwrap_or_else(|_| "http://127.0.0.1:8080".to_owned());
    let is_alone = env::var("CRM_ONLY_THE_EDGE_REACHES_IT").is_ok_and(|said| said == "true");
    let contacts = Contacts::new(Identity::new(edge, is_alone));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(contacts::DESCRIPTORS)
        .build_v1()?;
    println!("crm listens on {address}");
    Server::builder()
        .add_service(reflection)
        .add_service(ContactServiceServer::new(contacts))
        .serve_with_shutdown(address, async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    Ok(())
}
