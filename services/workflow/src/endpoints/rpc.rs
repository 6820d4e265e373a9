//! EndpointService.

use chrono::TimeDelta;
use tenon_chassis::{Caller, EventId, Fault, TenantId, bus, clock::timestamp, paging::Page};
use tenon_proto::workflow::v1::{
    CreateEndpointRequest, DeleteEndpointRequest, DeleteEndpointResponse, Delivery, Endpoint, GetEndpointRequest,
    ListDeliveriesRequest, ListDeliveriesResponse, ListEndpointsRequest, ListEndpointsResponse, RedeliverRequest,
    RotateEndpointSecretRequest, TestEndpointRequest, UpdateEndpointRequest,
    delivery::{Attempt, State as ProgressPb},
    endpoint::State as StatePb,
    endpoint_service_server::EndpointService,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    Endpoints,
    model::{self, DeliveryId, Progress, State},
    store,
};
use crate::{
    error::Error,
    hooks::{self, rpc::seconds, signature::Scheme},
    workflows,
};

#[tonic::async_trait]
impl EndpointService for Endpoints {
    async fn create_endpoint(&self, request: Request<CreateEndpointRequest>) -> Result<Response<Endpoint>, Status> {
        let caller = Caller::of(&request)?;
        let tenant = caller.tenant_id()?;
        let request = request.into_inner();
        let endpoint_id = workflows::model::named("endpoint_id", &request.endpoint_id)?.to_owned();
        self.check(&request.url, &request.event_types, &request.description)?;
        let secret = secret_of(request.secret)?;
        let endpoint = model::Endpoint {
            secret: self.seal(tenant, &endpoint_id, &secret),
            endpoint_id,
            url: request.url,
            event_types: request.event_types,
            description: request.description,
            previous_secret: None,
            previous_until: None,
            state: State::Enabled,
            failing_since: None,
            created_at: self.db.clock().now(),
        };

        let mut tx = self.db.begin(&caller).await?;
        let endpoint = store::insert(&mut tx, &endpoint).await?.ok_or(Error::EndpointLimit)?;
        Ok(shown_once(secret, tx.reply(endpoint.into()).await?))
    }

    async fn get_endpoint(&self, request: Request<GetEndpointRequest>) -> Result<Response<Endpoint>, Status> {
        let caller = Caller::of(&request)?;
        let id = id_of(&request.get_ref().name)?.to_owned();

        let mut tx = self.db.begin(&caller).await?;
        let endpoint = store::get(&mut tx, &id).await?.ok_or(Error::EndpointNotFound)?;
        Ok(tx.reply(endpoint.into()).await?)
    }

    async fn list_endpoints(
        &self,
        request: Request<ListEndpointsRequest>,
    ) -> Result<Response<ListEndpointsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let page = Page::<String>::parse(request.page_size, &request.page_token)?;

