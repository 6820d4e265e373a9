//! A tenant's signing keys: made once, published before they sign, sealed at rest.

pub mod model;
mod rpc;
mod store;

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use tenon_chassis::{Caller, Db, Mesh, TenantId, TenantTx, directory::Directory, secret::Sealer};

use crate::error::Error;
use model::{Signer, SigningKey, State};

/// How long a signer is used before its key is looked up again: a rotation is noticed within it.
const SIGNER_LIFE: Duration = Duration::from_secs(60);
/// Tenants whose signer is kept in memory.
const SIGNERS: u64 = 10_000;

/// Makes keys, publishes them and signs with the current one.
#[derive(Clone)]
pub struct Keys {
    db: Db,
    sealer: Sealer,
    directory: Arc<Directory>,
    signers: Cache<TenantId, Arc<Signer>>,
}

impl Keys {
    #[must_use]
    pub fn new(mesh: &Mesh, db: Db) -> Self {
        let signers = Cache::builder().max_capacity(SIGNERS).time_to_live(SIGNER_LIFE).build();
        Self { db, sealer: mesh.sealer.clone(), directory: mesh.directory.clone(), signers }
    }

    /// Makes a tenant's first keys, current and next, unless it has some.
    pub(crate) async fn provision(&self, tx: &mut TenantTx) -> Result<(), Error> {
        if !store::list(tx).await?.is_empty() {
            return Ok(());
        }
        for state in [State::Current, State::Next] {
            let key = SigningKey::generate(tx.tenant(), state, tx.clock(), &self.sealer)?;
            store::insert(tx, &key).await?;
        }
        Ok(())
    }

    /// What signs the tenant's tokens now.
    pub(crate) async fn signer(&self, caller: &Caller, tenant: TenantId) -> Result<Arc<Signer>, Error> {
        if let Some(signer) = self.signers.get(&tenant).await {
            return Ok(signer);
        }
        let mut tx = self.db.begin(&caller.acting_for(tenant)?).await?;
        let keys = store::list(&mut tx).await?;
        drop(tx);
        let current = keys.into_iter().find(|key| key.state == State::Current).ok_or(Error::TenantNotFound)?;
        let signer = Arc::new(current.signer(tenant, &self.sealer)?);
        self.signers.insert(tenant, signer.clone()).await;
        Ok(signer)
    }
}
