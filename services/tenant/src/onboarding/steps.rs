//! What each step of a sign-up does: a call or a change, and the mark that it is done.

use serde_json::json;
use tenon_chassis::{Caller, Fault, TenantId, TenantTx, client::Peer};
use tenon_proto::{
    auth::v1::{ProvisionAdminRequest, user_service_client::UserServiceClient},
    billing::v1::{ProvisionSubscriptionRequest, subscription_service_client::SubscriptionServiceClient},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    Onboarding,
    model::{Admin, Entitlements, Standing, Step, purpose},
    store,
};
use crate::{error::Error, tenants::store as tenants};

/// What every sign-up starts on.
const FIRST_PLAN: &str = "free";

impl Onboarding {
    fn auth(&self, tenant: TenantId) -> UserServiceClient<Peer> {
        UserServiceClient::new(self.auth.clone().acting_for(tenant, &[]))
    }

    fn billing(&self, tenant: TenantId) -> SubscriptionServiceClient<Peer> {
        SubscriptionServiceClient::new(self.billing.clone().acting_for(tenant, &[]))
    }

    pub(super) async fn make_admin(&self, caller: &Caller, tenant: TenantId, at: &Standing) -> Result<(), Error> {
        let sealed = at.sealed_admin.as_deref().ok_or(Error::Corrupt("sealed sign-up"))?;
        let admin = Admin::from_bytes(&self.sealer.open(&purpose(tenant), sealed)?)?;
        let request = ProvisionAdminRequest { email: admin.email, password: admin.password };
        let user = match self.auth(tenant).provision_admin(request).await {
            Ok(user) => user.into_inner(),
            Err(status) if status.code() == Code::InvalidArgument => {
                // Refused for good: nothing is left of the sign-up, and its slug is free again.
                let mut tx = self.db.begin(caller).await?;
                tenants::delete(&mut tx).await?;
                tx.commit().await?;
                return Err(refused(&status));
            }
            Err(status) => return Err(Error::Step(Box::new(status))),
        };
        let mut tx = self.db.begin(caller).await?;
        store::update_admin(&mut tx, &user.name).await?;
        Ok(tx.commit().await?)
    }

    pub(super) async fn make_subscription(&self, caller: &Caller, tenant: TenantId) -> Result<(), Error> {
        let request = ProvisionSubscriptionRequest { plan: format!("plans/{FIRST_PLAN}") };
        let made = self.billing(tenant).provision_subscription(request).await;
        let made = made.map_err(|status| Error::Step(Box::new(status)))?.into_inner();
        let name = made.subscription.map(|subscription| subscription.name).unwrap_or_default();
        let limits = made.limits.into_iter().collect();
        let entitlements = Entitlements { plan: FIRST_PLAN.to_owned(), features: made.features, limits };
        let mut tx = self.db.begin(caller).await?;
        store::update_subscription(&mut tx, &name, &entitlements).await?;
        Ok(tx.commit().await?)
    }

    pub(super) async fn activate(&self, mut tx: TenantTx, at: &Standing) -> Result<(), Error> {
        let Entitlements { plan, features, limits } = &at.entitlements;
        let tenant = tenants::update_active(&mut tx, plan, features, limits).await?;
        store::update_step(&mut tx, Step::Done).await?;
        let data = json!({ "slug": tenant.slug, "region": tenant.region, "plan": plan, "admin": at.admin_user });
        tx.emit("tenon.tenant.tenant.onboarded.v1", format!("tenants/{}", tenant.id), data);
        Ok(tx.commit().await?)
    }
}

/// Names the field as the sign-up's request has it.
fn refused(status: &Status) -> Error {
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    let Some(first) = violations.first() else { return Error::Step(Box::new(status.clone())) };
    Error::Invalid(Fault::invalid(format!("admin.{}", first.field), &first.description))
}
