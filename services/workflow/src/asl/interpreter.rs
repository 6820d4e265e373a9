//! The interpreter of one input: enters states, evaluates their templates and leaves them.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::{
    execution::{Command, Flow, Head, Input, Item, Timer, Waiting},
    failure::Failure,
    fields::integer,
    history::{self, Event},
    jsonata::{self, Bindings},
    model::{Kind, Retrier, Rule, Scope, Shape, State, Task, Until},
    parse::SECONDS_MAX,
    template::{Template, bounded},
};

/// States entered in a row before the others get their turn; bounds the work of one transaction.
const ENTERED_MAX: u32 = 100;
/// The longest history (the quota of Step Functions).
const EVENTS_MAX: u64 = 25_000;

/// How far a flow came.
pub(super) enum Progress {
    Blocked,
    Done(Value),
    Failed(Failure),
}

/// Where a state led.
pub(super) enum Turn {
    Blocked,
    Next(String, Value),
    End(Value),
    Failed(Failure),
}

/// The variables that a flow sees, from the inside out.
pub(super) struct Frame<'f> {
    pub(super) outer: Option<&'f Frame<'f>>,
    pub(super) variables: &'f Map<String, Value>,
    pub(super) item: Option<&'f Item>,
}

/// What a state is left with.
pub(super) struct Leave<'l> {
    pub(super) shape: &'l Shape,
    pub(super) next: Option<&'l str>,
    /// The output without an Output field.
    pub(super) output: Value,
    pub(super) result: Option<Value>,
    pub(super) error: Option<Value>,
}

/// The interpreter at work.
pub(super) struct Interpreter<'h> {
    pub(super) head: &'h mut Head,
    pub(super) now: DateTime<Utc>,
    pub(super) events: Vec<Event>,
    pub(super) commands: Vec<Command>,
    /// Whether flows were let go of, and their commands with them.
    pub(super) abandoned: bool,
    entered: u32,
}

impl<'h> Interpreter<'h> {
    pub(super) fn new(head: &'h mut Head, now: DateTime<Utc>) -> Self {
        Self { head, now, events: Vec::new(), commands: Vec::new(), abandoned: false, entered: 0 }
    }

    /// Enters states until the flow waits or ends.
    pub(super) fn run(&mut self, scope: &Scope, flow: &mut Flow, outer: Option<&Frame<'_>>) -> Progress {
        loop {
            if self.entered >= ENTERED_MAX {
                flow.waiting = Waiting::Pause(self.start_timer(self.now));
                return Progress::Blocked;
            }
            let Some(state) = scope.states.get(&flow.state) else {
                let cause = format!("there is no state {}", flow.state);
                return Progress::Failed(Failure::new(Failure::RUNTIME, cause));
            };
            self.entered += 1;
            flow.entered_at = self.now;
            flow.attempts = vec![0; state.retry.len()];
            let details = json!({"input": flow.input});
            flow.last_event = self.emit(flow.last_event, history::entered(&state.kind), &state.name, details);
            let turn = self.begin(state, flow, outer);
            if let Some(progress) = follow(turn, flow) {
                return progress;
            }
        }
    }

    /// Hands an answer to the flow that waits for it; `None` when no flow does.
    pub(super) fn deliver(
        &mut self,
        scope: &Scope,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        answer: &Input,
    ) -> Option<Progress> {
        let state = scope.states.get(&flow.state)?;
        let turn = match (&flow.waiting, answer) {
            (Waiting::Task { token: asked, resource, .. }, Input::TaskDone { token, result }) if asked == token => {
                let details = json!({"resource": resource, "output": result});
                flow.last_event = self.emit(flow.last_event, "TaskSucceeded", &state.name, details);
                self.succeed(state, flow, outer, result.clone())
            }
            (Waiting::Task { token: asked, resource, .. }, Input::TaskFailed { token, failure }) if asked == token => {
                let kind = if failure.error == Failure::TIMEOUT { "TaskTimedOut" } else { "TaskFailed" };
                let details = json!({"resource": resource, "error": failure.error, "cause": failure.cause});
                flow.last_event = self.emit(flow.last_event, kind, &state.name, details);
                self.fail(state, flow, outer, failure.clone())
            }
            (Waiting::Timer(timer), Input::TimerFired { token }) if timer.token == *token => {
                let output = flow.input.clone();
                let left = self.leave(state, flow, outer, Leave::normal(state, output, None));
                left.unwrap_or_else(|failure| self.fail(state, flow, outer, failure))
            }
            (Waiting::Retry(timer), Input::TimerFired { token }) if timer.token == *token => {
                self.begin(state, flow, outer)
            }
            (Waiting::Pause(timer), Input::TimerFired { token }) if timer.token == *token => {
                return Some(self.run(scope, flow, outer));
            }
            (Waiting::Parallel { .. } | Waiting::Map(_), _) => self.deliver_inside(state, flow, outer, answer)?,
            _ => return None,
        };
        Some(follow(turn, flow).unwrap_or_else(|| self.run(scope, flow, outer)))
    }

