//! crm.v1.ContactService, in memory: each tenant sees its own.
#![expect(clippy::print_stdout, reason = "an example shows what it gets")]

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use tonic::{Request, Response, Status};

use crate::identity::Identity;
use pb::{
    Contact, CreateContactRequest, DeleteContactRequest, DeleteContactResponse, GetContactRequest, ListContactsRequest,
    ListContactsResponse, contact_service_server::ContactService,
};

#[expect(unreachable_pub, reason = "generated code does not know where it stands")]
pub(crate) mod pb {
    tonic::include_proto!("crm.v1");
}

/// With the custom options, which generated code drops.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/crm.binpb"));

const MOST_LISTED: usize = 100;

/// The contacts of every tenant, by tenant and name.
pub(crate) struct Contacts {
    identity: Identity,
    kept: Mutex<HashMap<String, BTreeMap<String, Contact>>>,
}

impl Contacts {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, kept: Mutex::default() }
    }

    /// The tenant of a call, proved; and a line that shows the trace that it belongs to.
    async fn tenant<T>(&self, method: &str, request: &Request<T>) -> Result<String, Status> {
        let tenant = self.identity.tenant(request.metadata()).await?;
        let trace = request.metadata().get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or("none");
        println!("{method} tenant={tenant} traceparent={trace}");
        Ok(tenant)
    }

    fn of<R>(&self, tenant: String, act: impl FnOnce(&mut BTreeMap<String, Contact>) -> R) -> R {
        act(self.kept.lock().unwrap_or_else(PoisonError::into_inner).entry(tenant).or_default())
    }
}

fn not_found(name: &str) -> Status {
    Status::not_found(format!("there is no {name}"))
}

#[tonic::async_trait]
impl ContactService for Contacts {
    async fn create_contact(&self, request: Request<CreateContactRequest>) -> Result<Response<Contact>, Status> {
        let tenant = self.tenant("CreateContact", &request).await?;
        let mut contact = request.into_inner().contact.unwrap_or_default();
        if contact.display_name.is_empty() {
            return Err(Status::invalid_argument("contact.display_name must be set"));
        }
        contact.name = format!("contacts/{:016x}", rand::random::<u64>());
        self.of(tenant, |kept| kept.insert(contact.name.clone(), contact.clone()));
        Ok(Response::new(contact))
    }

    async fn get_contact(&self, request: Request<GetContactRequest>) -> Result<Response<Contact>, Status> {
        let tenant = self.tenant("GetContact", &request).await?;
        let name = request.into_inner().name;
        self.of(tenant, |kept| kept.get(&name).cloned()).map(Response::new).ok_or_else(|| not_found(&name))
    }

    async fn list_contacts(
        &self,
        request: Request<ListContactsRequest>,
    ) -> Result<Response<ListContactsResponse>, Status> {
        let tenant = self.tenant("ListContacts", &request).await?;
        let filter = request.into_inner().filter;
        let contacts = self.of(tenant, |kept| {
            let fitting = kept.values().filter(|contact| contact.display_name.contains(&filter));
            fitting.take(MOST_LISTED).cloned().collect()
        });
        Ok(Response::new(ListContactsResponse { contacts }))
    }

    async fn delete_contact(
        &self,
        request: Request<DeleteContactRequest>,
    ) -> Result<Response<DeleteContactResponse>, Status> {
        let tenant = self.tenant("DeleteContact", &request).await?;
        let name = request.into_inner().name;
        let gone = self.of(tenant, |kept| kept.remove(&name));
        gone.map(|_| Response::new(DeleteContactResponse {})).ok_or_else(|| not_found(&name))
    }
}
