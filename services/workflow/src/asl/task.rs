//! Tasks: how one is scheduled, and what its answers and its timers lead to.

use chrono::TimeDelta;
use serde_json::{Map, Value, json};

use super::{
    execution::Input,
    failure::{Failure, Nature, Trouble},
    fields::integer,
    flow::{Call, Flow, Waiting},
    interpreter::{Interpreter, Turn},
    model::{Field, State, Task},
    output::Leave,
    parse::SECONDS_MAX,
    resource::{Resource, Told},
    scope::{Frame, Scope},
    template::bounded,
};

impl Interpreter<'_> {
    pub(super) fn schedule(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        task: &Task,
    ) -> Result<Turn, Trouble> {
        let token = self.token();
        let resource = Resource::of(&task.resource);
        let (arguments, timeout_seconds, heartbeat_seconds, credentials) = {
            let root = self.effective(state, flow, outer)?;
            let mut scope = self.scope(flow, outer, root);
            scope.view.token = resource.waits_for_token().then_some(token);
            let arguments = match &state.shape.arguments {
                Some(template) => template.evaluate(state.argument_field(), &scope)?,
                None => scope.view.root.clone().into_owned(),
            };
            let credentials =
                task.credentials.as_ref().map(|template| template.evaluate("Credentials", &scope)).transpose()?;
            (arguments, seconds(&task.timeout_seconds, &scope)?, seconds(&task.heartbeat_seconds, &scope)?, credentials)
        };
        bounded(&state.name, &arguments)?;
        let mut details = resource.scheduled(&arguments, timeout_seconds, heartbeat_seconds);
        if let Some(role) = credentials.as_ref().and_then(|credentials| credentials.get("RoleArn")) {
            details["taskCredentials"] = json!({"roleArn": role});
        }
        self.publish(flow, resource.event(Told::Scheduled), &state.name, details);
        let call = Call {
            token,
            resource: task.resource.clone(),
            arguments,
            timeout_seconds,
            heartbeat_seconds,
            timeout: None,
            heartbeat: None,
            started: false,
        };
        self.commands.push(call.command(&state.name));
        let after = |seconds: u32| TimeDelta::seconds(i64::from(seconds));
        let timeout = timeout_seconds.map(|seconds| self.start_timer(self.now + after(seconds)));
        let heartbeat = heartbeat_seconds.map(|seconds| self.start_timer(self.now + after(seconds)));
        flow.waiting = Waiting::Task(Call { timeout, heartbeat, ..call });
        Ok(Turn::Blocked)
    }

    /// Tells that the tasks which were scheduled have started. Step Functions schedules what runs side by side before it
    /// starts any of it.
    pub(super) fn tell_of_starts(&mut self, flow: &mut Flow) {
        if let Waiting::Task(call) = &mut flow.waiting {
            if !call.started && !call.kind().starts_late() {
                self.tell_of_start(flow);
            }
            return;
        }
        for inner in flow.inner_mut() {
            self.tell_of_starts(inner);
        }
    }

    fn tell_of_start(&mut self, flow: &mut Flow) {
        let Waiting::Task(call) = &mut flow.waiting else { return };
        if std::mem::replace(&mut call.started, true) {
            return;
        }
        let resource = call.resource.clone();
        let resource = Resource::of(&resource);
        let state = flow.state.clone();
        self.publish(flow, resource.event(Told::Started), &state, Value::Object(resource.details()));
        if resource.is_submitted() {
            self.publish(flow, "TaskSubmitted", &state, Value::Object(resource.details()));
        }
    }

    /// Takes what came for a task; `None` when it was for another one.
    pub(super) fn answer(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        answer: &Input,
    ) -> Option<Turn> {
        let Waiting::Task(call) = &mut flow.waiting else { return None };
        let resource = call.resource.clone();
        let resource = Resource::of(&resource);
        let trouble = match answer {
            Input::TaskDone { token, result } if *token == call.token => {
                self.tell_of_start(flow);
                match bounded(resource.name(), result) {
                    Ok(()) => {
                        let mut details = resource.details();
                        details.insert("output".to_owned(), result.clone());
                        self.publish(flow, resource.event(Told::Succeeded), &state.name, Value::Object(details));
                        return Some(self.succeed(state, flow, outer, result.clone()));
                    }
                    Err(failure) => failure.into(),
                }
            }
            Input::TaskFailed { token, failure } if *token == call.token => {
                self.tell_of_start(flow);
                failure.clone().into()
            }
            Input::TaskHeartbeat { token } if *token == call.token => {
                let seconds = call.heartbeat_seconds?;
                let timer = self.start_timer(self.now + TimeDelta::seconds(i64::from(seconds)));
                call.heartbeat = Some(timer);
                self.tell_of_start(flow);
                return Some(Turn::Blocked);
            }
            Input::TimerFired { token } if call.timeout.is_some_and(|timer| timer.token == *token) => {
                Failure::new(Failure::TIMEOUT, "").into()
            }
            Input::TimerFired { token } if call.heartbeat.is_some_and(|timer| timer.token == *token) => {
                Trouble { failure: Failure::new(Failure::TIMEOUT, ""), nature: Nature::Heartbeat }
            }
            _ => return None,
        };
        let error = trouble.failure.error.as_str();
        let timed_out = error == Failure::TIMEOUT || error == Failure::HEARTBEAT_TIMEOUT;
        let told = if timed_out { Told::TimedOut } else { Told::Failed };
        let mut details: Map<String, Value> = resource.details();
        trouble.failure.describe(&mut details);
        self.publish(flow, resource.event(told), &state.name, Value::Object(details));
        self.abandoned = true;
        Some(self.fail(state, flow, outer, trouble))
    }

    /// Goes on with the result of a Task, a Parallel or a Map.
    pub(super) fn succeed(&mut self, state: &State, flow: &mut Flow, outer: Option<&Frame<'_>>, result: Value) -> Turn {
        flow.waiting = Waiting::Ready;
        let left = self.leave(state, flow, outer, Leave::normal(state, result));
        left.unwrap_or_else(|trouble| self.fail(state, flow, outer, trouble))
    }
}

fn seconds(field: &Option<Field>, scope: &Scope<'_>) -> Result<Option<u32>, Trouble> {
    let Some(field) = field else { return Ok(None) };
    let value = field.evaluate(scope)?;
    match integer(&value).filter(|seconds| (1..=SECONDS_MAX).contains(seconds)) {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(field.wrong("number", &json!(value))),
    }
}
