//! An execution: its whole state as data, and `advance`, the one way to change it.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    failure::Failure,
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
    TimerFired {
        token: u64,
    },
    /// Stop, after undoing what has an undo.
    Cancel {
        cause: String,
    },
    /// Stop at once.
    Terminate {
        cause: String,
    },
    /// Go on after a failure, from the state that failed and with its input.
    Retry,
}

/// What must happen outside, once the step is on disk.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Call a resource. The token names the attempt: the same again after a crash, another for each retry.
    CallTask { token: u64, resource: String, arguments: Value, timeout_seconds: Option<u32> },
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

/// What stays the same over an execution's life, and its counters.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) workflow: String,
    #[serde(skip)]
    pub(super) input: Value,
    pub(super) started_at: DateTime<Utc>,
    pub(super) seed: u64,
    pub(super) last_event: u64,
    pub(super) last_token: u64,
}

/// An execution at rest between two inputs; as JSON it is what a crash cannot take away.
#[derive(Debug, Serialize, Deserialize)]
pub struct Execution {
    head: Head,
    root: Flow,
    deadline: Option<Timer>,
    outcome: Option<Outcome>,
    /// How long it may take at most, whatever the definition says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_seconds: Option<u32>,
}

/// A timer that is running.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Timer {
    pub(super) token: u64,
    pub(super) due: DateTime<Utc>,
}

/// One thread of control: the root, a branch of a Parallel or an iteration of a Map.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Flow {
    pub(super) state: String,
    pub(super) input: Value,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(super) variables: Map<String, Value>,
    pub(super) entered_at: DateTime<Utc>,
    pub(super) last_event: u64,
    /// Retries so far, per Retrier of the state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) attempts: Vec<u32>,
    /// The iteration that this flow is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) item: Option<Item>,
    pub(super) waiting: Waiting,
}

/// An item of a Map.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) index: usize,
    pub(super) value: Value,
}

/// What a flow waits for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Waiting {
    /// Nothing: its state is about to be entered.
    Ready,
    Task {
        token: u64,
        resource: String,
        arguments: Value,
        timeout_seconds: Option<u32>,
    },
    Timer(Timer),
    Retry(Timer),
    /// For its turn: it has entered many states in a row.
    Pause(Timer),
    Parallel {
        branches: Vec<Flow>,
    },
    Map(Iterations),
    Done {
        output: Value,
    },
}

/// The iterations of a Map at work.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Iterations {
    /// Items; those before `next` have been taken.
    pub(super) items: Vec<Value>,
    pub(super) next: usize,
    pub(super) limit: usize,
    pub(super) running: BTreeMap<usize, Flow>,
    pub(super) results: BTreeMap<usize, Value>,
}

impl Flow {
    pub(super) fn new(state: &str, input: Value, last_event: u64, now: DateTime<Utc>) -> Self {
        Self {
            state: state.to_owned(),
            input,
            variables: Map::new(),
            entered_at: now,
            last_event,
            attempts: Vec::new(),
            item: None,
            waiting: Waiting::Ready,
        }
    }

    fn is_retry(&self, asked: u64) -> bool {
        match &self.waiting {
            Waiting::Retry(timer) => timer.token == asked,
            Waiting::Parallel { branches } => branches.iter().any(|branch| branch.is_retry(asked)),
            Waiting::Map(iterations) => iterations.running.values().any(|flow| flow.is_retry(asked)),
            _ => false,
        }
    }

