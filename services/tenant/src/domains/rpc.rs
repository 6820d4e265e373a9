//! tenon.tenant.v1.DomainService

use serde_json::json;
use tenon_chassis::{Caller, clock::timestamp, paging::Page};
use tenon_proto::tenant::v1::{
    CreateDomainRequest, DeleteDomainRequest, Domain, GetDomainRequest, ListDomainsRequest, ListDomainsResponse,
    VerifyDomainRequest, domain::State, domain_service_server::DomainService,
};
use tonic::{Request, Response, Status};

use super::{
    Domains,
    model::{Claim, host_of, hostname},
    store,
};
use crate::{error::Error, tenants::store as tenants};

#[tonic::async_trait]
impl DomainService for Domains {
    async fn create_domain(&self, request: Request<CreateDomainRequest>) -> Result<Response<Domain>, Status> {
        let caller = Caller::of(&request)?;
        let hostname = hostname(&request.get_ref().hostname, &self.own)?;
        let mut tx = self.db.begin(&caller).await?;
        let claim = Claim::new(hostname, tx.clock().now());
        store::insert(&mut tx, &claim, self.most).await?;
        Ok(tx.reply(claim.into()).await?)
    }

    async fn get_domain(&self, request: Request<GetDomainRequest>) -> Result<Response<Domain>, Status> {
        let caller = Caller::of(&request)?;
        let hostname = parse_name(&request.get_ref().name)?;
        let mut tx = self.db.begin(&caller).await?;
        let claim = store::get(&mut tx, hostname).await?;
        Ok(tx.reply(claim.into()).await?)
    }

    async fn list_domains(
        &self,
        request: Request<ListDomainsRequest>,
    ) -> Result<Response<ListDomainsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let page = Page::<String>::parse(request.get_ref().page_size, &request.get_ref().page_token)?;
        let mut tx = self.db.begin(&caller).await?;
        let after = page.after.clone().unwrap_or_default();
        let rows = store::list(&mut tx, &after, page.fetch()).await?;
        let (rows, next_page_token) = page.cut(rows, |claim| claim.hostname.clone());
        let domains = rows.into_iter().map(Domain::from).collect();
        Ok(tx.reply(ListDomainsResponse { domains, next_page_token }).await?)
    }

    async fn verify_domain(&self, request: Request<VerifyDomainRequest>) -> Result<Response<Domain>, Status> {
        let caller = Caller::of(&request)?;
        let tenant = caller.tenant_id()?;
        let hostname = parse_name(&request.get_ref().name)?;
        let mut tx = self.db.begin(&caller).await?;
        let claim = store::get(&mut tx, hostname).await?;
        // Closed here: no connection is held while DNS is asked.
        tx.commit().await?;
        let texts = self.dns.texts(&claim.record()).await?;
        if !texts.contains(&claim.token) {
            return Err(Error::DomainNotProved { record: claim.record(), value: claim.token, seen: texts.len() }.into());
        }
        self.release(hostname, tenant, &texts).await?;

        let mut tx = self.db.begin(&caller).await?;
        let now = tx.clock().now();
        let is_new = claim.verified_at.is_none();
        let claim = store::update_verified(&mut tx, hostname, now).await?;
        if is_new {
            tenants::update_version(&mut tx).await?;
            tx.emit("tenon.tenant.domain.verified.v1", format!("domains/{hostname}"), json!({ "hostname": hostname }));
        }
        Ok(tx.reply(claim.into()).await?)
    }

    async fn delete_domain(&self, request: Request<DeleteDomainRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let hostname = parse_name(&request.get_ref().name)?;
        let mut tx = self.db.begin(&caller).await?;
        if store::delete(&mut tx, hostname).await? {
            tenants::update_version(&mut tx).await?;
        }
        tx.emit("tenon.tenant.domain.deleted.v1", format!("domains/{hostname}"), json!({ "hostname": hostname }));
        Ok(tx.reply(()).await?)
    }
}

fn parse_name(name: &str) -> Result<&str, Error> {
    host_of(name).ok_or(Error::DomainNotFound)
}

impl From<Claim> for Domain {
    fn from(claim: Claim) -> Self {
        let state = match (claim.verified_at, claim.failing_since) {
            (None, _) => State::Pending,
            (Some(_), None) => State::Verified,
            (Some(_), Some(_)) => State::Failing,
        };
        Self {
            name: format!("domains/{}", claim.hostname),
            state: state.into(),
            challenge_record: claim.record(),
            hostname: claim.hostname,
            challenge_value: claim.token,
            create_time: Some(timestamp(claim.created_at)),
            verify_time: claim.verified_at.map(timestamp),
            check_time: claim.checked_at.map(timestamp),
            fail_time: claim.failing_since.map(timestamp),
        }
    }
}
