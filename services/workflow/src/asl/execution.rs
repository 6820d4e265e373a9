//! An execution: its whole state as data, and `advance`, the one way to change it.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    failure::Failure,
    flow::{Flow, Head, Timer, Tried, Unwinding, Waiting},
    history::Event,
    interpreter::{Interpreter, Progress},
    model::Machine,
};

/// What happened outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Started,
    TaskDone {
        token: u64,
        result: Value,
    },
    TaskFailed {
        token: u64,
        failure: Failure,
    },
    /// The task is at work still.
    TaskHeartbeat {
        token: u64,
    },
    TimerFired {
        token: u64,
    },
    /// End, and undo what has an undo. Undos that run already go on.
    Cancel {
        cause: String,
    },
    /// End at once, and undo nothing.
    Terminate {
        cause: String,
    },
    /// Go on after a failure, from the state that failed and with its input.
    Retry,
}

/// What must happen outside, once the step is on disk.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Call a resource for a state. The token names the attempt: the same again after a crash, another for each retry.
    /// A call whose token is not outstanding any more is to be let go of.
    CallTask {
        token: u64,
        state: String,
        resource: String,
        arguments: Value,
        timeout_seconds: Option<u32>,
        heartbeat_seconds: Option<u32>,
    },
    /// Hand in `TimerFired` at `due`.
    StartTimer { token: u64, due: DateTime<Utc> },
}

impl Command {
    /// Names what is asked for; the answer carries it.
    #[must_use]
    pub fn token(&self) -> u64 {
        match self {
            Self::CallTask { token, .. } | Self::StartTimer { token, .. } => *token,
        }
    }
}

/// What one input led to.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    pub events: Vec<Event>,
    pub commands: Vec<Command>,
    /// Set when the execution ended with this step.
    pub outcome: Option<Outcome>,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    Succeeded { output: Value },
    Failed(Failure),
    TimedOut(Failure),
    Cancelled { cause: String },
}

/// An execution at rest between two inputs; as JSON it is what a crash cannot take away.
#[derive(Debug, Serialize, Deserialize)]
pub struct Execution {
    head: Head,
    root: Flow,
    deadline: Option<Timer>,
    /// The undos at work, once the execution has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unwinding: Option<Box<Unwinding>>,
    outcome: Option<Outcome>,
    /// How long it may take at most, whatever the definition says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_seconds: Option<u32>,
}

impl Execution {
    /// An execution that waits for `Started`. `id` and `workflow` are what `$states.context` shows.
    #[must_use]
    pub fn new(
        machine: &Machine,
        id: &str,
        workflow: &str,
        input: Value,
        seed: u64,
        started_at: DateTime<Utc>,
    ) -> Self {
        let root = Flow::new(&machine.scope.start_at, input.clone(), 0, started_at);
        let (id, workflow, role, undos) = (id.to_owned(), workflow.to_owned(), String::new(), Vec::new());
        let head =
            Head { id, workflow, role, input, started_at, seed, last_event: 0, last_token: 0, events_max: None, undos };
        Self { head, root, deadline: None, unwinding: None, outcome: None, timeout_seconds: None }
    }

    /// The role that the context object shows, for definitions that were made for Step Functions.
    #[must_use]
    pub fn with_role(mut self, role: &str) -> Self {
        role.clone_into(&mut self.head.role);
        self
    }

    /// Bounds the time that the execution may take, beside what its definition says, and its history.
    #[must_use]
    pub fn within(mut self, timeout_seconds: Option<u32>, history_events: Option<u32>) -> Self {
        self.timeout_seconds = timeout_seconds;
        self.head.events_max = history_events.map(u64::from);
        self
    }

    /// Reads an execution back. Its input is kept beside the state and not in it.
    ///
    /// # Errors
    /// When the state is not one that this version wrote.
    pub fn restore(state: &str, input: Value) -> Result<Self, serde_json::Error> {
        let mut execution: Self = serde_json::from_str(state)?;
        execution.head.input = input;
        Ok(execution)
    }

