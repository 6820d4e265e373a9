//! tenon.tenant.v1.TenantService

use tenon_chassis::{Caller, Fault, TenantId, clock::timestamp, paging::Page};
use tenon_proto::tenant::v1::{
    ActivateTenantRequest, DeleteTenantRequest, GetTenantRequest, ListTenantsRequest, ListTenantsResponse,
    OnboardTenantRequest, OnboardTenantResponse, RequirePaymentRequest, SuspendTenantRequest, Tenant as PbTenant,
    tenant::Status as PbStatus, tenant_service_server::TenantService,
};
use tonic::{Request, Response, Status as GrpcStatus};

use super::{
    Tenants,
    model::{Choice, Status, Tenant},
    store,
};
use crate::{error::Error, onboarding::model::Admin};

type Reply<T> = Result<Response<T>, GrpcStatus>;

#[tonic::async_trait]
impl TenantService for Tenants {
    async fn onboard_tenant(&self, request: Request<OnboardTenantRequest>) -> Reply<OnboardTenantResponse> {
        let caller = Caller::of(&request)?;
        let OnboardTenantRequest { tenant, admin } = request.into_inner();
        let tenant = tenant.ok_or_else(|| Fault::invalid("tenant", "must be given"))?;
        let admin = admin.ok_or_else(|| Fault::invalid("admin", "must be given"))?;
        let choice = Choice::parse(tenant.slug, &tenant.display_name, tenant.region, &self.regions)?;
        let admin = Admin { email: admin.email, password: admin.password };
        let done = self.onboarding.run(&caller, choice, admin).await?;
        Ok(Response::new(OnboardTenantResponse {
            tenant: Some(done.tenant.into()),
            admin: done.admin_user,
            subscription: done.subscription,
        }))
    }

    async fn get_tenant(&self, request: Request<GetTenantRequest>) -> Reply<PbTenant> {
        let caller = Caller::of(&request)?;
        let caller = caller.acting_for(parse_name(&request.get_ref().name)?)?;
        let mut tx = self.db.begin(&caller).await?;
        let tenant = store::get(&mut tx).await?.ok_or(Error::TenantNotFound)?;
        Ok(tx.reply(tenant.into()).await?)
    }

    async fn list_tenants(&self, request: Request<ListTenantsRequest>) -> Reply<ListTenantsResponse> {
        let page = Page::parse(request.get_ref().page_size, &request.get_ref().page_token)?;
        let mut tx = self.db.system().await?;
        let rows = store::list(&mut tx, &page).await?;
        tx.commit().await?;
        let (rows, next_page_token) = page.cut(rows, |tenant| tenant.id.uuid());
        let tenants = rows.into_iter().map(PbTenant::from).collect();
        Ok(Response::new(ListTenantsResponse { tenants, next_page_token }))
    }

    async fn suspend_tenant(&self, request: Request<SuspendTenantRequest>) -> Reply<PbTenant> {
        let caller = Caller::of(&request)?;
        let SuspendTenantRequest { name, reason } = request.into_inner();
        if reason.chars().count() > 500 || reason.contains('\0') {
            return Err(Fault::invalid("reason", "must have at most 500 characters and no NUL").into());
        }
        let tenant = self.change(&caller, parse_name(&name)?, Status::Suspended, &reason).await?;
        Ok(Response::new(tenant.into()))
    }

    async fn require_payment(&self, request: Request<RequirePaymentRequest>) -> Reply<PbTenant> {
        let caller = Caller::of(&request)?;
        let id = parse_name(&request.get_ref().name)?;
        Ok(Response::new(self.change(&caller, id, Status::PendingPayment, "").await?.into()))
    }

    async fn activate_tenant(&self, request: Request<ActivateTenantRequest>) -> Reply<PbTenant> {
        let caller = Caller::of(&request)?;
        let id = parse_name(&request.get_ref().name)?;
        Ok(Response::new(self.change(&caller, id, Status::Active, "").await?.into()))
    }

    async fn delete_tenant(&self, request: Request<DeleteTenantRequest>) -> Reply<PbTenant> {
        let caller = Caller::of(&request)?;
        let id = parse_name(&request.get_ref().name)?;
        Ok(Response::new(self.change(&caller, id, Status::Deleted, "").await?.into()))
    }
}

fn parse_name(name: &str) -> Result<TenantId, Error> {
    name.strip_prefix("tenants/").and_then(|id| id.parse().ok()).ok_or(Error::TenantNotFound)
}

impl From<Status> for PbStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Provisioning => Self::Provisioning,
            Status::Active => Self::Active,
            Status::PendingPayment => Self::PendingPayment,
            Status::Suspended => Self::Suspended,
            Status::Deleted => Self::Deleted,
        }
    }
}

impl From<Tenant> for PbTenant {
    fn from(tenant: Tenant) -> Self {
        Self {
            name: format!("tenants/{}", tenant.id),
            display_name: tenant.display_name,
            slug: tenant.slug,
            region: tenant.region,
            status: PbStatus::from(tenant.status).into(),
            plan: if tenant.plan.is_empty() { String::new() } else { format!("plans/{}", tenant.plan) },
            create_time: Some(timestamp(tenant.created_at)),
        }
    }
}
