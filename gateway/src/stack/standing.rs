//! Who holds a stream open may lose the right to it: the tenant is suspended, the API key revoked. Both are pushed to the
//! edge, which ends such streams within a second.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures::{StreamExt, stream};
use tenon_chassis::{ApiKeyId, Caller, Fault, TenantId, caller::Principal, directory::Directory};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::line::Line;
use crate::api_keys::{ApiKeys, invalid};

/// How often open streams are looked at: what was pushed is known by then.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A tenant that is not known in memory is asked for no longer than this; it is looked at again the next time.
const LOOK_UP: Duration = Duration::from_millis(250);
const LOOK_UPS_AT_ONCE: usize = 16;

/// The streams that are open in somebody's name.
#[derive(Default)]
pub(super) struct Standing(Mutex<Vec<Held>>);

struct Held {
    tenant: TenantId,
    key: Option<ApiKeyId>,
    allow_unpaid: bool,
    line: Weak<Line>,
}

impl Standing {
    /// Looks after a stream for as long as it is open.
    pub(super) fn enter(&self, caller: &Caller, line: &Arc<Line>) {
        let Some(tenant) = caller.tenant_id else { return };
        let key = match caller.principal {
            Principal::Key { key } => Some(key),
            _ => None,
        };
        let held = Held { tenant, key, allow_unpaid: caller.method.allow_unpaid, line: Arc::downgrade(line) };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(held);
    }

    /// Ends streams whose holders have lost their right, until stopped.
    pub(super) async fn watch(self: Arc<Self>, directory: Arc<Directory>, keys: Arc<ApiKeys>, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(LOOK_EVERY)).await.is_some() {
            let mut open = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            open.retain(|held| held.line.strong_count() > 0);
            if !open.is_empty() {
                stop.run_until_cancelled(look(&mut open, &directory, &keys)).await;
            }
            self.0.lock().unwrap_or_else(PoisonError::into_inner).append(&mut open);
        }
    }
}

/// Ends what may not go on, and keeps the rest.
async fn look(open: &mut Vec<Held>, directory: &Directory, keys: &ApiKeys) {
    let tenants: BTreeSet<TenantId> = open.iter().map(|held| held.tenant).collect();
    let known =
        stream::iter(tenants).map(|id| async move { Some((id, timeout(LOOK_UP, directory.by_id(id)).await.ok()?)) });
    let known: HashMap<_, _> = known.buffer_unordered(LOOK_UPS_AT_ONCE).filter_map(std::future::ready).collect().await;
    open.retain(|held| {
        let lost = match known.get(&held.tenant) {
            Some(Ok(tenant)) => tenant.admit(held.allow_unpaid).err(),
            // Nobody can tell just now: no reason to cut anybody.
            Some(Err(fault)) => Some(Fault::clone(fault)).filter(|fault| fault.code != Code::Unavailable),
            None => None,
        };
        let lost = lost.or_else(|| held.key.filter(|key| keys.is_revoked(*key)).map(|_| invalid()));
        match (lost, held.line.upgrade()) {
            (Some(fault), Some(line)) => {
                line.fail(fault.into());
                false
            }
            (_, line) => line.is_some(),
        }
    });
}