    /// What was asked for and not answered yet: to be asked again after a crash.
    #[must_use]
    pub fn outstanding(&self) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.outcome.is_none() {
            commands.extend(self.deadline.map(Timer::command));
            match &self.unwinding {
                Some(unwinding) => unwinding.outstanding(&mut commands),
                None => self.root.outstanding(&mut commands),
            }
        }
        commands
    }

    /// What is tried again when a timer fires, if it is the pause before a retry.
    #[must_use]
    pub fn retry(&self, token: u64) -> Option<Tried<'_>> {
        match &self.unwinding {
            Some(unwinding) => unwinding.retry(token),
            None => self.root.retry(token),
        }
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Whether what has succeeded is being undone: nothing but the undos is waited for any more.
    #[must_use]
    pub fn is_unwinding(&self) -> bool {
        self.unwinding.is_some()
    }

    /// Takes one input and goes on until everything waits again. An answer that nothing waits for leads to nothing.
    #[expect(clippy::needless_pass_by_value, reason = "an input is used up")]
    pub fn advance(&mut self, machine: &Machine, input: Input, now: DateTime<Utc>) -> Step {
        let failed = matches!(self.outcome, Some(Outcome::Failed(_) | Outcome::TimedOut(_)));
        if self.outcome.is_some() != (failed && input == Input::Retry) {
            return Step::default();
        }
        let limit = machine.timeout_seconds.into_iter().chain(self.timeout_seconds).min();
        let mut interpreter = Interpreter::new(&mut self.head, now);
        let outcome = if let Input::Terminate { cause } = &input {
            self.unwinding = None;
            Some(Outcome::Cancelled { cause: cause.clone() })
        } else if let Some(unwinding) = self.unwinding.take() {
            kept(interpreter.go_on_unwinding(&mut self.root, *unwinding, &input), &mut self.unwinding)
        } else {
            let ended = match &input {
                Input::Started => interpreter.start(machine, &mut self.root, &mut self.deadline, limit),
                Input::Retry => interpreter.retry(machine, &mut self.root, &mut self.deadline, limit),
                input => interpreter.take(machine, &mut self.root, self.deadline, input),
            };
            match ended {
                None | Some(Outcome::Succeeded { .. }) => ended,
                Some(outcome) => {
                    // What still waits is let go of.
                    self.root.waiting = Waiting::Ready;
                    self.deadline = None;
                    interpreter.commands.clear();
                    kept(interpreter.unwind(&mut self.root, outcome), &mut self.unwinding)
                }
            }
        };
        if let Some(outcome) = &outcome {
            interpreter.finish(&mut self.root, outcome);
        } else if self.unwinding.is_none() {
            interpreter.tell_of_starts(&mut self.root);
        }
        let Interpreter { events, mut commands, abandoned, .. } = interpreter;
        self.outcome.clone_from(&outcome);
        if abandoned {
            let live = self.outstanding();
            commands.retain(|command| live.contains(command));
        }
        Step { events, commands, outcome }
    }
}

impl Interpreter<'_> {
    fn start(
        &mut self,
        machine: &Machine,
        root: &mut Flow,
        deadline: &mut Option<Timer>,
        limit: Option<u32>,
    ) -> Option<Outcome> {
        let mut details = Map::new();
        details.insert("input".to_owned(), self.head.input.clone());
        if !self.head.role.is_empty() {
            details.insert("roleArn".to_owned(), json!(self.head.role));
        }
        // The first state does not follow this event.
        self.record(false, 0, "ExecutionStarted", "", Value::Object(details));
        *deadline = self.limit(limit);
        ended(self.run(&machine.scope, root, None))
    }

    /// A failed execution is at the state that failed, with its input and its variables.
    fn retry(
        &mut self,
        machine: &Machine,
        root: &mut Flow,
        deadline: &mut Option<Timer>,
        limit: Option<u32>,
    ) -> Option<Outcome> {
        root.last_event = self.record(false, root.tail_event, "ExecutionRedriven", "", json!({}));
        root.tail_event = root.last_event;
        *deadline = self.limit(limit);
        ended(self.run(&machine.scope, root, None))
    }

    fn limit(&mut self, seconds: Option<u32>) -> Option<Timer> {
        seconds.map(|seconds| self.start_timer(self.now + TimeDelta::seconds(i64::from(seconds))))
    }

    fn take(&mut self, machine: &Machine, root: &mut Flow, deadline: Option<Timer>, input: &Input) -> Option<Outcome> {
        match input {
            Input::Cancel { cause } => Some(Outcome::Cancelled { cause: cause.clone() }),
            Input::TimerFired { token } if deadline.is_some_and(|timer| timer.token == *token) => {
                Some(Outcome::TimedOut(Failure::new(Failure::TIMEOUT, "")))
            }
            answer => self.deliver(&machine.scope, root, None, answer).and_then(ended),
        }
    }

    fn finish(&mut self, root: &mut Flow, outcome: &Outcome) {
        let tail = root.tail_event;
        let unwound = self.events.iter().any(|event| event.kind.starts_with("Compensation"));
        let (kind, previous, details) = match outcome {
            Outcome::Succeeded { output } => ("ExecutionSucceeded", tail, json!({"output": output})),
            Outcome::Failed(failure) => ("ExecutionFailed", tail, failure.details()),
            Outcome::TimedOut(failure) => ("ExecutionTimedOut", if unwound { tail } else { 0 }, failure.details()),
            Outcome::Cancelled { cause } => {
                let details = Failure::new("", cause).details();
                ("ExecutionAborted", if unwound { tail } else { 0 }, details)
            }
        };
        root.tail_event = self.end(previous, kind, "", details);
        root.waiting = Waiting::Ready;
        self.commands.clear();
    }
}

/// Keeps the undos that are at work; answers with the outcome when none is.
fn kept(unwinding: Result<Unwinding, Outcome>, at_work: &mut Option<Box<Unwinding>>) -> Option<Outcome> {
    match unwinding {
        Ok(unwinding) => {
            *at_work = Some(Box::new(unwinding));
            None
        }
        Err(outcome) => Some(outcome),
    }
}

fn ended(progress: Progress) -> Option<Outcome> {
    match progress {
        Progress::Blocked => None,
        Progress::Done(output) => Some(Outcome::Succeeded { output }),
        Progress::Failed(trouble) => Some(Outcome::Failed(trouble.failure)),
    }
}
