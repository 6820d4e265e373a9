//! Starts runs inside of transactions: whoever needs more than a run alone, its key, its turn or its trigger, comes here.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tenon_chassis::{Fault, TenantTx};
use tonic::Code;

use super::{
    model::{Depth, NewRun, Run, RunId, partition},
    rpc::created,
    store::{self, Place},
    template::{Template, Templates},
};
use crate::{error::Error, quotas::Quotas, workflows::rules::Admission};

/// Runs of one concurrency key that wait for their turn at most.
pub(crate) const QUEUED_MAX: i64 = 10_000;

/// Characters of an idempotency key.
pub(crate) const KEY_MAX: usize = 255;

/// What a start led to.
#[derive(Debug)]
pub enum Started {
    New(Run),
    /// The run that was started before under this idempotency key.
    Same(Run),
}

impl Started {
    #[must_use]
    pub fn run(self) -> Run {
        match self {
            Self::New(run) | Self::Same(run) => run,
        }
    }
}

/// Starts runs inside of transactions.
#[derive(Clone)]
pub struct Starter {
    partitions: i16,
    keys_days: u32,
    pub(crate) templates: Templates,
    quotas: Quotas,
}

impl Starter {
    /// New runs are spread over `partitions`; idempotency keys are kept for `keys_days`.
    #[must_use]
    pub fn new((partitions, keys_days): (i16, u32), quotas: Quotas) -> Self {
        Self { partitions, keys_days, templates: Templates::default(), quotas }
    }

    /// Starts a run of the latest version with its event. Its usage is counted by the caller when it is new. Wake the
    /// engine once the transaction is committed.
    ///
    /// # Errors
    /// `WorkflowNotFound`, what the rules of the workflow say of the input, `KeyReused`, `QueueFull`, `QuotaExhausted`.
    pub async fn start(&self, tx: &mut TenantTx, new: NewRun) -> Result<Started, Error> {
        let mut started = self.start_all(tx, vec![new]).await.map_err(|(_, error)| error)?;
        Ok(started.pop().expect("a start of one run is one run"))
    }

    /// Starts runs, all or none.
    ///
    /// # Errors
    /// As `start`, with the place of the run that cannot be.
    pub async fn start_all(&self, tx: &mut TenantTx, new: Vec<NewRun>) -> Result<Vec<Started>, (usize, Error)> {
        let mut started: Vec<Option<Started>> = Vec::with_capacity(new.len());
        let (mut latest, mut plain) = (HashMap::new(), Vec::new());
        for (index, new) in new.into_iter().enumerate() {
            let at = |error: Error| (index, error);
            if !latest.contains_key(&new.workflow_id) {
                let found = self.latest(tx, &new.workflow_id).await.map_err(at)?;
                latest.insert(new.workflow_id.clone(), found);
            }
            let (template, version, hold) = &latest[&new.workflow_id];
            let new = admitted(new, template).map_err(|fault| at(fault.into()))?;
            let (tenant, id) = (tx.tenant(), RunId::new(tx.clock()));
            let partition = partition(tenant, id, self.partitions);
            let place = Place { tenant, id, partition, version: *version, hold: hold.clone() };
            if new.idempotency_key.is_none() && new.concurrency.is_none() && new.depth == Depth::default() {
                self.quotas.admit_run(tenant).map_err(at)?;
                plain.push((place, new));
                started.push(None);
            } else {
                started.push(Some(self.start_special(tx, place, new).await.map_err(at)?));
            }
        }
        let first = started.iter().position(Option::is_none).unwrap_or_default();
        let mut added = store::insert_all(tx, &plain).await.map_err(|error| (first, error))?.into_iter();
        let all: Vec<Started> = started
            .into_iter()
            .map(|known| known.or_else(|| added.next().map(Started::New)).expect("each run was added once"))
            .collect();
        for run in all.iter().filter_map(|started| if let Started::New(run) = started { Some(run) } else { None }) {
            tx.emit("tenon.workflow.run.created.v1", format!("runs/{}", run.id), created(run));
        }
        Ok(all)
    }

