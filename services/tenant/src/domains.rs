//! Host names of tenants' own: claimed, proved by DNS, and looked at again day by day.

pub mod model;
mod rpc;
mod store;

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use serde_json::json;
use tenon_chassis::{Caller, Db, Mesh, TenantId, telemetry};
use tenon_proto::policy::Method;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{Config, NAME, dns::Dns, error::Error, tenants::store as tenants};
use model::Claim;

/// Domains that are looked at in one round.
const BATCH: i64 = 50;
const VERIFY: &str = "/tenon.tenant.v1.DomainService/VerifyDomain";

/// Keeps the domains of tenants.
#[derive(Clone)]
pub struct Domains {
    db: Db,
    dns: Arc<Dns>,
    /// The mesh's own: nobody claims a name below it.
    own: String,
    /// Domains of one tenant at most.
    most: i64,
    check_every: TimeDelta,
    grace: TimeDelta,
    method: Arc<Method>,
}

impl Domains {
    #[must_use]
    pub fn new(mesh: &Mesh, db: Db, config: &Config) -> Self {
        let method = mesh.contract.method(VERIFY).expect("the embedded contract has it").clone();
        Self {
            db,
            dns: Arc::new(Dns::new(&config.dns_servers)),
            own: mesh.config.domain.to_ascii_lowercase(),
            most: config.domains.into(),
            check_every: TimeDelta::seconds(config.domain_check_s.into()),
            grace: TimeDelta::seconds(config.domain_grace_s.into()),
            method,
        }
    }

    /// Takes a name from the tenant that has it, unless its record stands among `texts`, too.
    async fn release(&self, hostname: &str, to: TenantId, texts: &[String]) -> Result<(), Error> {
        let mut tx = self.db.system().await?;
        let holder = store::find_holder(&mut tx, hostname).await?;
        tx.commit().await?;
        match holder {
            Some((holder, _)) if holder == to => Ok(()),
            Some((_, token)) if texts.contains(&token) => Err(Error::DomainTaken),
            Some((holder, _)) => self.lose(holder, hostname).await,
            None => Ok(()),
        }
    }

    /// A name that is not proved any more is nobody's.
    async fn lose(&self, tenant: TenantId, hostname: &str) -> Result<(), Error> {
        let mut tx = self.db.begin(&self.acting_for(tenant)?).await?;
        if store::update_lost(&mut tx, hostname).await? {
            tenants::update_version(&mut tx).await?;
            tx.emit("tenon.tenant.domain.lost.v1", format!("domains/{hostname}"), json!({ "hostname": hostname }));
        }
        Ok(tx.commit().await?)
    }

    /// Nobody's request: the service's own work for a tenant.
    fn acting_for(&self, tenant: TenantId) -> Result<Caller, Error> {
        Ok(Caller::service(NAME, &self.method).acting_for(tenant)?)
    }

    /// Looks at the records of verified domains again and again, until stopped.
    pub async fn watch(self, stop: CancellationToken) {
        let round = self.check_every.to_std().unwrap_or_default() / 10;
        let round = round.clamp(Duration::from_millis(500), Duration::from_secs(60));
        while stop.run_until_cancelled(tokio::time::sleep(round)).await.is_some() {
            if let Some(Err(error)) = stop.run_until_cancelled(self.check_due().instrument(telemetry::quiet())).await {
                tracing::warn!(%error, "domains could not be looked at");
            }
        }
    }

    async fn check_due(&self) -> Result<(), Error> {
        let before = self.db.clock().now() - self.check_every;
        let mut tx = self.db.system().await?;
        let due = store::list_due(&mut tx, before, BATCH).await?;
        tx.commit().await?;
        for (tenant, claim) in due {
            // A server that cannot tell proves nothing: then the domain stays as it is until the next time.
            if let Err(error) = self.check(tenant, &claim).await {
                tracing::warn!(tenant.id = %tenant, domain = claim.hostname, %error, "a domain could not be looked at");
            }
        }
        Ok(())
    }

    async fn check(&self, tenant: TenantId, claim: &Claim) -> Result<(), Error> {
        let caller = self.acting_for(tenant)?;
        let mut tx = self.db.begin(&caller).await?;
        let now = tx.clock().now();
        // Of several processes one looks.
        let is_ours = store::claim_check(&mut tx, claim, now).await?;
        tx.commit().await?;
        if !is_ours {
            return Ok(());
        }
        let stands = self.dns.texts(&claim.record()).await?.contains(&claim.token);
        let failing_since = claim.failing_since.unwrap_or(now);
        if !stands && now - failing_since >= self.grace {
            tracing::info!(tenant.id = %tenant, domain = claim.hostname, "a domain is not proved any more");
            return self.lose(tenant, &claim.hostname).await;
        }
        let mut tx = self.db.begin(&caller).await?;
        store::update_failing(&mut tx, &claim.hostname, (!stands).then_some(failing_since)).await?;
        Ok(tx.commit().await?)
    }
}
