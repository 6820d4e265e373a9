//! A unary call on its way out. Under an `Idempotency-Key`, to a service that keeps no answers itself, it is made once and
//! to its end: also when its client goes away, who will ask again.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header::HeaderName};
use tenon_chassis::{Fault, client::IDEMPOTENCY_KEY};
use tenon_proto::policy::Effect;
use tokio::time::Instant;
use tracing::Instrument;

use super::{
    Edge,
    forward::{Admitted, Ask, may_repeat},
};
use crate::{
    answers::Key,
    errors::Refusal,
    upstreams::{Answer, Served},
    usage::UseOf,
};

const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// A claim outlives the deadline of its call by this much.
const LEASE_MORE: Duration = Duration::from_secs(5);

/// A call of one message each way, but for the message.
pub(super) struct Sending<'e> {
    pub(super) edge: &'e Edge,
    pub(super) served: &'e Served,
    pub(super) out: HeaderMap,
    pub(super) deadline: Instant,
    /// What it is known by, and what it counts as.
    pub(super) key: Option<(Key, Option<UseOf>)>,
}

impl Edge {
    /// The key of a call whose answer the edge keeps. The mesh's own services keep theirs, in the transaction of the call.
    pub(super) fn key_of(&self, ask: &Ask<'_>, headers: &HeaderMap, admitted: &Admitted) -> Option<Key> {
        let Served { target, method, .. } = ask.served;
        let is_kept = target.dial.is_foreign && ask.streams() == (false, false) && method.effect != Effect::None;
        let key = headers.get(IDEMPOTENCY_KEY).filter(|_| is_kept)?;
        let tenant = admitted.host.as_ref().map(|host| host.id).or(admitted.caller.tenant_id);
        Some(Key::new(&admitted.caller, tenant, key))
    }
}

impl Sending<'_> {
    pub(super) async fn send(self, frame: Bytes) -> Result<Answer, Refusal> {
        let Self { edge, served, mut out, deadline, key } = self;
        let Some((key, use_of)) = key else {
            let again = may_repeat(&served.method, &out);
            return served.target.call(&served.path, out, frame, deadline, again).await;
        };
        // Whoever asks again may not read what this client does.
        out.remove(ACCEPT_ENCODING);
        let key = key.with(&frame);
        let lease = deadline.saturating_duration_since(Instant::now()) + LEASE_MORE;
        let (answers, target, path) = (edge.answers.clone(), served.target.clone(), served.path.clone());
        let call = async move {
            let claim = match answers.claim(key, lease).await? {
                Ok(claim) => claim,
                Err(answer) => return Ok(answer),
            };
            let outcome = target.call(&path, out, frame, deadline, true).await;
            if let (Ok(_), Some(use_of)) = (&outcome, use_of) {
                use_of.count(Some(deadline)).await;
            }
            claim.end(&outcome).await;
            outcome
        };
        // The threads that serve end with their connections.
        let ended = edge.mesh.tasks.spawn_on(call.in_current_span(), &edge.home).await;
        ended.unwrap_or_else(|lost| Err(Fault::internal(&lost).into()))
    }
}
