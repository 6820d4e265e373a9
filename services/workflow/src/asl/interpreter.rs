//! The interpreter of one input: enters states, lets them act, retries, catches and leaves them.

use std::borrow::Cow;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::{
    choice::timestamp,
    execution::{Command, Input},
    failure::{Failure, Nature, Trouble},
    fields::integer,
    flow::{Flow, Head, Item, Retry, Timer, Waiting},
    history::{self, Event},
    model::{Field, Kind, Pick, Retrier, Rule, Scope as States, State, Until},
    output::Leave,
    parse::SECONDS_MAX,
    scope::{Frame, Scope, View},
};

/// States entered in a row before the others get their turn; bounds the work of one transaction.
const ENTERED_MAX: u32 = 100;
/// The longest history (the quota of Step Functions).
pub(super) const EVENTS_MAX: u64 = 25_000;

/// How far a flow came.
pub(super) enum Progress {
    Blocked,
    Done(Value),
    Failed(Trouble),
}

/// Where a state led.
pub(super) enum Turn {
    Blocked,
    Next(String, Value),
    End(Value),
    Failed(Trouble),
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
        let (events, commands) = (Vec::new(), Vec::new());
        Self { head, now, events, commands, abandoned: false, entered: 0 }
    }

    /// Enters states until the flow waits or ends.
    pub(super) fn run(&mut self, states: &States, flow: &mut Flow, outer: Option<&Frame<'_>>) -> Progress {
        loop {
            if let Some(trouble) = self.full() {
                return Progress::Failed(trouble);
            }
            if self.entered >= ENTERED_MAX {
                flow.waiting = Waiting::Pause(self.start_timer(self.now));
                return Progress::Blocked;
            }
            let Some(state) = states.states.get(&flow.state) else {
                return Progress::Failed(Trouble::fatal(format!("there is no state {}", flow.state)));
            };
            self.entered += 1;
            flow.entered_at = self.now;
            flow.attempts = vec![0; state.retry.len()];
            flow.retries = state.is_tried().then_some(0);
            let details = json!({"input": flow.input});
            self.publish(flow, history::entered(&state.kind), &state.name, details);
            flow.entered = flow.last_event;
            let turn = self.begin(state, flow, outer);
            if let Some(progress) = follow(turn, flow) {
                return progress;
            }
        }
    }

    /// Hands an answer to the flow that waits for it; `None` when no flow does.
    pub(super) fn deliver(
        &mut self,
        states: &States,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        answer: &Input,
    ) -> Option<Progress> {
        let state = states.states.get(&flow.state)?;
        let turn = match (&flow.waiting, answer) {
            (Waiting::Task(_), _) => self.answer(state, flow, outer, answer)?,
            (Waiting::Timer(timer), Input::TimerFired { token }) if timer.token == *token => {
                let left = self.pass_on(state, flow, outer);
                left.unwrap_or_else(|trouble| self.fail(state, flow, outer, trouble))
            }
            (Waiting::Retry(retry), Input::TimerFired { token }) if retry.token == *token => {
                self.begin(state, flow, outer)
            }
            (Waiting::Pause(timer), Input::TimerFired { token }) if timer.token == *token => {
                return Some(self.run(states, flow, outer));
            }
            (Waiting::Parallel { .. } | Waiting::Map(_) | Waiting::Items(_), _) => {
                self.deliver_inside(state, flow, outer, answer)?
            }
            _ => return None,
        };
        Some(match follow(turn, flow) {
            Some(progress) => progress,
            None => self.run(states, flow, outer),
        })
    }

    /// Does what the state does, for the first time or again.
    fn begin(&mut self, state: &State, flow: &mut Flow, outer: Option<&Frame<'_>>) -> Turn {
        flow.waiting = Waiting::Ready;
        if let Some(trouble) = self.full() {
            return Turn::Failed(trouble);
        }
        self.act(state, flow, outer).unwrap_or_else(|trouble| self.fail(state, flow, outer, trouble))
    }

    fn act(&mut self, state: &State, flow: &mut Flow, outer: Option<&Frame<'_>>) -> Result<Turn, Trouble> {
        match &state.kind {
            Kind::Pass { result: Some(result) } => self.leave(state, flow, outer, Leave::normal(state, result.clone())),
            Kind::Pass { result: None } | Kind::Succeed => self.pass_on(state, flow, outer),
            Kind::Fail { error, cause } => {
                let scope = self.scope(flow, outer, Cow::Borrowed(&flow.input));
                let text = |field: &Option<Field>| match field.as_ref() {
                    None => Ok(String::new()),
                    Some(field) => match field.evaluate(&scope)? {
                        Value::String(text) => Ok(text),
                        other => Err(field.wrong("string", &other)),
                    },
                };
                Ok(Turn::Failed(Failure::new(text(error)?, text(cause)?).into()))
            }
            Kind::Wait(until) => {
                let due = {
                    let root = self.effective(state, flow, outer)?;
                    self.due(until, &self.scope(flow, outer, root))?
                };
                flow.waiting = Waiting::Timer(self.start_timer(due));
                Ok(Turn::Blocked)
            }
            Kind::Choice { rules, default } => self.choose(state, flow, outer, rules, default.as_deref()),
            Kind::Task(task) => self.schedule(state, flow, outer, task),
            Kind::Parallel { branches } => self.fork(state, flow, outer, branches),
            Kind::Map(map) => self.iterate(state, flow, outer, map),
        }
    }

    /// Leaves a state that makes nothing of its input but what its fields say.
    fn pass_on(&mut self, state: &State, flow: &mut Flow, outer: Option<&Frame<'_>>) -> Result<Turn, Trouble> {
        let result = {
            let root = self.effective(state, flow, outer)?;
            match &state.shape.arguments {
                None => root.into_owned(),
                Some(template) => template.evaluate("Parameters", &self.scope(flow, outer, root))?,
            }
        };
        self.leave(state, flow, outer, Leave::normal(state, result))
    }

    fn due(&self, until: &Until, scope: &Scope<'_>) -> Result<DateTime<Utc>, Trouble> {
        match until {
            Until::Seconds(field) => {
                let value = field.evaluate(scope)?;
                let seconds = integer(&value).filter(|seconds| *seconds <= SECONDS_MAX);
                let seconds = seconds.ok_or_else(|| field.wrong("number", &value))?;
                Ok(self.now + TimeDelta::seconds(i64::from(seconds)))
            }
            Until::Timestamp(field) => {
                let value = field.evaluate(scope)?;
                let time = timestamp(&value).ok_or_else(|| field.wrong("string", &value))?;
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
    ) -> Result<Turn, Trouble> {
        let mut chosen = None;
        let input = {
            let root = self.effective(state, flow, outer)?;
            let scope = self.scope(flow, outer, root);
            for (index, rule) in rules.iter().enumerate() {
                if rule.test.holds(&scope, &format!("Choices[{index}]/Condition"))? {
                    chosen = Some((index, rule));
                    break;
                }
            }
            scope.view.root.into_owned()
        };
        let leave = match (chosen, default) {
            (Some((index, rule)), _) => Leave {
                next: Some(&rule.next),
                output: rule.output.as_ref(),
                assign: rule.assign.as_ref(),
                prefix: format!("Choices[{index}]/"),
                ..Leave::normal(state, input)
            },
            (None, Some(default)) => Leave { next: Some(default), ..Leave::normal(state, input) },
            (None, None) => {
                let cause = "Failed to transition out of the state. The state does not point to a next state.";
                return Err(Trouble::fatal(cause));
            }
        };
        self.leave(state, flow, outer, leave)
    }

    /// Tries again, catches or gives up.
    pub(super) fn fail(&mut self, state: &State, flow: &mut Flow, outer: Option<&Frame<'_>>, trouble: Trouble) -> Turn {
        flow.waiting = Waiting::Ready;
        let trouble = self.describe(state, flow, trouble);
        if trouble.is_fatal() {
            return Turn::Failed(trouble);
        }
        let mut retriers = state.retry.iter().zip(&mut flow.attempts);
        let retrier = retriers.find(|(retrier, _)| trouble.matches(&retrier.error_equals));
        if let Some((retrier, attempts)) = retrier
            && *attempts < retrier.max_attempts
        {
            *attempts += 1;
            let pushback = trouble.failure.pushback.unwrap_or_default();
            let delay = self.delay(retrier, *attempts, pushback.after_ms);
            flow.retries = flow.retries.map(|retries| retries + 1);
            let Timer { token, due } = self.start_timer(self.now + delay);
            flow.waiting = Waiting::Retry(Retry { token, due, limited_by: pushback.limited_by });
            return Turn::Blocked;
        }
        let before = (flow.last_event, flow.tail_event);
        self.tell_of_failure(state, flow);
        let mut catchers = state.catch.iter().enumerate();
        let Some((index, catcher)) = catchers.find(|(_, catcher)| trouble.matches(&catcher.error_equals)) else {
            return Turn::Failed(trouble);
        };
        let leave = Leave::caught(index, catcher, trouble.failure.output());
        self.leave(state, flow, outer, leave).unwrap_or_else(|trouble| {
            // Step Functions goes on from where it stood before the state had failed.
            (flow.last_event, flow.tail_event) = before;
            let trouble = self.describe(state, flow, trouble);
            if !trouble.is_fatal() {
                self.tell_of_failure(state, flow);
            }
            Turn::Failed(trouble)
        })
    }

    /// Names the state in the cause; an expression's failure has an event of its own.
    pub(super) fn describe(&mut self, state: &State, flow: &mut Flow, trouble: Trouble) -> Trouble {
        let mut trouble = trouble.in_state(&state.name, flow.entered);
        if let Nature::Evaluation { location } = &trouble.nature {
            let mut details = Map::new();
            trouble.failure.describe(&mut details);
            details.insert("location".to_owned(), json!(location));
            self.publish(flow, "EvaluationFailed", &state.name, Value::Object(details));
        }
        if matches!(trouble.nature, Nature::Evaluation { .. } | Nature::Broken) {
            trouble.nature = Nature::Reported;
        }
        trouble
    }

    fn tell_of_failure(&mut self, state: &State, flow: &mut Flow) {
        match state.kind {
            Kind::Parallel { .. } => self.publish(flow, "ParallelStateFailed", &state.name, json!({})),
            Kind::Map(_) => self.publish(flow, "MapStateFailed", &state.name, json!({})),
            _ => {}
        }
    }

    /// IntervalSeconds x BackoffRate to the power of the retries before, with or without jitter, and not before who failed
    /// wants to be asked again; capped. With jitter the wish comes first, so that not all come back at the same moment.
    fn delay(&self, retrier: &Retrier, attempt: u32, after_ms: u64) -> TimeDelta {
        let power = i32::try_from(attempt - 1).unwrap_or(i32::MAX);
        let most = retrier.max_delay_seconds.unwrap_or(f64::from(SECONDS_MAX));
        let seconds = (retrier.interval_seconds * retrier.backoff_rate.powi(power)).min(most);
        let number = super::intrinsic::mix(self.head.seed ^ self.head.last_event.rotate_left(17));
        #[expect(clippy::cast_precision_loss, reason = "53 bits of a random number are enough")]
        let part = if retrier.full_jitter { (number >> 11) as f64 / (1_u64 << 53) as f64 } else { 1.0 };
        #[expect(clippy::cast_precision_loss, reason = "what is longer than the cap is capped")]
        let after = after_ms as f64 / 1000.0;
        let seconds = if retrier.full_jitter { after + seconds * part } else { seconds.max(after) };
        #[expect(clippy::cast_possible_truncation, reason = "at most SECONDS_MAX seconds")]
        TimeDelta::milliseconds((seconds.min(most) * 1000.0) as i64)
    }

    /// The input behind InputPath.
    pub(super) fn effective<'s>(
        &'s self,
        state: &State,
        flow: &'s Flow,
        outer: Option<&'s Frame<'s>>,
    ) -> Result<Cow<'s, Value>, Trouble> {
        match &state.shape.input_path {
            Pick::Whole => Ok(Cow::Borrowed(&flow.input)),
            Pick::Nothing => Ok(Cow::Owned(json!({}))),
            Pick::At(query) => {
                let scope = self.scope(flow, outer, Cow::Borrowed(&flow.input));
                Ok(Cow::Owned(query.evaluate("InputPath", &scope)?.into_owned()))
            }
        }
    }

    /// What expressions of a flow see; `root` is `$`.
    pub(super) fn scope<'s>(&'s self, flow: &'s Flow, outer: Option<&'s Frame<'s>>, root: Cow<'s, Value>) -> Scope<'s> {
        self.scope_of_item(flow, outer, flow.item.as_ref(), root)
    }

    /// As `scope`, with an item that is not the flow's own.
    pub(super) fn scope_of_item<'s>(
        &'s self,
        flow: &'s Flow,
        outer: Option<&'s Frame<'s>>,
        item: Option<&'s Item>,
        root: Cow<'s, Value>,
    ) -> Scope<'s> {
        let (head, now) = (&*self.head, self.now);
        Scope::new(View { head, now, flow, outer, item, root, result: None, error: None, token: None })
    }

    /// An event of the flow, which the next one follows.
    pub(super) fn publish(&mut self, flow: &mut Flow, kind: &'static str, state: &str, details: Value) {
        let id = self.record(flow.quiet, flow.last_event, kind, state, details);
        flow.last_event = id;
        flow.tail_event = id;
    }

    /// An event that the flow's next one does not follow; what ends the execution does.
    pub(super) fn aside(&mut self, flow: &mut Flow, kind: &'static str, state: &str, details: Value) {
        flow.tail_event = self.record(flow.quiet, flow.tail_event, kind, state, details);
    }

    /// As `aside`, and it follows what the flow's next event will follow too.
    pub(super) fn beside(&mut self, flow: &mut Flow, kind: &'static str, state: &str, details: Value) {
        flow.tail_event = self.record(flow.quiet, flow.last_event, kind, state, details);
    }

    /// Adds an event to the history and answers with its id.
    pub(super) fn record(
        &mut self,
        quiet: bool,
        previous: u64,
        kind: &'static str,
        state: &str,
        details: Value,
    ) -> u64 {
        if quiet {
            // The items of a distributed Map have histories of their own, which nobody keeps.
            return previous + 1;
        }
        if self.is_full() {
            return previous;
        }
        self.end(previous, kind, state, details)
    }

    /// Whether the history has no room but for its last event.
    fn is_full(&self) -> bool {
        self.head.last_event + 1 >= self.most()
    }

    fn most(&self) -> u64 {
        self.head.events_max.map_or(EVENTS_MAX, |most| most.min(EVENTS_MAX))
    }

    fn full(&self) -> Option<Trouble> {
        let cause = || format!("The execution reached the maximum number of history events ({}).", self.most());
        let trouble = || Trouble { failure: Failure::new(Failure::RUNTIME, cause()), nature: Nature::Over };
        self.is_full().then(trouble)
    }

    /// Adds the last event, for which there is always room.
    pub(super) fn end(&mut self, previous: u64, kind: &'static str, state: &str, details: Value) -> u64 {
        self.head.last_event += 1;
        let id = self.head.last_event;
        self.events.push(Event { id, previous, kind, state: state.to_owned(), details });
        id
    }

    pub(super) fn start_timer(&mut self, due: DateTime<Utc>) -> Timer {
        let timer = Timer { token: self.token(), due };
        self.commands.push(timer.command());
        timer
    }

    pub(super) fn token(&mut self) -> u64 {
        self.head.last_token += 1;
        self.head.last_token
    }
}

/// Moves the flow to where its state led; `None` when it stands before a state now.
fn follow(turn: Turn, flow: &mut Flow) -> Option<Progress> {
    match turn {
        Turn::Blocked => Some(Progress::Blocked),
        Turn::End(output) => Some(Progress::Done(output)),
        Turn::Failed(trouble) => Some(Progress::Failed(trouble)),
        Turn::Next(state, output) => {
            flow.state = state;
            flow.input = output;
            flow.waiting = Waiting::Ready;
            None
        }
    }
}