        let mut tx = self.db.begin(&caller).await?;
        let after = page.after.clone().unwrap_or_default();
        let rows = store::list(&mut tx, &after, page.fetch()).await?;
        let (rows, next_page_token) = page.cut(rows, |row| row.endpoint_id.clone());
        let endpoints = rows.into_iter().map(Into::into).collect();
        Ok(tx.reply(ListEndpointsResponse { endpoints, next_page_token }).await?)
    }

    async fn update_endpoint(&self, request: Request<UpdateEndpointRequest>) -> Result<Response<Endpoint>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let id = id_of(&request.name)?;

        let mut tx = self.db.begin(&caller).await?;
        let mut endpoint = store::get(&mut tx, id).await?.ok_or(Error::EndpointNotFound)?;
        endpoint.url = request.url.unwrap_or(endpoint.url);
        endpoint.description = request.description.unwrap_or(endpoint.description);
        if !request.event_types.is_empty() {
            endpoint.event_types = request.event_types;
        }
        self.check(&endpoint.url, &endpoint.event_types, &endpoint.description)?;
        match request.enabled {
            Some(true) => (endpoint.state, endpoint.failing_since) = (State::Enabled, None),
            Some(false) => endpoint.state = State::Disabled,
            None => {}
        }
        store::update(&mut tx, &endpoint).await?;
        let response = tx.reply(endpoint.into()).await?;
        self.changed.notify_one();
        Ok(response)
    }

    async fn rotate_endpoint_secret(
        &self,
        request: Request<RotateEndpointSecretRequest>,
    ) -> Result<Response<Endpoint>, Status> {
        let caller = Caller::of(&request)?;
        let tenant = caller.tenant_id()?;
        let request = request.into_inner();
        let id = id_of(&request.name)?;
        let secret = secret_of(request.secret)?;
        let longest = 0..=hooks::model::OVERLAP_MAX_S;
        let overlap = seconds("overlap", request.overlap, hooks::model::OVERLAP_S, longest)?;

        let mut tx = self.db.begin(&caller).await?;
        let mut endpoint = store::get(&mut tx, id).await?.ok_or(Error::EndpointNotFound)?;
        let new = self.seal(tenant, id, &secret);
        endpoint.previous_secret = Some(std::mem::replace(&mut endpoint.secret, new));
        endpoint.previous_until = Some(tx.clock().now() + TimeDelta::seconds(overlap));
        store::update(&mut tx, &endpoint).await?;
        Ok(shown_once(secret, tx.reply(endpoint.into()).await?))
    }

    async fn delete_endpoint(
        &self,
        request: Request<DeleteEndpointRequest>,
    ) -> Result<Response<DeleteEndpointResponse>, Status> {
        let caller = Caller::of(&request)?;
        let id = id_of(&request.get_ref().name)?.to_owned();

        let mut tx = self.db.begin(&caller).await?;
        if !store::delete(&mut tx, &id).await? {
            return Err(Error::EndpointNotFound.into());
        }
        Ok(tx.reply(DeleteEndpointResponse {}).await?)
    }

    async fn test_endpoint(&self, request: Request<TestEndpointRequest>) -> Result<Response<Delivery>, Status> {
        let caller = Caller::of(&request)?;
        let tenant = caller.tenant_id()?;
        let name = request.into_inner().name;
        let id = id_of(&name)?;

        let mut tx = self.db.begin(&caller).await?;
        store::get(&mut tx, id).await?.ok_or(Error::EndpointNotFound)?;
        let about = (model::TEST, name.clone());
        let event = bus::Event::new(tx.clock(), crate::NAME, tenant, about, serde_json::json!({ "endpoint": name }));
        let delivery = (DeliveryId::new(tx.clock()), id);
        let (event_id, payload) = (event.id.uuid(), model::payload(&event));
        let delivery = store::insert_delivery(&mut tx, delivery, (event_id, model::TEST, &payload)).await?;
        let response = tx.reply(delivery.into()).await?;
        self.changed.notify_one();
        Ok(response)
    }

    async fn list_deliveries(
        &self,
        request: Request<ListDeliveriesRequest>,
    ) -> Result<Response<ListDeliveriesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let id = id_of(&request.parent)?;
        let page = Page::<Uuid>::parse(request.page_size, &request.page_token)?;
        let unknown = || Fault::invalid("state", "is not a state of a delivery");
        let state = match ProgressPb::try_from(request.state).map_err(|_| unknown())? {
            ProgressPb::Unspecified => None,
            ProgressPb::Pending => Some(Progress::Pending),
            ProgressPb::Delivered => Some(Progress::Delivered),
            ProgressPb::Failed => Some(Progress::Failed),
        };

        let mut tx = self.db.begin(&caller).await?;
        store::get(&mut tx, id).await?.ok_or(Error::EndpointNotFound)?;
        let rows = store::list_deliveries(&mut tx, (id, state), page.after, page.fetch()).await?;
        let (rows, next_page_token) = page.cut(rows, |row| row.id.uuid());
        let deliveries = rows.into_iter().map(Into::into).collect();
        Ok(tx.reply(ListDeliveriesResponse { deliveries, next_page_token }).await?)
    }

    async fn redeliver(&self, request: Request<RedeliverRequest>) -> Result<Response<Delivery>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let (endpoint, delivery) = name.split_once("/deliveries/").ok_or(Error::DeliveryNotFound)?;
        let endpoint = id_of(endpoint).map_err(|_| Error::DeliveryNotFound)?;
        let delivery: DeliveryId = delivery.parse().map_err(|_| Error::DeliveryNotFound)?;

        let mut tx = self.db.begin(&caller).await?;
        let again = store::update_again(&mut tx, endpoint, delivery).await?.ok_or(Error::DeliveryNotFound)?;
        let response = tx.reply(again.into()).await?;
        self.changed.notify_one();
        Ok(response)
    }
}

