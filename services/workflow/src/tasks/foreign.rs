//! Services that are not the mesh's own: their contracts are asked of the edge, and calls go through it, so that it checks,
//! counts and balances them as any other.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use moka::future::Cache;
use serde_json::Value;
use tenon_chassis::{
    Mesh,
    client::{Peer, channel},
};
use tenon_proto::foreign::{self, Rules};
use tenon_proto::policy::Contract;
use tonic::{Code, Status};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::Access;
use crate::asl;

/// How long a contract is believed: the edge reads its upstreams again while it runs.
const KEPT: Duration = Duration::from_secs(30);
/// Contracts that are remembered, and those that one template may name.
const REMEMBERED: u64 = 1_000;
const NAMED_MAX: usize = 50;
/// How long the edge may take to tell of one.
const WITHIN: Duration = Duration::from_secs(5);

/// What the edge serves beside the mesh's own.
#[derive(Clone)]
pub struct Foreign(Option<Edge>);

#[derive(Clone)]
struct Edge {
    peer: Peer,
    /// By service; `None` is one that it does not have.
    known: Cache<String, Option<Arc<Contract>>>,
}

impl Foreign {
    /// # Panics
    /// When the address was not checked to be one.
    #[must_use]
    pub fn new(mesh: &Mesh, edge_url: Option<&str>) -> Self {
        let edge = edge_url.map(|url| Edge {
            peer: Peer::new(
                channel(url).expect("the address was read as one"),
                mesh.key.clone(),
                "workflow",
                "gateway",
            ),
            known: Cache::builder().max_capacity(REMEMBERED).time_to_live(KEPT).build(),
        });
        Self(edge)
    }

    /// A connection to the edge, where there is one.
    pub(super) fn peer(&self) -> Option<Peer> {
        self.0.as_ref().map(|edge| edge.peer.clone())
    }

    /// The contract of a service; `None` when the edge does not serve it.
    ///
    /// # Errors
    /// UNAVAILABLE while the edge cannot be asked.
    pub async fn contract(&self, service: &str) -> Result<Option<Arc<Contract>>, Status> {
        let Some(edge) = &self.0 else { return Ok(None) };
        let asked = edge.known.try_get_with(service.to_owned(), ask(edge.peer.clone(), service));
        asked.await.map_err(|status| (*status).clone())
    }

    /// The contract with those of the services that a definition calls.
    ///
    /// # Errors
    /// As `contract`.
    pub async fn with(&self, own: &Arc<Contract>, definition: &Value) -> Result<Arc<Contract>, Status> {
        let mut named = BTreeSet::new();
        if self.0.is_some() {
            services(definition, own, &mut named);
        }
        let mut found = Vec::new();
        for service in named.into_iter().take(NAMED_MAX) {
            found.extend(self.contract(&service).await?);
        }
        Ok(if found.is_empty() { own.clone() } else { Arc::new(own.with(found.iter().map(AsRef::as_ref))) })
    }
}

/// `package.Service` of `grpc:package.Service/Method`.
pub(super) fn service_of(resource: &str) -> Option<&str> {
    resource.strip_prefix("grpc:")?.split_once('/').map(|(service, _)| service).filter(|service| !service.is_empty())
}

/// The services that are no part of the mesh, wherever a Resource stands.
fn services(definition: &Value, own: &Contract, named: &mut BTreeSet<String>) {
    match definition {
        Value::Object(fields) => {
            let method = fields.get("Resource").and_then(Value::as_str).filter(|text| !asl::is_aws(text));
            let unknown =
                |text: &&str| text.strip_prefix("grpc:").is_some_and(|name| own.method(&format!("/{name}")).is_none());
            named.extend(method.filter(unknown).and_then(service_of).map(str::to_owned));
            fields.values().for_each(|value| services(value, own, named));
        }
        Value::Array(items) => items.iter().for_each(|item| services(item, own, named)),
        _ => {}
    }
}

/// Asks the edge by server reflection, which gives the files that a file imports too.
async fn ask(peer: Peer, service: &str) -> Result<Option<Arc<Contract>>, Status> {
    let away = |why: &str| Status::unavailable(format!("the edge cannot be asked for {service}: {why}"));
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(service.to_owned())),
    };
    let asked = async {
        let mut client = ServerReflectionClient::new(peer);
        let answers = client.server_reflection_info(tokio_stream::once(request)).await?;
        answers.into_inner().message().await
    };
    let answer = match tokio::time::timeout(WITHIN, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(status)) => return Err(away(status.message())),
        Err(_) => return Err(away("it takes too long")),
    };
    let files = match answer.and_then(|answer| answer.message_response) {
        Some(MessageResponse::FileDescriptorResponse(files)) => files.file_descriptor_proto,
        Some(MessageResponse::ErrorResponse(error)) if error.error_code == Code::NotFound as i32 => return Ok(None),
        _ => return Err(away("its answer is another one")),
    };
    let set = foreign::set_of(files.into_iter().map(Into::into).collect());
    // What the entry of the upstream says beside its protos the edge knows, and checks when it is called.
    let rules =
        Rules { default_access: Some(Access::Tenant), services: Some(vec![service.to_owned()]), ..Rules::default() };
    match foreign::load(&set, &rules) {
        Ok(contract) => Ok(Some(Arc::new(contract))),
        Err(why) => {
            tracing::warn!(service, why, "the edge serves a contract that cannot be read");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_the_meshs_own_is_found_wherever_it_stands() {
        let task = |resource: &str| json!({ "Type": "Task", "Resource": resource });
        let definition = json!({ "States": {
            "A": task("grpc:crm.v1.ContactService/Create"), "B": task("grpc:tenon.billing.v1.UsageService/GetUsage"),
            "C": { "Type": "Map", "ItemProcessor": { "States": { "D": task("grpc:shop.v1.Shop/Buy") } },
                   "Compensate": { "Resource": "grpc:crm.v1.Other/Undo" } },
            "E": task("grpc:nonsense"), "F": task("http:invoke")
        } });
        let mut named = BTreeSet::new();
        services(&definition, &Contract::embedded(), &mut named);
        assert_eq!(named.into_iter().collect::<Vec<_>>(), ["crm.v1.ContactService", "crm.v1.Other", "shop.v1.Shop"]);
    }
}
