//! One turn of the engine: runs advance, one transaction writes what they came to, and then their commands are done.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use tenon_chassis::TenantId;
use tokio::time::Instant;

use super::{
    Engine,
    active::{Key, Rest, Work},
    change::Advanced,
};
use crate::{
    asl::{Command, Input},
    runs::model::Depth,
    tasks::{self, Call, Family},
};

impl Engine {
    pub(super) async fn step(&mut self, inputs: Vec<(Key, Work)>) {
        let mut work: BTreeMap<Key, Vec<Work>> = BTreeMap::new();
        for (key, input) in inputs {
            work.entry(key).or_default().push(input);
        }
        let tenants: BTreeSet<TenantId> = work.keys().map(|key| key.tenant).collect();
        for tenant in tenants {
            if !self.may_work(tenant).await {
                // First of all: a step that has not begun is not taken.
                let of = work.iter_mut().filter(|(key, _)| key.tenant == tenant);
                of.for_each(|(_, work)| work.insert(0, Work::Park("standing".to_owned())));
            }
        }
        let taken: Vec<_> = work.into_iter().filter_map(|(key, work)| Some((self.runs.remove(&key)?, work))).collect();
        let (began, count) = (Instant::now(), taken.len());
        let (now, clock) = (self.time.now(), self.db.clock().clone());
        // Expressions may take their time: not on a thread that others wait for.
        let stepping = tokio::task::spawn_blocking(move || {
            taken.into_iter().map(|(active, work)| active.step(work, now, &clock)).collect::<Vec<_>>()
        });
        let results = stepping.await.expect("a panic of a run is caught, and the work is not cancelled");
        let mut advanced = Vec::new();
        for result in results {
            match result {
                Ok(step) => advanced.push(step),
                Err(unchanged) => drop(self.runs.insert(unchanged.about.key, unchanged)),
            }
        }
        if !advanced.is_empty() {
            self.write(advanced).await;
            self.pace.add(count, began.elapsed());
        }
    }

    /// Writes steps, then does what they ask for.
    pub(super) async fn write(&mut self, advanced: Vec<Advanced>) {
        for written in self.writer.write(advanced, None, &self.owned, || {}).await {
            self.lose(&written.but.lost);
            let lost = written.but.lost;
            let kept = written.steps.into_iter().filter(|step| !lost.contains(&step.about.partition));
            kept.for_each(|step| self.settle(step));
        }
    }

    /// Keeps a run whose step is written in memory, if that is where it rests, and does the step's commands.
    pub(super) fn settle(&mut self, step: Advanced) {
        let ended = step.has_ended();
        let Some(active) = step.active.filter(|_| !ended) else { return };
        if let Rest::Until(due) = step.update.rest {
            // It sleeps in the database from here on.
            self.next_due = self.next_due.into_iter().chain(due).min();
            return;
        }
        let key = active.about.key;
        self.runs.insert(key, active);
        if step.resumed {
            return self.dispatch_outstanding(key);
        }
        for command in step.commands {
            self.dispatch(key, command);
        }
    }

    /// Asks again for everything that a run waits for, unless it is held back.
    pub(super) fn dispatch_outstanding(&mut self, key: Key) {
        let outstanding = self.runs.get(&key).filter(|active| !active.is_held() && !active.fresh);
        for command in outstanding.map(|active| active.execution.outstanding()).unwrap_or_default() {
            self.dispatch(key, command);
        }
    }

    fn dispatch(&mut self, key: Key, command: Command) {
        match command {
            Command::StartTimer { token, due } => self.timers.push(Reverse((due, key, token))),
            Command::CallTask { resource, .. } if tasks::family(&resource) != Family::Call => {}
            Command::CallTask { token, resource, arguments, timeout_seconds, .. } => {
                let Some(active) = self.runs.get_mut(&key).filter(|active| !active.calls.contains_key(&token)) else {
                    return;
                };
                let quotas = &self.waker.quotas;
                let meters = self.tasks.meters(&resource);
                if let Some(meter) = meters.into_iter().find(|meter| quotas.used_up(key.tenant, meter).is_some()) {
                    return self.short.push((key, meter));
                }
                let call = Call {
                    tenant: key.tenant,
                    roles: active.about.roles.clone(),
                    idempotency_key: active.about.idempotency_key(token),
                    traceparent: active.about.traceparent.clone(),
                    resource,
                    arguments,
                    events_above: Depth(active.about.depth).events(),
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
