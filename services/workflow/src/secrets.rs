//! Secrets of tenants: sealed, named by tasks, and opened only to be sent to a host that they are for.

pub mod model;
mod rpc;
pub(crate) mod store;

use tenon_chassis::{Caller, Db, Mesh, TenantId, db, secret::Secret};

use crate::error::Error;

/// Keeps, lists and replaces secrets.
pub struct Secrets {
    db: Db,
    mesh: Mesh,
}

impl Secrets {
    #[must_use]
    pub fn new(db: Db, mesh: Mesh) -> Self {
        Self { db, mesh }
    }
}

/// Opens secrets for tasks; it has no other door.
pub(crate) struct Vault {
    db: Db,
    mesh: Mesh,
    caller: Caller,
}

/// An open secret, and where it may go.
pub(crate) struct Opened {
    pub(crate) value: Secret,
    pub(crate) hosts: Vec<String>,
}

impl Vault {
    pub(crate) fn new(db: Db, mesh: Mesh) -> Self {
        let method = mesh.contract.method("/tenon.workflow.v1.SecretService/ListSecrets");
        let caller = Caller::service(crate::NAME, method.expect("the service is in the contract"));
        Self { db, mesh, caller }
    }

    /// `None` when the tenant has no such secret, or it does not open under this master key.
    pub(crate) async fn open(&self, tenant: TenantId, name: &str) -> Result<Option<Opened>, Error> {
        let caller = self.caller.acting_for(tenant).map_err(db::Error::from)?;
        let mut tx = self.db.begin(&caller).await?;
        let row = store::get_sealed(&mut tx, name).await?;
        tx.commit().await?;
        let Some((sealed, hosts)) = row else { return Ok(None) };
        let Ok(plain) = self.mesh.sealer.open(&model::purpose(tenant, name), &sealed) else {
            tracing::error!(tenant.id = %tenant, secret.name = name, "a secret does not open under this master key");
            return Ok(None);
        };
        let value = Secret::new(String::from_utf8_lossy(&plain));
        Ok(Some(Opened { value, hosts }))
    }
}
