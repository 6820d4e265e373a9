//! Brings what the edge has counted for services of others to billing, each event once however often it is sent. Answers
//! wait for it: what came while one batch was on its way goes at once with the next.

use std::{collections::BTreeMap, future::ready, time::Duration};

use futures::{StreamExt, stream};
use tenon_chassis::{Mesh, TenantId, clock::timestamp};
use tenon_gateway::usage::{Used, dropped};
use tenon_proto::billing::v1::{IngestUsageRequest, UsageEvent, usage_service_client::UsageServiceClient};
use tokio::{
    sync::mpsc::{Receiver, error::TryRecvError},
    time::{Instant, timeout_at},
};
use tonic::{Code, Status};

/// When what billing did not take is sent again.
const AGAIN: Duration = Duration::from_secs(1);
/// Events of one call, as billing takes them.
const BATCH: usize = 1_000;
/// Tenants whose events are sent at one time.
const AT_ONCE: usize = 8;
/// Events that are kept while billing cannot be reached.
const KEPT: usize = 262_144;
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// What the edge may do in a tenant's name: billing asks for billing.usage.ingest.
const ROLE: &str = "admin";

type Kept = BTreeMap<TenantId, Vec<Used>>;

/// Ships until the edge is gone, and then what is left.
pub(crate) async fn ship(mesh: Mesh, mut taken: Receiver<Used>) {
    let mut kept = Kept::new();
    loop {
        let is_over = gather(&mut taken, &mut kept).await;
        kept = send_all(&mesh, kept).await;
        if is_over {
            let left: usize = kept.values().map(Vec::len).sum();
            if left > 0 {
                dropped(left, "billing_away_at_the_end");
            }
            return;
        }
    }
}

/// Takes what there is, or waits for the first; what comes within a second when billing did not take all. Whether that
/// was the last.
async fn gather(taken: &mut Receiver<Used>, kept: &mut Kept) -> bool {
    let until = (!kept.is_empty()).then(|| Instant::now() + AGAIN);
    let mut count: usize = kept.values().map(Vec::len).sum();
    loop {
        let next = match until {
            Some(until) => match timeout_at(until, taken.recv()).await {
                Ok(next) => next,
                Err(_) => return false,
            },
            None if count == 0 => taken.recv().await,
            None if count >= BATCH * AT_ONCE => return false,
            None => match taken.try_recv() {
                Ok(used) => Some(used),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => None,
            },
        };
        match next {
            None => return true,
            Some(_) if count >= KEPT => dropped(1, "billing_away"),
            Some(used) => {
                count += 1;
                kept.entry(used.tenant).or_default().push(used);
            }
        }
    }
}

/// Sends what there is; what billing cannot take just now is left.
async fn send_all(mesh: &Mesh, kept: Kept) -> Kept {
    let sent = kept.into_iter().map(|(tenant, events)| async move { (tenant, send_of(mesh, tenant, events).await) });
    stream::iter(sent).buffer_unordered(AT_ONCE).filter(|(_, left)| ready(!left.is_empty())).collect().await
}

/// Sends a tenant's events, a batch after another. One that is dropped lets its call be answered.
async fn send_of(mesh: &Mesh, tenant: TenantId, mut events: Vec<Used>) -> Vec<Used> {
    while !events.is_empty() {
        let count = events.len().min(BATCH);
        match send(mesh, tenant, &events[..count]).await {
            Ok(()) => drop(events.drain(..count)),
            Err(status) if is_passing(status.code()) => {
                tracing::warn!(tenant.id = %tenant, error = status.message(), "billing takes no usage just now; it is kept");
                break;
            }
            Err(status) => {
                tracing::error!(tenant.id = %tenant, error = status.message(), "billing refuses usage");
                events.drain(..count);
                dropped(count, "refused");
            }
        }
    }
    events
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
