//! One turn of the engine: runs advance, one transaction writes what they came to, and then their commands are done.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use tracing::Instrument;

use super::{
    Answer, Engine,
    active::{Advanced, Key},
    store,
};
use crate::{
    asl::{Command, Input},
    error::Error,
    tasks::{self, Call},
};

/// The pauses between tries to write.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

impl Engine {
    pub(super) async fn step(&mut self, answers: Vec<Answer>) {
        let mut inputs: BTreeMap<Key, Vec<Input>> = BTreeMap::new();
        for (key, input) in answers {
            inputs.entry(key).or_default().push(input);
        }
        let taken: Vec<_> =
            inputs.into_iter().filter_map(|(key, inputs)| Some((self.runs.remove(&key)?, inputs))).collect();
        let (now, clock) = (self.time.now(), self.db.clock().clone());
        // Expressions may take their time: not on a thread that others wait for.
        let work = tokio::task::spawn_blocking(move || {
            taken.into_iter().map(|(active, inputs)| active.advance(inputs, now, &clock)).collect::<Vec<_>>()
        });
        let results = work.await.expect("a panic of a run is caught, and the work is not cancelled");
        let mut advanced = Vec::new();
        for result in results {
            match result {
                Ok(step) => advanced.push(step),
                Err(unchanged) => drop(self.runs.insert(unchanged.about.key, unchanged)),
            }
        }
        if !advanced.is_empty() {
            self.write(advanced).await;
        }
    }

    /// Writes until it is written or the partitions are lost, then does what the steps ask for.
    pub(super) async fn write(&mut self, mut advanced: Vec<Advanced>) {
        // One transaction serves many runs; it shows in the trace of the first.
        let span = tracing::info_span!("advance", otel.name = "workflow advance", tenon.runs = advanced.len());
        if let Some(parent) = advanced.iter().find_map(|step| step.about.traceparent.as_deref()) {
            tenon_chassis::telemetry::set_parent(&span, parent);
        }
        let mut pause = PAUSE_MIN;
        let lost = loop {
            match self.committed(&advanced).instrument(span.clone()).await {
                Ok(lost) => break lost,
                Err(error) => {
                    tracing::warn!(%error, runs = advanced.len(), "steps were not written; they are tried again");
                }
            }
            if self.stop.is_cancelled() {
                // Nothing was acknowledged or called: whoever comes next does these steps again.
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        };
        advanced.retain(|step| !lost.contains(&step.about.partition));
        self.lose(&lost);
        for step in advanced {
            self.done(step);
        }
    }

    /// One transaction; answers with the partitions that are not owned any more, of which nothing was written.
    async fn committed(&self, advanced: &[Advanced]) -> Result<Vec<i16>, Error> {
        let mut partitions: Vec<i16> = advanced.iter().map(|step| step.about.partition).collect();
        partitions.sort_unstable();
        partitions.dedup();
        let (ids, epochs) = self.epochs(partitions.iter().copied());
        let mut tx = self.db.system().await?;
        let held = store::lock_partitions(&mut tx, &ids, &epochs).await?;
        let kept: Vec<&Advanced> = advanced.iter().filter(|step| held.contains(&step.about.partition)).collect();
        let updates: Vec<_> = kept.iter().map(|step| step.update.clone()).collect();
        let history: Vec<_> = kept.iter().flat_map(|step| step.history.iter().cloned()).collect();
        let events: Vec<_> = kept.iter().filter_map(|step| step.event.clone()).collect();
        if !kept.is_empty() {
            store::update_runs(&mut tx, &updates).await?;
            store::insert_history(&mut tx, &history).await?;
            tx.emit(&events).await?;
        }
        tx.commit().await?;
        Ok(partitions.into_iter().filter(|id| !held.contains(id)).collect())
    }

    fn done(&mut self, step: Advanced) {
        let ended = step.has_ended();
        let Some(active) = step.active else { return };
        if ended {
            metrics::counter!("tenon_workflow_runs_ended_total", "state" => step.update.state).increment(1);
            return;
        }
        if let Some(due) = step.update.due_at {
            // It sleeps in the database from here on.
            self.next_due = Some(self.next_due.map_or(due, |first| first.min(due)));
            return;
        }
        let key = active.about.key;
        self.runs.insert(key, active);
        for command in step.commands {
            self.dispatch(key, command);
        }
    }

    /// Asks again for everything that a run waits for.
    pub(super) fn dispatch_outstanding(&mut self, key: Key) {
        let outstanding = self.runs.get(&key).map(|active| active.execution.outstanding());
        for command in outstanding.unwrap_or_default() {
            self.dispatch(key, command);
        }
    }

    fn dispatch(&mut self, key: Key, command: Command) {
        match command {
            Command::StartTimer { token, due } => self.timers.push(Reverse((due, key, token))),
            Command::CallTask { token, resource, arguments, timeout_seconds, .. } => {
                let Some(active) = self.runs.get_mut(&key) else { return };
                let call = Call {
                    tenant: key.tenant,
                    roles: active.about.roles.clone(),
                    idempotency_key: active.about.idempotency_key(token),
                    traceparent: active.about.traceparent.clone(),
                    resource,
                    arguments,
                    timeout: tasks::timeout(timeout_seconds, self.config.workflow_task_timeout_s),
                };
                let (tasks, answers) = (self.tasks.clone(), self.answers.0.clone());
                let task = self.calls.spawn(async move {
                    let input = match tasks.call(call).await {
                        Ok(result) => Input::TaskDone { token, result },
                        Err(failure) => Input::TaskFailed { token, failure },
                    };
                    // The engine is gone when this fails: another one calls again.
                    let _ = answers.send((key, input)).await;
                });
                active.calls.insert(token, task.abort_handle());
            }
        }
    }
}