    /// Does what a state is there for; again on each retry.
    fn begin(&mut self, state: &State, flow: &mut Flow, outer: Option<&Frame<'_>>) -> Turn {
        if self.head.last_event >= EVENTS_MAX {
            let cause = format!("the history reached its limit of {EVENTS_MAX} events");
            return Turn::Failed(Failure::new(Failure::RUNTIME, cause));
        }
        self.act(state, flow, outer).unwrap_or_else(|failure| self.fail(state, flow, outer, failure))
    }

    fn act(&mut self, state: &State, flow: &mut Flow, outer: Option<&Frame<'_>>) -> Result<Turn, Failure> {
        match &state.kind {
            Kind::Pass | Kind::Succeed => {
                let output = flow.input.clone();
                self.leave(state, flow, outer, Leave::normal(state, output, None))
            }
            Kind::Fail { error, cause } => {
                let scope = self.scope(flow, outer, None, None);
                let text = |field, template: &Option<Template>| match template.as_ref() {
                    None => Ok(String::new()),
                    Some(template) => match template.evaluate(field, &scope)? {
                        Value::String(text) => Ok(text),
                        other => Err(Failure::field(field, "a string", &other)),
                    },
                };
                Ok(Turn::Failed(Failure::new(text("Error", error)?, text("Cause", cause)?)))
            }
            Kind::Wait(until) => {
                let due = self.due(until, &self.scope(flow, outer, None, None))?;
                flow.waiting = Waiting::Timer(self.start_timer(due));
                Ok(Turn::Blocked)
            }
            Kind::Choice { rules, default } => self.choose(state, flow, outer, rules, default.as_deref()),
            Kind::Task(task) => self.schedule(state, flow, outer, task),
            Kind::Parallel { arguments, branches } => self.fork(state, flow, outer, arguments.as_ref(), branches),
            Kind::Map(map) => self.iterate(state, flow, outer, map),
        }
    }

    fn due(&self, until: &Until, scope: &jsonata::Scope<'_>) -> Result<DateTime<Utc>, Failure> {
        match until {
            Until::Seconds(template) => {
                let value = template.evaluate("Seconds", scope)?;
                let seconds = integer(&value).filter(|seconds| *seconds <= SECONDS_MAX);
                let needs = format!("an integer from 0 to {SECONDS_MAX}");
                let seconds = seconds.ok_or_else(|| Failure::field("Seconds", &needs, &value))?;
                Ok(self.now + TimeDelta::seconds(i64::from(seconds)))
            }
            Until::Timestamp(template) => {
                let value = template.evaluate("Timestamp", scope)?;
                let time = value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
                let time = time.ok_or_else(|| Failure::field("Timestamp", "an RFC 3339 time", &value))?;
                Ok(time.with_timezone(&Utc))
            }
        }
    }

    fn choose(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        rules: &[Rule],
        default: Option<&str>,
    ) -> Result<Turn, Failure> {
        let mut chosen = None;
        {
            let scope = self.scope(flow, outer, None, None);
            for rule in rules {
                match rule.condition.evaluate("Condition", &scope)? {
                    Value::Bool(true) => {
                        chosen = Some((&rule.shape, rule.next.as_str()));
                        break;
                    }
                    Value::Bool(false) => {}
                    other => return Err(Failure::field("Condition", "a boolean", &other)),
                }
            }
        }
        let chosen = chosen.or(default.map(|default| (&state.shape, default)));
        let nothing = || Failure::new(Failure::NO_CHOICE_MATCHED, "no rule matched and there is no Default");
        let (shape, next) = chosen.ok_or_else(nothing)?;
        let output = flow.input.clone();
        self.leave(state, flow, outer, Leave { shape, next: Some(next), output, result: None, error: None })
    }

