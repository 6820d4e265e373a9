//! What an engine does beside moving runs on: lets the runs of tenants go on that are in good standing again or have
//! something left again, and deletes what is past its time.

mod store;

use std::time::Duration;

use tenon_chassis::{TenantId, directory::Status, fail};
use tokio::time::Instant;

use super::Engine;
use crate::{error::Error, quotas};

/// How often what is past its time is looked for.
const PURGE_EVERY: Duration = Duration::from_secs(60);
/// Runs that are deleted in one transaction at most.
const PURGE: i64 = 500;
/// Weeks of history whose partitions are made ahead.
const WEEKS_AHEAD: i32 = 4;

impl Engine {
    /// Does what is due of it; true when there are runs to look at.
    pub(super) async fn tend(&mut self) -> bool {
        if self.owned.is_empty() {
            return false;
        }
        let released = self.release_parked().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "runs of tenants in good standing were not let go on; they are tried again");
            false
        });
        if Instant::now() >= self.purge_at {
            self.purge_at = Instant::now() + PURGE_EVERY;
            match self.purge().await {
                // There is more.
                Ok(true) => self.purge_at = Instant::now(),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "runs past their time were not deleted; they are tried again"),
            }
        }
        released
    }

    /// Whether a tenant's runs may take steps. When nobody knows, they may: their calls ask again.
    pub(super) async fn may_work(&self, tenant: TenantId) -> bool {
        match self.directory.by_id(tenant).await {
            Ok(tenant) => !matches!(tenant.status, Status::Suspended | Status::PendingPayment),
            Err(_) => true,
        }
    }

    async fn release_parked(&self) -> Result<bool, Error> {
        let mut tx = self.db.system().await?;
        let owned: Vec<i16> = self.owned.keys().copied().collect();
        let parked = store::list_parked(&mut tx, &owned).await?;
        let mut released = false;
        for (tenant, by) in parked {
            let is_over = match by.strip_prefix(quotas::HELD) {
                Some(meter) => self.waker.quotas.used_up(tenant, meter).is_none(),
                None => self.may_work(tenant).await,
            };
            if is_over {
                store::release_parked(&mut tx, (tenant, &by), &owned).await?;
                released = true;
            }
        }
        tx.commit().await?;
        Ok(released)
    }

    async fn purge(&self) -> Result<bool, Error> {
        let mut tx = self.db.system().await?;
        let owned: Vec<i16> = self.owned.keys().copied().collect();
        let purged = store::delete_runs(&mut tx, &owned, self.time.now(), PURGE).await?;
        let keys = store::delete_keys(&mut tx, PURGE).await?;
        store::keep_history(&mut tx, WEEKS_AHEAD).await?;
        fail::at("purge.commit.before").await?;
        tx.commit().await?;
        fail::at("purge.commit.after").await?;
        if purged > 0 {
            tracing::info!(runs = purged, "runs past their retention deleted");
        }
        let full = u64::try_from(PURGE).unwrap_or(u64::MAX);
        Ok(purged >= full || keys >= full)
    }
}
