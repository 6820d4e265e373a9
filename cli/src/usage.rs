//! Brings what the edge has counted for services of others to billing: in batches, each event once however often it is
//! sent.

use std::{collections::BTreeMap, time::Duration};

use tenon_chassis::{Mesh, TenantId, clock::timestamp};
use tenon_gateway::usage::{Used, dropped};
use tenon_proto::billing::v1::{IngestUsageRequest, UsageEvent, usage_service_client::UsageServiceClient};
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, timeout_at},
};
use tonic::{Code, Status};

const EVERY: Duration = Duration::from_secs(1);
/// Events of one call, as billing takes them.
const BATCH: usize = 1_000;
/// Events that are kept while billing cannot be reached.
const KEPT: usize = 262_144;
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// What the edge may do in a tenant's name: billing asks for billing.usage.ingest.
const ROLE: &str = "admin";

/// Ships until the edge is gone, and then what is left.
pub(crate) async fn ship(mesh: Mesh, mut taken: Receiver<Used>) {
    let mut kept: BTreeMap<TenantId, Vec<Used>> = BTreeMap::new();
    loop {
        let is_over = gather(&mut taken, &mut kept).await;
        send_all(&mesh, &mut kept).await;
        if is_over {
            let left: usize = kept.values().map(Vec::len).sum();
            if left > 0 {
                dropped(left, "billing_away_at_the_end");
            }
            return;
        }
    }
}

/// Takes what comes within a second; whether that was the last.
async fn gather(taken: &mut Receiver<Used>, kept: &mut BTreeMap<TenantId, Vec<Used>>) -> bool {
    let until = Instant::now() + EVERY;
    let mut count: usize = kept.values().map(Vec::len).sum();
    loop {
        match timeout_at(until, taken.recv()).await {
            Err(_) => return false,
            Ok(None) => return true,
            Ok(Some(_)) if count >= KEPT => dropped(1, "billing_away"),
            Ok(Some(used)) => {
                count += 1;
                kept.entry(used.tenant).or_default().push(used);
            }
        }
    }
}

/// Sends a batch after another; what billing cannot take just now stays.
async fn send_all(mesh: &Mesh, kept: &mut BTreeMap<TenantId, Vec<Used>>) {
    let tenants: Vec<_> = kept.keys().copied().collect();
    for tenant in tenants {
        while let Some(events) = kept.get_mut(&tenant).filter(|events| !events.is_empty()) {
            let count = events.len().min(BATCH);
            match send(mesh, tenant, &events[..count]).await {
                Ok(()) => drop(events.drain(..count)),
                Err(status) if is_passing(status.code()) => {
                    tracing::warn!(tenant.id = %tenant, error = status.message(), "billing takes no usage just now; it is kept");
                    return;
                }
                Err(status) => {
                    tracing::error!(tenant.id = %tenant, error = status.message(), "billing refuses usage");
                    events.drain(..count);
                    dropped(count, "refused");
                }
            }
        }
        kept.remove(&tenant);
    }
}

async fn send(mesh: &Mesh, tenant: TenantId, events: &[Used]) -> Result<(), Status> {
    let peer = mesh.peer("gateway", "billing").acting_for(tenant, &[ROLE.to_owned()]);
    let events = events.iter().map(|used| UsageEvent {
        id: used.id.clone(),
        meter: used.meter.clone(),
        quantity: 1,
        time: Some(timestamp(used.at)),
    });
    let mut request = tonic::Request::new(IngestUsageRequest { events: events.collect() });
    request.set_timeout(SEND_TIMEOUT);
    UsageServiceClient::new(peer).ingest_usage(request).await.map(drop)
}

fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted | Code::Aborted
    )
}