impl Endpoints {
    fn check(&self, url: &str, event_types: &[String], description: &str) -> Result<(), Fault> {
        model::check(url, event_types, description)?;
        let read = self.egress.url(url).map_err(|failure| Fault::invalid("url", failure.cause))?;
        if !self.egress.may_carry_secrets(&read) {
            return Err(Fault::invalid("url", "must begin with https://"));
        }
        Ok(())
    }

    fn seal(&self, tenant: TenantId, endpoint_id: &str, secret: &str) -> Vec<u8> {
        self.mesh.sealer.seal(&model::Endpoint::purpose(tenant, endpoint_id), secret.as_bytes())
    }
}

/// The answer with the secret. What is kept to answer a repetition is without it: secrets are kept sealed only.
fn shown_once(secret: String, mut answer: Response<Endpoint>) -> Response<Endpoint> {
    answer.get_mut().secret = secret;
    answer
}

fn secret_of(given: String) -> Result<String, Fault> {
    let scheme = Scheme::StandardWebhooks;
    if given.is_empty() { Ok(hooks::model::new_secret(scheme)) } else { hooks::model::secret(scheme, given) }
}

/// The id in `endpoints/erp`; what cannot be one is not found, whatever it is.
fn id_of(name: &str) -> Result<&str, Error> {
    let id = name.strip_prefix("endpoints/").and_then(|id| workflows::model::named("name", id).ok());
    id.ok_or(Error::EndpointNotFound)
}

impl From<model::Endpoint> for Endpoint {
    fn from(row: model::Endpoint) -> Self {
        let state = match row.state {
            State::Enabled => StatePb::Enabled,
            State::Disabled => StatePb::Disabled,
            State::Failing => StatePb::Failing,
        };
        Self {
            name: format!("endpoints/{}", row.endpoint_id),
            url: row.url,
            event_types: row.event_types,
            description: row.description,
            secret: String::new(),
            state: state.into(),
            failing_since: row.failing_since.map(timestamp),
            create_time: Some(timestamp(row.created_at)),
        }
    }
}

impl From<model::Delivery> for Delivery {
    fn from(row: model::Delivery) -> Self {
        let attempt = |attempt: model::Attempt| Attempt {
            time: Some(timestamp(attempt.at)),
            status: attempt.status.into(),
            error: attempt.error,
            duration_ms: i32::try_from(attempt.duration_ms).unwrap_or(i32::MAX),
        };
        let state = match row.state {
            Progress::Pending => ProgressPb::Pending,
            Progress::Delivered => ProgressPb::Delivered,
            Progress::Failed => ProgressPb::Failed,
        };
        Self {
            name: format!("endpoints/{}/deliveries/{}", row.endpoint_id, row.id),
            event_id: EventId::from(row.event_id).to_string(),
            state: state.into(),
            attempts: row.attempts().into_iter().map(attempt).collect(),
            event_type: row.event_type,
            next_time: row.next_at.map(timestamp),
            create_time: Some(timestamp(row.created_at)),
        }
    }
}
