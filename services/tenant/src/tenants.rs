//! The registry of tenants.

pub mod model;
mod rpc;
pub(crate) mod store;

use tenon_chassis::{Caller, Db, TenantId};

use crate::{error::Error, onboarding::Onboarding};
use model::{Status, Tenant};

/// Brings tenants into being and moves them through their life.
pub struct Tenants {
    db: Db,
    onboarding: Onboarding,
    regions: Vec<String>,
}

impl Tenants {
    #[must_use]
    pub fn new(db: Db, onboarding: Onboarding, regions: Vec<String>) -> Self {
        Self { db, onboarding, regions }
    }

    /// Moves a tenant to another status; the change, its event and its push commit together.
    async fn change(&self, caller: &Caller, id: TenantId, to: Status, reason: &str) -> Result<Tenant, Error> {
        let mut tx = self.db.begin(&caller.acting_for(id)?).await?;
        let tenant = store::get(&mut tx).await?.ok_or(Error::TenantNotFound)?;
        if tenant.status == to {
            return Ok(tenant);
        }
        if !tenant.status.may_become(to) {
            return Err(Error::WrongStatus(tenant.status));
        }
        let tenant = store::update_status(&mut tx, to).await?;
        let kind = format!("tenon.tenant.tenant.{}.v1", to.as_str());
        tx.emit(&kind, format!("tenants/{id}"), serde_json::json!({ "reason": reason }));
        tx.commit().await?;
        Ok(tenant)
    }
}
