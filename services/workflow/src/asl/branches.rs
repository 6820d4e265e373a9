//! Parallel, and what it shares with Map: flows inside of a flow, and what happens to them when one fails.

use std::mem;

use serde_json::{Value, json};

use super::{
    execution::Input,
    failure::Trouble,
    flow::{Flow, Waiting},
    history,
    interpreter::{Interpreter, Progress, Turn},
    model::{Kind, Scope as States, State},
    scope::Frame,
};

impl Interpreter<'_> {
    /// Starts every branch of a Parallel.
    pub(super) fn fork(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        scopes: &[States],
    ) -> Result<Turn, Trouble> {
        let input = {
            let root = self.effective(state, flow, outer)?;
            match &state.shape.arguments {
                None => root.into_owned(),
                Some(template) => template.evaluate(state.argument_field(), &self.scope(flow, outer, root))?,
            }
        };
        self.publish(flow, "ParallelStateStarted", &state.name, json!({}));
        let branch = |scope: &States| {
            let mut branch = Flow::new(&scope.start_at, input.clone(), flow.last_event, self.now);
            branch.quiet = flow.quiet;
            branch
        };
        let branches = scopes.iter().map(branch).collect();
        flow.waiting = Waiting::Parallel { branches };
        for (index, scope) in scopes.iter().enumerate() {
            let Flow { variables, item, waiting: Waiting::Parallel { branches }, .. } = &mut *flow else { break };
            let frame = Frame { outer, variables, item: item.as_ref() };
            let progress = self.run(scope, &mut branches[index], Some(&frame));
            if let Some(trouble) = settle(progress, &mut branches[index]) {
                return Ok(self.branch_failed(state, flow, outer, index, trouble));
            }
        }
        Ok(self.join(state, flow, outer))
    }

    /// Hands an answer to the branch or iteration that waits for it.
    pub(super) fn deliver_inside(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        answer: &Input,
    ) -> Option<Turn> {
        let scopes = match &state.kind {
            Kind::Parallel { branches } => branches,
            Kind::Map(map) => return self.deliver_to_map(state, flow, outer, map, answer),
            _ => return None,
        };
        let Flow { variables, item, waiting: Waiting::Parallel { branches }, .. } = &mut *flow else { return None };
        let frame = Frame { outer, variables, item: item.as_ref() };
        let mut each = scopes.iter().zip(branches).enumerate();
        let (index, trouble) = each.find_map(|(index, (scope, branch))| {
            let progress = self.deliver(scope, branch, Some(&frame), answer)?;
            Some((index, settle(progress, branch)))
        })?;
        Some(match trouble {
            None => self.join(state, flow, outer),
            Some(trouble) => self.branch_failed(state, flow, outer, index, trouble),
        })
    }

    fn branch_failed(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        index: usize,
        trouble: Trouble,
    ) -> Turn {
        self.abandoned = true;
        let waiting = mem::replace(&mut flow.waiting, Waiting::Ready);
        let (Waiting::Parallel { branches }, Kind::Parallel { branches: scopes }) = (waiting, &state.kind) else {
            return Turn::Failed(trouble);
        };
        let failed = &branches[index];
        (flow.last_event, flow.tail_event) = (failed.last_event, failed.tail_event);
        if trouble.is_fatal() {
            return Turn::Failed(trouble);
        }
        self.tell_of_own_end(&scopes[index], failed, flow);
        for (at, (scope, branch)) in scopes.iter().zip(&branches).enumerate() {
            if at != index {
                self.tell_of_cut(scope, branch, flow);
            }
        }
        self.fail(state, flow, outer, trouble)
    }

    /// A Task or a Wait whose failure ended its branch never exits: the history tells so.
    pub(super) fn tell_of_own_end(&mut self, states: &States, failed: &Flow, onto: &mut Flow) {
        let Some(state) = states.states.get(&failed.state) else { return };
        if let (Kind::Task(_) | Kind::Wait(_), Some(kind)) = (&state.kind, history::aborted(&state.kind)) {
            self.beside(onto, kind, &state.name, json!({}));
        }
    }

    /// Tells of the states that are cut because another branch failed.
    pub(super) fn tell_of_cut(&mut self, states: &States, cut: &Flow, onto: &mut Flow) {
        let Some(state) = states.states.get(&cut.state) else { return };
        match (&cut.waiting, &state.kind) {
            (Waiting::Ready | Waiting::Pause(_) | Waiting::Done { .. }, _) => return,
            (Waiting::Parallel { branches }, Kind::Parallel { branches: scopes }) => {
                scopes.iter().zip(branches).for_each(|(scope, branch)| self.tell_of_cut(scope, branch, onto));
            }
            (Waiting::Map(at), Kind::Map(map)) if !map.distributed => {
                for (index, inner) in &at.running {
                    self.beside(onto, "MapIterationAborted", &state.name, json!({"index": index}));
                    self.tell_of_cut(&map.processor, inner, onto);
                }
            }
            _ => {}
        }
        if let Some(kind) = history::aborted(&state.kind) {
            self.beside(onto, kind, &state.name, json!({}));
        }
    }

    /// Goes on once every branch has ended.
    fn join(&mut self, state: &State, flow: &mut Flow, outer: Option<&Frame<'_>>) -> Turn {
        let Waiting::Parallel { branches } = &mut flow.waiting else { return Turn::Blocked };
        if branches.iter().any(|branch| !matches!(branch.waiting, Waiting::Done { .. })) {
            return Turn::Blocked;
        }
        let last = branches.iter().map(|branch| branch.last_event).max().unwrap_or(flow.last_event);
        let outputs = branches.iter_mut().map(|branch| match &mut branch.waiting {
            Waiting::Done { output } => mem::take(output),
            _ => Value::Null,
        });
        let result = Value::Array(outputs.collect());
        (flow.last_event, flow.tail_event) = (last, last);
        self.aside(flow, "ParallelStateSucceeded", &state.name, json!({}));
        self.succeed(state, flow, outer, result)
    }
}

/// Keeps the output of a branch that ended, or hands out why it failed.
fn settle(progress: Progress, branch: &mut Flow) -> Option<Trouble> {
    match progress {
        Progress::Blocked => None,
        Progress::Done(output) => {
            branch.waiting = Waiting::Done { output };
            None
        }
        Progress::Failed(trouble) => Some(trouble),
    }
}
