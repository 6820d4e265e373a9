//! Runs a definition with no server: mocks answer its tasks, and time passes only when everything waits for it.

mod mocks;
mod report;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::asl::{Command, Event, Execution, Failure, Input, Machine, Outcome};
pub use mocks::{BadMocks, Mocks};
pub use report::{Form, Report};

/// Inputs of one execution at most: a loop that waits is ended by the limit of its history long before.
const INPUTS_MAX: usize = 1_000_000;
/// The account and the region that Step Functions Local shows.
const ARN: &str = "arn:aws:states:us-east-1:123456789012";
const ROLE: &str = "arn:aws:iam::123456789012:role/DummyRole";

/// What an execution starts with.
#[derive(Debug)]
pub struct Start {
    /// The name of the state machine, for the context object.
    pub name: String,
    pub input: Value,
    /// When it starts; each answer comes at once, and waits pass on this clock.
    pub at: DateTime<Utc>,
    /// What makes what is random repeatable.
    pub seed: u64,
}

/// Runs a definition to its end.
#[must_use]
pub fn simulate(machine: &Machine, mut mocks: Mocks, start: Start) -> Report {
    let Start { name, input, at, seed } = start;
    let id = format!("{ARN}:execution:{name}:simulation");
    let workflow = format!("{ARN}:stateMachine:{name}");
    let mut execution = Execution::new(machine, &id, &workflow, input, seed, at).with_role(ROLE);
    let mut events: Vec<(DateTime<Utc>, Event)> = Vec::new();
    let (mut now, mut next) = (at, Input::Started);
    for _ in 0..INPUTS_MAX {
        let step = execution.advance(machine, next, now);
        for event in step.events {
            submitted(&mut events, &event);
            events.push((now, event));
        }
        if let Some(outcome) = step.outcome {
            return Report { outcome, events };
        }
        let Some((time, input)) = answer(&execution, &mut mocks) else { break };
        now = now.max(time.unwrap_or(now));
        next = input;
    }
    let failure = Failure::new(Failure::RUNTIME, "the simulation gave up: the execution does not come to an end");
    Report { outcome: Outcome::Failed(failure), events }
}

/// A mock answers at once with the result, so that is what the service said when it took the request.
fn submitted(events: &mut [(DateTime<Utc>, Event)], event: &Event) {
    let previous = usize::try_from(event.previous).ok().and_then(|id| id.checked_sub(1));
    if let Some((_, before)) = previous.and_then(|index| events.get_mut(index))
        && (before.kind, event.kind) == ("TaskSubmitted", "TaskSucceeded")
    {
        before.details["output"] = event.details["output"].clone();
    }
}

/// What happens next: the oldest call is answered, or the timer that is due first fires.
fn answer(execution: &Execution, mocks: &mut Mocks) -> Option<(Option<DateTime<Utc>>, Input)> {
    let outstanding = execution.outstanding();
    let calls = outstanding.iter().filter_map(|command| match command {
        Command::CallTask { token, state, resource, .. } => Some((*token, state, resource)),
        Command::StartTimer { .. } => None,
    });
    if let Some((token, state, resource)) = calls.min_by_key(|(token, ..)| *token) {
        let key = if execution.is_unwinding() { format!("{state}.Compensate") } else { state.clone() };
        let answered = mocks.answer(&key).unwrap_or_else(|why| {
            let cause = format!("The task '{key}' calls {resource}, which a simulation does not do, and {why}");
            Err(Failure::new(Failure::RUNTIME, cause))
        });
        let input = match answered {
            Ok(result) => Input::TaskDone { token, result },
            Err(failure) => Input::TaskFailed { token, failure },
        };
        return Some((None, input));
    }
    let timers = outstanding.iter().filter_map(|command| match command {
        Command::StartTimer { token, due } => Some((*due, *token)),
        Command::CallTask { .. } => None,
    });
    timers.min().map(|(due, token)| (Some(due), Input::TimerFired { token }))
}

#[cfg(test)]
mod tests;
