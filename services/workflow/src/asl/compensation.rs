//! Compensation: when an execution fails, times out or is cancelled, the undos of the states that had succeeded run, the
//! last one first. Nothing stops them; one that fails for good is recorded, and the others go on.

use chrono::TimeDelta;
use serde_json::{Map, Value};

use super::{
    execution::{Input, Outcome},
    failure::Failure,
    flow::{Flow, Unwinding},
    interpreter::Interpreter,
    resource::Resource,
};

/// How often an undo is tried, and how long one try may take.
const ATTEMPTS_MAX: u32 = 5;
pub(super) const TIMEOUT_SECONDS: u32 = 300;
/// The pause before the second try; each further one is twice as long.
const PAUSE_SECONDS: i64 = 2;
/// As long as who refused an undo may make it wait.
const PUSHBACK_MAX: TimeDelta = TimeDelta::hours(1);

impl Interpreter<'_> {
    /// Begins to undo; answers with the outcome when there is nothing to undo.
    pub(super) fn unwind(&mut self, root: &mut Flow, outcome: Outcome) -> Result<Unwinding, Outcome> {
        let Some(undo) = self.head.undos.pop() else { return Err(outcome) };
        root.last_event = root.tail_event;
        let mut unwinding = Unwinding { outcome, undo, attempt: 0, token: None, timer: None, limited_by: None };
        self.call_undo(root, &mut unwinding);
        Ok(unwinding)
    }

    /// Takes what came for an undo; answers with the outcome after the last one.
    pub(super) fn go_on_unwinding(
        &mut self,
        root: &mut Flow,
        mut unwinding: Unwinding,
        input: &Input,
    ) -> Result<Unwinding, Outcome> {
        let failure = match input {
            Input::TaskDone { token, result } if unwinding.token == Some(*token) => {
                self.tell(root, &unwinding, "CompensationSucceeded", ("output", result.clone()));
                return self.unwind(root, unwinding.outcome);
            }
            Input::TaskFailed { token, failure } if unwinding.token == Some(*token) => failure.clone(),
            Input::TimerFired { token } if unwinding.timer.is_some_and(|timer| timer.token == *token) => {
                if unwinding.token.is_none() {
                    self.call_undo(root, &mut unwinding);
                    return Ok(unwinding);
                }
                Failure::new(Failure::TIMEOUT, "")
            }
            _ => return Ok(unwinding),
        };
        let mut details = Resource::of(&unwinding.undo.resource).details();
        failure.describe(&mut details);
        let state = unwinding.undo.state.clone();
        self.publish(root, "CompensationFailed", &state, Value::Object(details));
        self.abandoned = true;
        unwinding.token = None;
        if unwinding.attempt >= ATTEMPTS_MAX {
            return self.unwind(root, unwinding.outcome);
        }
        let pause = TimeDelta::seconds(PAUSE_SECONDS << (unwinding.attempt - 1));
        let pushback = failure.pushback.unwrap_or_default();
        let after = TimeDelta::milliseconds(i64::try_from(pushback.after_ms).unwrap_or(0)).min(PUSHBACK_MAX);
        unwinding.limited_by = pushback.limited_by;
        unwinding.timer = Some(self.start_timer(self.now + pause.max(after)));
        Ok(unwinding)
    }

    fn call_undo(&mut self, root: &mut Flow, unwinding: &mut Unwinding) {
        unwinding.attempt += 1;
        let token = self.token();
        let parameters = unwinding.undo.arguments.clone();
        self.tell(root, unwinding, "CompensationScheduled", ("parameters", parameters));
        self.commands.push(unwinding.undo.command(token));
        unwinding.token = Some(token);
        let due = self.now + TimeDelta::seconds(i64::from(TIMEOUT_SECONDS));
        unwinding.timer = Some(self.start_timer(due));
    }

    fn tell(&mut self, root: &mut Flow, unwinding: &Unwinding, kind: &'static str, (key, value): (&str, Value)) {
        let mut details: Map<String, Value> = Resource::of(&unwinding.undo.resource).details();
        details.insert(key.to_owned(), value);
        let state = unwinding.undo.state.clone();
        self.publish(root, kind, &state, Value::Object(details));
    }
}