    fn outstanding(&self, commands: &mut Vec<Command>) {
        match &self.waiting {
            Waiting::Ready | Waiting::Done { .. } => {}
            Waiting::Task { token, resource, arguments, timeout_seconds } => commands.push(Command::CallTask {
                token: *token,
                resource: resource.clone(),
                arguments: arguments.clone(),
                timeout_seconds: *timeout_seconds,
            }),
            Waiting::Timer(timer) | Waiting::Retry(timer) | Waiting::Pause(timer) => {
                commands.push(Command::StartTimer { token: timer.token, due: timer.due });
            }
            Waiting::Parallel { branches } => branches.iter().for_each(|branch| branch.outstanding(commands)),
            Waiting::Map(iterations) => iterations.running.values().for_each(|flow| flow.outstanding(commands)),
        }
    }
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
        let (id, workflow) = (id.to_owned(), workflow.to_owned());
        let head = Head { id, workflow, input, started_at, seed, last_event: 0, last_token: 0 };
        Self { head, root, deadline: None, outcome: None, timeout_seconds: None }
    }

    /// Bounds the time that the execution may take, beside what its definition says.
    #[must_use]
    pub fn within(mut self, timeout_seconds: Option<u32>) -> Self {
        self.timeout_seconds = timeout_seconds;
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
            commands.extend(self.deadline.map(|timer| Command::StartTimer { token: timer.token, due: timer.due }));
            self.root.outstanding(&mut commands);
        }
        commands
    }

    /// Whether a timer is the pause before a retry.
    #[must_use]
    pub fn is_retry(&self, token: u64) -> bool {
        self.root.is_retry(token)
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Takes one input and goes on until everything waits again. An answer that nothing waits for leads to nothing.
    pub fn advance(&mut self, machine: &Machine, input: Input, now: DateTime<Utc>) -> Step {
        let failed = matches!(self.outcome, Some(Outcome::Failed(_) | Outcome::TimedOut(_)));
        if self.outcome.is_some() && !(failed && input == Input::Retry) {
            return Step::default();
        }
        let limit = machine.timeout_seconds.into_iter().chain(self.timeout_seconds).min();
        let mut interpreter = Interpreter::new(&mut self.head, now);
        let outcome = match input {
            Input::Started => {
                let details = json!({"input": interpreter.head.input});
                self.root.last_event = interpreter.emit(0, "ExecutionStarted", "", details);
                self.deadline =
                    limit.map(|seconds| interpreter.start_timer(now + TimeDelta::seconds(i64::from(seconds))));
                ended(interpreter.run(&machine.scope, &mut self.root, None))
            }
            // A failed execution is at the state that failed, with its input and its variables.
            Input::Retry if failed => {
                self.root.last_event = interpreter.emit(self.root.last_event, "ExecutionRedriven", "", json!({}));
                self.deadline =
                    limit.map(|seconds| interpreter.start_timer(now + TimeDelta::seconds(i64::from(seconds))));
                ended(interpreter.run(&machine.scope, &mut self.root, None))
            }
            Input::Cancel { cause } | Input::Terminate { cause } => Some(Outcome::Cancelled { cause }),
            Input::TimerFired { token } if self.deadline.is_some_and(|timer| timer.token == token) => {
                let cause = "the execution took longer than its TimeoutSeconds";
                Some(Outcome::TimedOut(Failure::new(Failure::TIMEOUT, cause)))
            }
            answer => interpreter.deliver(&machine.scope, &mut self.root, None, &answer).and_then(ended),
        };
        if let Some(outcome) = &outcome {
            let (kind, details) = match outcome {
                Outcome::Succeeded { output } => ("ExecutionSucceeded", json!({"output": output})),
                Outcome::Failed(failure) => ("ExecutionFailed", failure.details()),
                Outcome::TimedOut(failure) => ("ExecutionTimedOut", failure.details()),
                Outcome::Cancelled { cause } => ("ExecutionAborted", json!({"cause": cause})),
            };
            self.root.last_event = interpreter.emit(self.root.last_event, kind, "", details);
            // What still waits is let go of.
            self.root.waiting = Waiting::Ready;
            interpreter.commands.clear();
        }
        let Interpreter { events, mut commands, abandoned, .. } = interpreter;
        if abandoned {
            let mut live = Vec::new();
            self.root.outstanding(&mut live);
            commands.retain(|command| live.contains(command));
        }
        self.outcome.clone_from(&outcome);
        Step { events, commands, outcome }
    }
}

fn ended(progress: Progress) -> Option<Outcome> {
    match progress {
        Progress::Blocked => None,
        Progress::Done(output) => Some(Outcome::Succeeded { output }),
        Progress::Failed(failure) => Some(Outcome::Failed(failure)),
    }
}
