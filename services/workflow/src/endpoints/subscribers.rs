//! What events lead to: deliveries to endpoints, and runs of workflows that wait for them.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tenon_chassis::{
    Caller, Db, Mesh, SystemTx, TenantTx,
    bus::{Consumer, Event, Handle, USAGE_RECORDED},
    db, fail,
};
use tokio::sync::Notify;
use uuid::Uuid;

use super::{
    model::{self, DeliveryId, asks_for},
    store::{self, Trigger},
};
use crate::{
    cel,
    error::Error,
    hooks,
    runs::{self, model::Depth},
    starts::{self, Start, Starts},
    tasks,
};

struct Subscribers {
    mesh: Mesh,
    db: Db,
    starts: Arc<Starts>,
    changed: Arc<Notify>,
    chain_max: u8,
}

pub(super) fn consumer((mesh, db): (Mesh, Db), starts: Arc<Starts>, changed: Arc<Notify>, chain_max: u8) -> Consumer {
    let handler = Arc::new(Subscribers { mesh, db, starts, changed, chain_max });
    Consumer { name: "workflow.subscribers", types: &[], handler }
}

impl Handle for Subscribers {
    /// Most events are nobody's: those are not even remembered.
    fn wanted<'a>(&'a self, tx: &'a mut SystemTx, events: Vec<Event>) -> BoxFuture<'a, Result<Vec<Event>, db::Error>> {
        Box::pin(async move {
            let tenants = tenants_of(&events);
            let mut wanted: BTreeSet<(Uuid, String)> = BTreeSet::new();
            for subscriber in store::list_subscribers(tx, &tenants).await? {
                wanted.extend(subscriber.event_types.into_iter().map(|kind| (subscriber.tenant_id, kind)));
            }
            let triggers = store::list_triggers(tx, &tenants).await?;
            wanted.extend(triggers.into_iter().map(|trigger| (trigger.tenant_id, trigger.source)));
            let wants = |event: &Event| {
                let of_tenant = wanted.iter().filter(|(tenant, _)| *tenant == event.tenant.uuid());
                is_told(event)
                    && of_tenant.into_iter().any(|(_, kind)| asks_for(std::slice::from_ref(kind), &event.kind))
            };
            Ok(events.into_iter().filter(wants).collect())
        })
    }

    fn handle<'a>(&'a self, tx: &'a mut SystemTx, events: &'a [Event]) -> BoxFuture<'a, Result<(), db::Error>> {
        Box::pin(async move {
            let tenants = tenants_of(events);
            let subscribers = store::list_subscribers(tx, &tenants).await?;
            let mut deliveries = Vec::new();
            for event in events {
                let of_tenant = subscribers.iter().filter(|subscriber| subscriber.tenant_id == event.tenant.uuid());
                for to in of_tenant.filter(|to| asks_for(&to.event_types, &event.kind)) {
                    let id = DeliveryId::new(self.db.clock()).uuid();
                    let (tenant, endpoint) = (to.tenant_id, to.endpoint_id.clone());
                    deliveries.push((tenant, id, endpoint, event.id.uuid(), event.kind.clone(), model::payload(event)));
                }
            }
            if !deliveries.is_empty() {
                store::insert_deliveries(tx, &deliveries).await?;
                self.changed.notify_one();
            }
            let triggers = store::list_triggers(tx, &tenants).await?;
            for event in events {
                let of_tenant = triggers.iter().filter(|trigger| trigger.tenant_id == event.tenant.uuid());
                for trigger in of_tenant.filter(|trigger| starts_by(trigger, event)) {
                    self.start(trigger, event).await?;
                }
            }
            Ok(())
        })
    }
}