    fn schedule(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        task: &Task,
    ) -> Result<Turn, Failure> {
        let (arguments, timeout_seconds) = {
            let scope = self.scope(flow, outer, None, None);
            let arguments = match &task.arguments {
                Some(template) => template.evaluate("Arguments", &scope)?,
                None => flow.input.clone(),
            };
            let timeout = task.timeout_seconds.as_ref().map(|template| {
                let value = template.evaluate("TimeoutSeconds", &scope)?;
                let seconds = integer(&value).filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
                let needs = format!("an integer from 1 to {SECONDS_MAX}");
                seconds.ok_or_else(|| Failure::field("TimeoutSeconds", &needs, &value))
            });
            (arguments, timeout.transpose()?)
        };
        let (scheme, rest) = task.resource.split_once(':').unwrap_or(("", &task.resource));
        let mut details = json!({"resourceType": scheme, "resource": rest, "parameters": arguments});
        if let Some(seconds) = timeout_seconds {
            details["timeoutInSeconds"] = json!(seconds);
        }
        flow.last_event = self.emit(flow.last_event, "TaskScheduled", &state.name, details);
        let (token, resource) = (self.token(), task.resource.clone());
        let call = (resource.clone(), arguments.clone());
        self.commands.push(Command::CallTask { token, resource: call.0, arguments: call.1, timeout_seconds });
        flow.waiting = Waiting::Task { token, resource, arguments, timeout_seconds };
        Ok(Turn::Blocked)
    }

    /// Goes on with the result of a Task, a Parallel or a Map.
    pub(super) fn succeed(&mut self, state: &State, flow: &mut Flow, outer: Option<&Frame<'_>>, result: Value) -> Turn {
        let left = bounded("the result", &result)
            .and_then(|()| self.leave(state, flow, outer, Leave::normal(state, result.clone(), Some(result))));
        left.unwrap_or_else(|failure| self.fail(state, flow, outer, failure))
    }

    /// Tries again, catches or gives up.
    pub(super) fn fail(&mut self, state: &State, flow: &mut Flow, outer: Option<&Frame<'_>>, failure: Failure) -> Turn {
        let kind = match state.kind {
            _ if failure.error == Failure::QUERY_EVALUATION_ERROR => Some("EvaluationFailed"),
            Kind::Parallel { .. } => Some("ParallelStateFailed"),
            Kind::Map(_) => Some("MapStateFailed"),
            _ => None,
        };
        if let Some(kind) = kind {
            flow.last_event = self.emit(flow.last_event, kind, &state.name, failure.details());
        }
        self.abandoned |= matches!(state.kind, Kind::Parallel { .. } | Kind::Map(_));
        let mut retriers = state.retry.iter().zip(&mut flow.attempts);
        let retrier = retriers.find(|(retrier, _)| failure.matches(&retrier.error_equals));
        if let Some((retrier, attempts)) = retrier
            && *attempts < retrier.max_attempts
        {
            *attempts += 1;
            let delay = self.delay(retrier, *attempts);
            flow.waiting = Waiting::Retry(self.start_timer(self.now + delay));
            return Turn::Blocked;
        }
        let Some(catcher) = state.catch.iter().find(|catcher| failure.matches(&catcher.error_equals)) else {
            return Turn::Failed(failure);
        };
        let output = failure.output();
        let error = Some(output.clone());
        let leave = Leave { shape: &catcher.shape, next: Some(&catcher.next), output, result: None, error };
        self.leave(state, flow, outer, leave).unwrap_or_else(Turn::Failed)
    }

    /// IntervalSeconds x BackoffRate to the power of the retries before, capped, with or without jitter.
    fn delay(&self, retrier: &Retrier, attempt: u32) -> TimeDelta {
        let power = i32::try_from(attempt - 1).unwrap_or(i32::MAX);
        let most = retrier.max_delay_seconds.unwrap_or(f64::from(SECONDS_MAX));
        let seconds = (retrier.interval_seconds * retrier.backoff_rate.powi(power)).min(most);
        #[expect(clippy::cast_precision_loss, reason = "53 bits of a random number are enough")]
        let part = if retrier.full_jitter { (self.seed() >> 11) as f64 / (1_u64 << 53) as f64 } else { 1.0 };
        #[expect(clippy::cast_possible_truncation, reason = "at most SECONDS_MAX seconds")]
        TimeDelta::milliseconds((seconds * part * 1000.0) as i64)
    }

