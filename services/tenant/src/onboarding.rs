//! Sign-up: four steps in three services, each persisted, resumed after a crash, undone when one is refused.

pub mod model;
mod steps;
mod store;

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};
use tenon_chassis::{Caller, Db, Mesh, TenantId, client::Peer, secret::Sealer, telemetry};
use tenon_proto::policy::Method;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    NAME,
    error::Error,
    tenants::{
        model::{Choice, Tenant},
        store as tenants,
    },
};
use model::{Admin, Step};

/// How often sign-ups that were left are looked for, and how long one must rest before it counts as left.
const RESUME_EVERY: Duration = Duration::from_secs(2);
const LEFT_AFTER: chrono::TimeDelta = chrono::TimeDelta::seconds(5);
/// Sign-ups that are resumed in one round.
const RESUME_BATCH: i64 = 20;

const ONBOARD: &str = "/tenon.tenant.v1.TenantService/OnboardTenant";

/// Runs sign-ups.
#[derive(Clone)]
pub struct Onboarding {
    db: Db,
    sealer: Sealer,
    auth: Peer,
    billing: Peer,
    method: Arc<Method>,
}

/// A sign-up that has ended well.
pub struct Done {
    pub tenant: Tenant,
    pub admin_user: String,
    pub subscription: String,
}

impl Onboarding {
    #[must_use]
    pub fn new(mesh: &Mesh, db: Db) -> Self {
        let (auth, billing) = (mesh.peer(NAME, "auth"), mesh.peer(NAME, "billing"));
        let method = mesh.contract.method(ONBOARD).expect("the embedded contract has it").clone();
        Self { db, sealer: mesh.sealer.clone(), auth, billing, method }
    }

    /// Signs a company up, or finds the sign-up that the idempotency key began and goes on with it.
    ///
    /// # Errors
    /// What the choice or a step is refused for; then nothing is left of it.
    pub async fn run(&self, caller: &Caller, choice: Choice, admin: Admin) -> Result<Done, Error> {
        let key = caller.idempotency.as_ref().map(|asked| asked.key.clone());
        let hash = caller.idempotency.as_ref().map(|asked| asked.request_hash.clone());
        // Without a key the hash is never compared: every sign-up is its own.
        let hash = hash.unwrap_or_else(|| Sha256::digest(&choice.slug).to_vec());
        if let Some(key) = &key
            && let Some((tenant, known)) = self.known(key).await?
        {
            return if known == hash { self.advance(&unbound(caller), tenant).await } else { Err(Error::KeyReused) };
        }
        let tenant = TenantId::new(self.db.clock());
        // A sign-up is for a tenant that is not there yet, whatever host it comes in on.
        let caller = Caller { idempotency: None, ..unbound(caller) }.acting_for(tenant)?;
        let sealed = self.sealer.seal(&model::purpose(tenant), &admin.to_bytes());
        let mut tx = self.db.begin(&caller).await?;
        tenants::insert(&mut tx, &choice).await?;
        match store::insert(&mut tx, key.as_deref(), &hash, &sealed).await {
            // The same request at the same time: it has committed, so it is known now.
            Err(error) if matches!(&error, Error::Db(db) if db.constraint() == Some("onboardings_key")) => {
                drop(tx);
                let (tenant, _) = self.known(&key.unwrap_or_default()).await?.ok_or(error)?;
                return self.advance(&unbound(&caller), tenant).await;
            }
            result => result?,
        }
        tx.commit().await?;
        self.advance(&caller, tenant).await
    }

    async fn known(&self, key: &str) -> Result<Option<(TenantId, Vec<u8>)>, Error> {
        let mut tx = self.db.system().await?;
        let known = store::get_by_key(&mut tx, key).await?;
        tx.commit().await?;
        Ok(known)
    }

    /// Does the steps that are left. Every step may be done twice: it is the same the second time.
    async fn advance(&self, caller: &Caller, tenant: TenantId) -> Result<Done, Error> {
        let caller = caller.acting_for(tenant)?;
        loop {
            let mut tx = self.db.begin(&caller).await?;
            let standing = store::get(&mut tx).await?.ok_or(Error::TenantNotFound)?;
            let result = match standing.step {
                Step::Admin => {
                    tx.commit().await?;
                    self.make_admin(&caller, tenant, &standing).await
                }
                Step::Subscription => {
                    tx.commit().await?;
                    self.make_subscription(&caller, tenant).await
                }
                Step::Activate => self.activate(tx, &standing).await,
                Step::Done => {
                    let tenant = tenants::get(&mut tx).await?.ok_or(Error::TenantNotFound)?;
                    tx.commit().await?;
                    let (admin_user, subscription) = (standing.admin_user, standing.subscription);
                    return Ok(Done { tenant, admin_user, subscription });
                }
            };
            result?;
        }
    }

    /// Goes on with sign-ups that a crash or an outage left between their steps, until stopped.
    pub async fn resume(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(RESUME_EVERY)).await.is_some() {
            if let Some(Err(error)) = stop.run_until_cancelled(self.resume_left().instrument(telemetry::quiet())).await
            {
                tracing::warn!(%error, "sign-ups could not be looked for");
            }
        }
    }

    async fn resume_left(&self) -> Result<(), Error> {
        let left_since = self.db.clock().now() - LEFT_AFTER;
        let mut tx = self.db.system().await?;
        let left = store::list_left(&mut tx, left_since, RESUME_BATCH).await?;
        tx.commit().await?;
        for (tenant, caller) in left.into_iter().map(|tenant| (tenant, self.resumer())) {
            match self.advance(&caller, tenant).await {
                Ok(_) => tracing::info!(tenant.id = %tenant, "sign-up was resumed and is done"),
                Err(error) => tracing::warn!(tenant.id = %tenant, %error, "sign-up is left for later"),
            }
        }
        Ok(())
    }

    /// The caller that resumed steps run as: nobody's request, so no key and no tenant of its own.
    fn resumer(&self) -> Caller {
        Caller::service(NAME, &self.method)
    }
}

fn unbound(caller: &Caller) -> Caller {
    Caller { tenant_id: None, ..caller.clone() }
}
