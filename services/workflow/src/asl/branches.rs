//! Parallel and Map: flows inside of a flow.

use std::{collections::BTreeMap, mem};

use serde_json::{Value, json};

use super::{
    execution::{Flow, Input, Item, Iterations, Waiting},
    failure::Failure,
    fields::integer,
    interpreter::{Frame, Interpreter, Progress, Turn},
    model::{Kind, Map, Scope, State},
    template::Template,
};

/// Iterations at once when MaxConcurrency does not say less (the quota of Step Functions for inline maps).
const CONCURRENCY_MAX: usize = 40;

impl Interpreter<'_> {
    /// Starts every branch of a Parallel.
    pub(super) fn fork(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        arguments: Option<&Template>,
        scopes: &[Scope],
    ) -> Result<Turn, Failure> {
        let input = match arguments {
            Some(template) => template.evaluate("Arguments", &self.scope(flow, outer, None, None))?,
            None => flow.input.clone(),
        };
        let started = self.emit(flow.last_event, "ParallelStateStarted", &state.name, json!({}));
        flow.last_event = started;
        let mut branches = Vec::new();
        for scope in scopes {
            let frame = Frame { outer, variables: &flow.variables, item: flow.item.as_ref() };
            let mut branch = Flow::new(&scope.start_at, input.clone(), started, self.now);
            let progress = self.run(scope, &mut branch, Some(&frame));
            flow.last_event = branch.last_event;
            settle(progress, &mut branch)?;
            branches.push(branch);
        }
        flow.waiting = Waiting::Parallel { branches };
        Ok(self.join(state, flow, outer))
    }

    /// Starts the first iterations of a Map.
    pub(super) fn iterate(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        map: &Map,
    ) -> Result<Turn, Failure> {
        let (items, limit) = {
            let scope = self.scope(flow, outer, None, None);
            let items = match &map.items {
                Some(template) => template.evaluate("Items", &scope)?,
                None => flow.input.clone(),
            };
            let limit = match &map.max_concurrency {
                None => 0,
                Some(template) => {
                    let value = template.evaluate("MaxConcurrency", &scope)?;
                    integer(&value).ok_or_else(|| Failure::field("MaxConcurrency", "an integer", &value))?
                }
            };
            (items, limit)
        };
        let items = match items {
            Value::Array(items) => items,
            // The States Language: an object is mapped over as an array of its key-value pairs.
            Value::Object(fields) => {
                fields.into_iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect()
            }
            other => return Err(Failure::field("Items", "an array", &other)),
        };
        flow.last_event = self.emit(flow.last_event, "MapStateStarted", &state.name, json!({"length": items.len()}));
        let limit = if limit == 0 { CONCURRENCY_MAX } else { CONCURRENCY_MAX.min(limit as usize) };
        let (running, results) = (BTreeMap::new(), BTreeMap::new());
        flow.waiting = Waiting::Map(Iterations { items, next: 0, limit, running, results });
        self.fill(state, flow, outer, map)?;
        Ok(self.join(state, flow, outer))
    }

    /// Starts iterations until as many run as may.
    fn fill(&mut self, state: &State, flow: &mut Flow, outer: Option<&Frame<'_>>, map: &Map) -> Result<(), Failure> {
        let mut previous = flow.last_event;
        loop {
            let (index, value) = match &mut flow.waiting {
                Waiting::Map(at) if at.running.len() < at.limit && at.next < at.items.len() => {
                    at.next += 1;
                    (at.next - 1, mem::take(&mut at.items[at.next - 1]))
                }
                _ => return Ok(()),
            };
            let details = json!({"index": index});
            previous = self.emit(previous, "MapIterationStarted", &state.name, details);
            let item = Item { index, value };
            let input = match &map.item_selector {
                None => item.value.clone(),
                Some(template) => {
                    let scope = self.scope_of_item(flow, outer, Some(&item), None, None);
                    template.evaluate("ItemSelector", &scope)?
                }
            };
            let mut child = Flow::new(&map.processor.start_at, input, previous, self.now);
            child.item = Some(item);
            let frame = Frame { outer, variables: &flow.variables, item: flow.item.as_ref() };
            let progress = self.run(&map.processor, &mut child, Some(&frame));
            let settled = self.end_iteration(state, index, progress, &mut child);
            flow.last_event = child.last_event;
            let Waiting::Map(at) = &mut flow.waiting else { return Ok(()) };
            match settled? {
                Some(output) => drop(at.results.insert(index, output)),
                None => drop(at.running.insert(index, child)),
            }
        }
    }

    /// Hands an answer to the branch or iteration that waits for it.
    pub(super) fn deliver_inside(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        answer: &Input,
    ) -> Option<Turn> {
        let Flow { variables, item, waiting, last_event, .. } = flow;
        let frame = Frame { outer, variables, item: item.as_ref() };
        let settled = match (&state.kind, waiting) {
            (Kind::Parallel { branches: scopes, .. }, Waiting::Parallel { branches }) => {
                let mut each = scopes.iter().zip(branches);
                each.find_map(|(scope, branch)| {
                    let progress = self.deliver(scope, branch, Some(&frame), answer)?;
                    *last_event = branch.last_event;
                    Some(settle(progress, branch))
                })?
            }
            (Kind::Map(map), Waiting::Map(at)) => {
                let (index, settled) = at.running.iter_mut().find_map(|(index, child)| {
                    let progress = self.deliver(&map.processor, child, Some(&frame), answer)?;
                    let settled = self.end_iteration(state, *index, progress, child);
                    *last_event = child.last_event;
                    Some((*index, settled))
                })?;
                match settled {
                    Ok(None) => Ok(()),
                    Err(failure) => Err(failure),
                    Ok(Some(output)) => {
                        at.running.remove(&index);
                        at.results.insert(index, output);
                        self.fill(state, flow, outer, map)
                    }
                }
            }
            _ => return None,
        };
        Some(match settled {
            Ok(()) => self.join(state, flow, outer),
            Err(failure) => self.fail(state, flow, outer, failure),
        })
    }

    fn end_iteration(
        &mut self,
        state: &State,
        index: usize,
        progress: Progress,
        child: &mut Flow,
    ) -> Result<Option<Value>, Failure> {
        let details = json!({"index": index});
        match progress {
            Progress::Blocked => Ok(None),
            Progress::Done(output) => {
                child.last_event = self.emit(child.last_event, "MapIterationSucceeded", &state.name, details);
                Ok(Some(output))
            }
            Progress::Failed(failure) => {
                child.last_event = self.emit(child.last_event, "MapIterationFailed", &state.name, details);
                Err(failure)
            }
        }
    }

    /// Goes on once everything inside has ended.
    fn join(&mut self, state: &State, flow: &mut Flow, outer: Option<&Frame<'_>>) -> Turn {
        let (kind, results) = match &mut flow.waiting {
            Waiting::Parallel { branches } => {
                if branches.iter().any(|branch| !matches!(branch.waiting, Waiting::Done { .. })) {
                    return Turn::Blocked;
                }
                let outputs = branches.iter_mut().map(|branch| match &mut branch.waiting {
                    Waiting::Done { output } => mem::take(output),
                    _ => Value::Null,
                });
                ("ParallelStateSucceeded", outputs.collect())
            }
            Waiting::Map(at) if at.results.len() == at.items.len() => {
                ("MapStateSucceeded", mem::take(&mut at.results).into_values().collect())
            }
            _ => return Turn::Blocked,
        };
        flow.last_event = self.emit(flow.last_event, kind, &state.name, json!({}));
        self.succeed(state, flow, outer, Value::Array(results))
    }
}

/// Keeps the output of a branch that ended.
fn settle(progress: Progress, branch: &mut Flow) -> Result<(), Failure> {
    match progress {
        Progress::Blocked => {}
        Progress::Done(output) => branch.waiting = Waiting::Done { output },
        Progress::Failed(failure) => return Err(failure),
    }
    Ok(())
}