impl Subscribers {
    /// Starts the run of a trigger once, in a transaction of the tenant. What the workflow refuses is told and left out.
    async fn start(&self, trigger: &Trigger, event: &Event) -> Result<(), db::Error> {
        let seen = json!({
            "id": event.id.to_string(), "type": event.kind, "source": event.source, "subject": event.subject,
            "time": event.time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true), "data": event.data,
        });
        let input = match mapped(trigger, &seen) {
            Ok(Some(input)) => input,
            Ok(None) => return Ok(()),
            Err(why) => {
                tracing::warn!(why, workflow.id = trigger.workflow_id, tenant.id = %event.tenant, "an event could not be mapped");
                return Ok(());
            }
        };
        let method = self.mesh.contract.method(starts::CREATE_RUN).expect("the contract has CreateRun");
        let caller = Caller::service(crate::NAME, method).acting_for(event.tenant)?;
        let mut tx = self.db.begin(&caller).await?;
        let by = format!("event/{}/{}", trigger.workflow_id, trigger.position);
        let started = async {
            if !hooks::store::insert_delivery(&mut tx, &by, &event.id.to_string()).await? {
                return Ok(());
            }
            let above = events_above(&mut tx, event).await?;
            if above >= self.chain_max {
                self.break_chain(&mut tx, trigger, event);
            } else {
                let Trigger { workflow_id, created_by, roles, .. } = trigger.clone();
                let (trigger, depth) = (runs::model::Trigger::Event, Depth::after(above));
                let run = Start { workflow_id, input, created_by, roles, trigger, depth };
                self.starts.start(&mut tx, run).await?;
            }
            fail::at("trigger.commit.before").await.map_err(db::Error::from)?;
            tx.commit().await?;
            fail::at("trigger.commit.after").await.map_err(db::Error::from)?;
            Ok::<_, Error>(())
        };
        match started.await {
            Ok(()) => self.starts.wake(),
            Err(Error::Db(error)) => return Err(error),
            Err(error) => {
                tracing::warn!(error = ?error, workflow.id = trigger.workflow_id, tenant.id = %event.tenant, "a run that an event triggers was refused");
            }
        }
        Ok(())
    }

    /// Starts no run, and says so to the operator and to the tenant.
    fn break_chain(&self, tx: &mut TenantTx, trigger: &Trigger, event: &Event) {
        let (workflow, most) = (format!("workflows/{}", trigger.workflow_id), self.chain_max);
        tracing::warn!(workflow.id = trigger.workflow_id, tenant.id = %event.tenant, event.id = %event.id,
            "EVENT_CHAIN_TOO_LONG: {most} events in a row have started runs; this one starts none");
        metrics::counter!("tenon_workflow_triggers_stopped_total").increment(1);
        let why = format!("{most} events in a row have started runs: workflows start each other in a ring");
        let data = json!({
            "workflow": workflow, "event": event.id.to_string(), "type": event.kind, "subject": event.subject,
            "reason": "EVENT_CHAIN_TOO_LONG", "message": why,
        });
        tx.emit(CHAIN_BROKEN, workflow, data);
    }
}

/// The events in a row that led to what this one tells of.
async fn events_above(tx: &mut TenantTx, event: &Event) -> Result<u8, Error> {
    if let Some(above) = tasks::events_above(event.id) {
        return Ok(above);
    }
    let of_run = event.kind.starts_with("tenon.workflow.run.").then(|| event.data["run"].as_str()).flatten();
    match of_run.and_then(runs::model::id_of) {
        // One that is deleted already ended long ago.
        Some(run) => Ok(store::get_depth(tx, run.uuid()).await?.unwrap_or_default().events()),
        None => Ok(0),
    }
}

fn tenants_of(events: &[Event]) -> Vec<Uuid> {
    let tenants: BTreeSet<Uuid> = events.iter().map(|event| event.tenant.uuid()).collect();
    tenants.into_iter().collect()
}

/// Says that a workflow is not started, as the next one of a ring would not be: nothing is started by this event either.
const CHAIN_BROKEN: &str = "tenon.workflow.trigger.stopped.v1";

/// Whether an event is one that others are told of: each use of a meter is not.
fn is_told(event: &Event) -> bool {
    event.kind != USAGE_RECORDED
}

/// Whether a trigger is for an event. A workflow is not started by what its own runs do: it would never end.
fn starts_by(trigger: &Trigger, event: &Event) -> bool {
    let own = event.data["workflow"] == format!("workflows/{}", trigger.workflow_id);
    asks_for(std::slice::from_ref(&trigger.source), &event.kind) && !own && event.kind != CHAIN_BROKEN
}

/// The input that a trigger makes of an event; `None` when its filter does not hold.
fn mapped(trigger: &Trigger, seen: &Value) -> Result<Option<Value>, String> {
    let variables = [("event", seen)];
    if !trigger.filter.is_empty() && !cel::compile(&trigger.filter, &["event"])?.holds(&variables)? {
        return Ok(None);
    }
    match trigger.input.as_str() {
        "" => Ok(Some(seen.clone())),
        source => cel::compile(source, &["event"])?.evaluate(&variables).map(Some),
    }
}