    /// Evaluates Output and Assign, both with the variables as they were, and leaves the state.
    pub(super) fn leave(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        leave: Leave<'_>,
    ) -> Result<Turn, Failure> {
        let (output, assigned) = {
            let scope = self.scope(flow, outer, leave.result.as_ref(), leave.error.as_ref());
            let output = leave.shape.output.as_ref().map(|template| template.evaluate("Output", &scope)).transpose()?;
            let assigned =
                leave.shape.assign.as_ref().map(|template| template.evaluate("Assign", &scope)).transpose()?;
            (output, assigned)
        };
        let output = output.unwrap_or(leave.output);
        let mut details = json!({"output": output});
        if let Some(Value::Object(assigned)) = assigned {
            details["assignedVariables"] = Value::Object(assigned.clone());
            flow.variables.extend(assigned);
        }
        flow.last_event = self.emit(flow.last_event, history::exited(&state.kind), &state.name, details);
        Ok(match leave.next {
            Some(next) => Turn::Next(next.to_owned(), output),
            None => Turn::End(output),
        })
    }

    /// What expressions of a flow see.
    pub(super) fn scope<'s>(
        &self,
        flow: &'s Flow,
        outer: Option<&'s Frame<'s>>,
        result: Option<&'s Value>,
        error: Option<&'s Value>,
    ) -> jsonata::Scope<'s> {
        self.scope_of_item(flow, outer, flow.item.as_ref(), result, error)
    }

    /// As `scope`, with an item that is not the flow's own.
    pub(super) fn scope_of_item<'s>(
        &self,
        flow: &'s Flow,
        outer: Option<&'s Frame<'s>>,
        item: Option<&'s Item>,
        result: Option<&'s Value>,
        error: Option<&'s Value>,
    ) -> jsonata::Scope<'s> {
        let (seed, now) = (self.seed(), self.now);
        let name = |resource: &str| resource.rsplit('/').next().unwrap_or_default().to_owned();
        let execution = json!({
            "Id": self.head.id,
            "Name": name(&self.head.id),
            "StartTime": self.head.started_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            "Input": self.head.input,
        });
        let machine = json!({"Id": self.head.workflow, "Name": name(&self.head.workflow)});
        let gather = move || {
            let mut context = json!({
                "Execution": execution,
                "StateMachine": machine,
                "State": {
                    "Name": flow.state,
                    "EnteredTime": flow.entered_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
                    "RetryCount": flow.attempts.iter().sum::<u32>(),
                },
            });
            let frame = Frame { outer, variables: &flow.variables, item };
            if let Some(item) = frame.item() {
                context["Map"] = json!({"Item": {"Index": item.index, "Value": item.value}});
            }
            let mut states = json!({"input": flow.input, "context": context});
            if let Some(result) = result {
                states["result"] = result.clone();
            }
            if let Some(error) = error {
                states["errorOutput"] = error.clone();
            }
            frame.bind().var("states", states)
        };
        jsonata::Scope::new(gather, now, seed)
    }

    pub(super) fn emit(&mut self, previous: u64, kind: &'static str, state: &str, details: Value) -> u64 {
        self.head.last_event += 1;
        let id = self.head.last_event;
        self.events.push(Event { id, previous, kind, state: state.to_owned(), details });
        id
    }

    pub(super) fn start_timer(&mut self, due: DateTime<Utc>) -> Timer {
        let token = self.token();
        self.commands.push(Command::StartTimer { token, due });
        Timer { token, due }
    }

    fn token(&mut self) -> u64 {
        self.head.last_token += 1;
        self.head.last_token
    }

    /// A number that looks random and is the same whenever this point is reached again (splitmix64).
    fn seed(&self) -> u64 {
        let mut mixed = self.head.seed.wrapping_add(self.head.last_event.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Frame<'_> {
    fn item(&self) -> Option<&Item> {
        self.item.or_else(|| self.outer.and_then(Frame::item))
    }

    fn bind(&self) -> Bindings {
        let outer = self.outer.map(Frame::bind).unwrap_or_default();
        self.variables.iter().fold(outer, |bindings, (name, value)| bindings.var(name.clone(), value.clone()))
    }
}

impl<'l> Leave<'l> {
    /// Out by Next or End with the state's own Output and Assign.
    pub(super) fn normal(state: &'l State, output: Value, result: Option<Value>) -> Self {
        Self { shape: &state.shape, next: state.next.as_deref(), output, result, error: None }
    }
}

/// Moves the flow to where its state led; `None` when it stands before a state now.
fn follow(turn: Turn, flow: &mut Flow) -> Option<Progress> {
    match turn {
        Turn::Blocked => Some(Progress::Blocked),
        Turn::End(output) => Some(Progress::Done(output)),
        Turn::Failed(failure) => Some(Progress::Failed(failure)),
        Turn::Next(state, output) => {
            flow.state = state;
            flow.input = output;
            flow.waiting = Waiting::Ready;
            None
        }
    }
}
