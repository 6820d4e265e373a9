//! Delivers to endpoints. An attempt is counted before it is made and its answer kept after it: a crash in between makes it
//! again once its lease is over, under the same webhook-id.

use std::{sync::Arc, time::Duration};

use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::json;
use tenon_chassis::{Db, EventId, Mesh, TenantId, bus, fail, telemetry};
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tracing::Instrument;

use super::{
    model::{self, Attempt, Endpoint, Progress},
    store::{self, Due},
};
use crate::{error::Error, hooks::signature, tasks::Egress};

/// Requests in flight at most, and of one endpoint.
const AT_ONCE: i64 = 64;
const EACH: i64 = 8;
/// How long an endpoint may take to answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long an attempt is this process's.
const LEASE_S: i32 = 60;
/// How often is looked when nothing is due.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(500);
/// Characters of an answer that the log keeps.
const SAID_MAX: usize = 300;
/// How often old deliveries are forgotten, and how many at once.
const CHORES_EVERY: Duration = Duration::from_secs(600);
const FORGOTTEN_AT_ONCE: i64 = 5_000;
/// The meter of deliveries that were taken.
const METER: &str = "webhook_deliveries";

#[derive(Clone)]
struct Deliverer {
    mesh: Mesh,
    db: Db,
    egress: Arc<Egress>,
}

pub(super) async fn run(mesh: Mesh, db: Db, egress: Arc<Egress>, changed: Arc<Notify>) {
    let stop = mesh.stop.clone();
    let deliverer = Deliverer { mesh, db, egress };
    let mut chores = Instant::now();
    while !stop.is_cancelled() {
        if Instant::now() >= chores {
            chores = Instant::now() + CHORES_EVERY;
            deliverer.chores().instrument(telemetry::quiet()).await;
        }
        let pause = match stop.run_until_cancelled(deliverer.round().instrument(telemetry::quiet())).await {
            Some(Ok(pause)) => pause,
            Some(Err(error)) => {
                tracing::warn!(error = ?error, "deliveries were not looked at; they are tried again");
                AGAIN
            }
            None => return,
        };
        let woken = async { drop(tokio::time::timeout(pause, changed.notified()).await) };
        let _ = stop.run_until_cancelled(woken).await;
    }
}

impl Deliverer {
    /// Tries what is due, and says how long there is nothing to do.
    async fn round(&self) -> Result<Duration, Error> {
        let mut tx = self.db.system().await?;
        let due = store::claim(&mut tx, AT_ONCE, EACH, LEASE_S).await?;
        let next = if due.is_empty() { store::get_next(&mut tx).await? } else { None };
        if !due.is_empty() {
            fail::at("delivery.claim.before").await?;
        }
        tx.commit().await?;
        if due.is_empty() {
            let until = next.map_or(LOOK_EVERY, |next| (next - self.db.clock().now()).to_std().unwrap_or_default());
            return Ok(until.clamp(AGAIN, LOOK_EVERY));
        }
        let mut attempts = JoinSet::new();
        for due in due {
            let deliverer = self.clone();
            attempts.spawn(async move {
                if let Err(error) = deliverer.try_and_keep(&due).await {
                    tracing::warn!(error = ?error, "what became of a delivery was not kept; it is made again");
                }
            });
        }
        while attempts.join_next().await.is_some() {}
        Ok(Duration::ZERO)
    }

    async fn try_and_keep(&self, due: &Due) -> Result<(), Error> {
        fail::at("delivery.call.before").await?;
        let attempt = self.attempt(due).await;
        fail::at("delivery.call.after").await?;
        self.keep(due, attempt).await?;
        Ok(fail::at("delivery.commit.after").await?)
    }

    async fn attempt(&self, due: &Due) -> Attempt {
        let (started, at) = (Instant::now(), self.db.clock().now());
        let answer = match tokio::time::timeout(TIMEOUT, self.send(due)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        };
        let (status, error) = answer.unwrap_or_else(|why| (0, why));
        let duration_ms = u32::try_from(started.elapsed().as_millis()).unwrap_or(u32::MAX);
        let error: String = error.chars().filter(|c| *c != '\0').take(SAID_MAX).collect();
        Attempt { at, status, error, duration_ms }
    }

    /// The status, and what a refusal said.
    async fn send(&self, due: &Due) -> Result<(u16, String), String> {
        let tenant = TenantId::from(due.tenant_id);
        let id = EventId::from(due.event_id).to_string();
        let now = self.db.clock().now();
        let previous = due.previous_secret.as_ref().filter(|_| due.previous_until.is_some_and(|until| now < until));
        let purpose = Endpoint::purpose(tenant, &due.endpoint_id);
        let mut signatures = Vec::new();
        for sealed in [Some(&due.secret), previous].into_iter().flatten() {
            let secret = self.mesh.sealer.open(&purpose, sealed).map_err(|why| why.to_string())?;
            let secret = String::from_utf8_lossy(&secret);
            signatures.push(signature::sign(&secret, &id, now.timestamp(), due.payload.as_bytes()));
        }
        let url = self.egress.url(&due.url).map_err(|failure| failure.cause)?;
        let request = self.egress.request(Method::POST, url).header(CONTENT_TYPE, "application/json");
        let request = request.header("webhook-id", &id).header("webhook-timestamp", now.timestamp());
        let request = request.header("webhook-signature", signatures.join(" ")).body(due.payload.clone());
        let request = request.build().map_err(|_| "the request is not one".to_owned())?;
        let mut response = self.egress.send(request).await.map_err(|failure| failure.cause)?;
        let status = response.status();
        if status.is_success() {
            return Ok((status.as_u16(), String::new()));
        }
        let said = response.chunk().await.ok().flatten().unwrap_or_default();
        Ok((status.as_u16(), String::from_utf8_lossy(&said).into_owned()))
    }

    async fn keep(&self, due: &Due, attempt: Attempt) -> Result<(), Error> {
        let verdict = model::judge(&attempt, due.attempts, due.failing_since, rand::random());
        let log = serde_json::from_value(due.log.clone()).unwrap_or_default();
        let mut tx = self.db.system().await?;
        let switched_off = store::update_attempt(&mut tx, due, &verdict, &model::logged(log, attempt)).await?;
        let mut events = Vec::new();
        let mut tell = |about: (&str, String), data| {
            events.push(bus::Event::new(self.db.clock(), crate::NAME, due.tenant_id.into(), about, data));
        };
        if verdict.state == Progress::Delivered {
            tell((bus::USAGE_RECORDED, METER.to_owned()), json!({ "meter": METER, "quantity": 1 }));
        }
        if switched_off {
            let name = format!("endpoints/{}", due.endpoint_id);
            tell((model::SWITCHED_OFF, name.clone()), json!({ "endpoint": name }));
        }
        tx.emit(&events).await?;
        Ok(tx.commit().await?)
    }

    async fn chores(&self) {
        let forgotten = async {
            let mut tx = self.db.system().await?;
            store::delete_old(&mut tx, FORGOTTEN_AT_ONCE).await?;
            Ok::<_, Error>(tx.commit().await?)
        };
        if let Err(error) = forgotten.await {
            tracing::warn!(error = ?error, "old deliveries were not forgotten; it is tried again");
        }
    }
}