    /// When an idempotency key that is taken now is forgotten.
    pub(crate) fn key_expires_at(&self, tx: &TenantTx) -> DateTime<Utc> {
        tx.clock().now() + TimeDelta::days(self.keys_days.into())
    }

    /// Starts a run under a key, that takes turns, or that an event started.
    async fn start_special(&self, tx: &mut TenantTx, place: Place, new: NewRun) -> Result<Started, Error> {
        let tenant = place.tenant.uuid();
        if let Some(key) = &new.idempotency_key {
            let hash = Sha256::digest(json!([new.workflow_id, new.entity_id, new.input]).to_string());
            let (key, expires_at) = (format!("run/{key}"), self.key_expires_at(tx));
            if let Some((run, same)) = store::insert_key(tx, &key, (&hash, place.id), expires_at).await? {
                let known = store::get(tx, run).await?.filter(|_| same);
                return known.map(Started::Same).ok_or(Error::KeyReused);
            }
        }
        // Whoever asks again for what there is gets it.
        self.quotas.admit_run(place.tenant)?;
        if let Some((key, _)) = &new.concurrency {
            let turn = (new.workflow_id.as_str(), key.as_str());
            store::lock_turn(&mut *tx, tenant, turn).await?;
            // Only now: what was queued before the lock was had is seen.
            if store::count_queued(&mut *tx, tenant, turn).await? >= QUEUED_MAX {
                return Err(Error::QueueFull);
            }
        }
        let run = store::insert(&mut *tx, &place, &new).await?;
        if !new.attributes.is_empty() {
            store::insert_attributes(&mut *tx, tenant, place.id, &texts(&new.attributes)).await?;
        }
        Ok(Started::New(run))
    }

    /// The latest version of a workflow, its number, and who has paused it.
    async fn latest(
        &self,
        tx: &mut TenantTx,
        workflow_id: &str,
    ) -> Result<(Arc<Template>, i32, Option<String>), Error> {
        let (version, hold) = store::get_latest(tx, workflow_id).await?.ok_or(Error::WorkflowNotFound)?;
        Ok((self.template(tx, workflow_id, version).await?, version, hold))
    }

    async fn template(&self, tx: &mut TenantTx, workflow_id: &str, version: i32) -> Result<Arc<Template>, Error> {
        let tenant = tx.tenant().uuid();
        if let Some(template) = self.templates.get(tenant, workflow_id, version) {
            return Ok(template);
        }
        let (definition, envelope) = store::get_template(tx, tenant, (workflow_id, version)).await?;
        Ok(self.templates.insert((tenant, workflow_id, version), (&definition, envelope))?)
    }
}

/// The run with what the rules of its workflow make of its input.
pub(crate) fn admitted(mut new: NewRun, template: &Template) -> Result<NewRun, Fault> {
    let Admission { concurrency, entity_id, idempotency_key, attributes } = template.rules.admit(&new.input)?;
    new.concurrency = concurrency.or(new.concurrency);
    new.idempotency_key = new.idempotency_key.or(idempotency_key);
    if new.idempotency_key.as_ref().is_some_and(|key| key.chars().count() > KEY_MAX) {
        let why = format!("idempotencyKey: must have at most {KEY_MAX} characters");
        return Err(Fault::new(Code::InvalidArgument, "INVALID_INPUT", why.clone()).violation("input", why));
    }
    if new.entity_id.is_empty()
        && let Some(entity_id) = entity_id
    {
        super::model::entity_id(&entity_id)?.clone_into(&mut new.entity_id);
    }
    for (name, value) in attributes {
        new.attributes.entry(name).or_insert(value);
    }
    Ok(new)
}

/// Attributes as the texts that they are searched by.
pub(crate) fn texts(attributes: &Map<String, Value>) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    attributes.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}
