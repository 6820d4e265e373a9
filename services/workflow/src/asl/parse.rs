//! Turns JSON into a validated definition, or into the list of everything that is wrong with it.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde_json::Value;

pub use super::fields::Fault;
use super::{
    check,
    failure::Failure,
    fields::{Fields, escape, integer},
    model::{Catcher, Kind, Machine, Map, Retrier, Rule, Scope, Shape, State, Task, Until},
};

/// The longest name of a state (the States Language).
const NAME_MAX_CHARS: usize = 80;
/// The longest wait and the longest timeout, in seconds (the States Language).
pub(super) const SECONDS_MAX: u32 = 99_999_999;

/// Checks a Task: its Resource and, if there are any, its Arguments. Each fault has a pointer below the state.
pub type CheckTask<'a> = &'a dyn Fn(&str, Option<&Value>) -> Vec<Fault>;

/// Parses and validates a definition.
///
/// # Errors
/// Every fault that was found, in the order of the definition.
pub fn parse(definition: &Value, check_task: CheckTask<'_>) -> Result<Machine, Vec<Fault>> {
    let mut parser = Parser { faults: Vec::new(), check_task };
    let machine = parser.machine(definition);
    if let Some(machine) = &machine {
        check::machine(machine, &mut parser.faults);
    }
    match machine {
        Some(machine) if parser.faults.is_empty() => Ok(machine),
        _ => Err(parser.faults),
    }
}

struct Parser<'c> {
    faults: Vec<Fault>,
    check_task: CheckTask<'c>,
}

impl Parser<'_> {
    fn machine(&mut self, definition: &Value) -> Option<Machine> {
        let mut fields = Fields::of(definition, String::new(), &mut self.faults)?;
        fields.text("Comment", &mut self.faults);
        fields.text("Version", &mut self.faults);
        self.query_language(&mut fields);
        let timeout_seconds = fields.integer("TimeoutSeconds", (1, SECONDS_MAX), &mut self.faults);
        let scope = self.scope(&mut fields);
        fields.finish("a state machine", &mut self.faults);
        Some(Machine { scope: scope?, timeout_seconds })
    }

    fn query_language(&mut self, fields: &mut Fields<'_>) {
        match fields.text("QueryLanguage", &mut self.faults) {
            None | Some("JSONata") => {}
            Some("JSONPath") => fields.fault("QueryLanguage", "JSONPath arrives later; use JSONata", &mut self.faults),
            Some(_) => fields.fault("QueryLanguage", "must be JSONata", &mut self.faults),
        }
    }

    fn scope(&mut self, fields: &mut Fields<'_>) -> Option<Scope> {
        let start_at = fields.required_text("StartAt", &mut self.faults);
        let pointer = fields.at("States");
        let Some(value) = fields.get("States") else {
            self.faults.push(Fault { pointer: fields.pointer.clone(), reason: "States is missing".to_owned() });
            return None;
        };
        let Some(object) = value.as_object().filter(|states| !states.is_empty()) else {
            fields.fault("States", "must be an object with at least one state", &mut self.faults);
            return None;
        };
        let mut states = BTreeMap::new();
        for (name, value) in object {
            let pointer = format!("{pointer}/{}", escape(name));
            if name.is_empty() || name.chars().count() > NAME_MAX_CHARS {
                let reason = format!("the name of a state has 1 to {NAME_MAX_CHARS} characters");
                self.faults.push(Fault { pointer: pointer.clone(), reason });
            }
            if let Some(state) = self.state(name, value, pointer) {
                states.insert(name.clone(), state);
            }
        }
        // Transitions to a state that is there but faulty are not faults of their own.
        if states.len() < object.len() {
            return None;
        }
        Some(Scope { start_at: start_at?.to_owned(), states })
    }

    fn state(&mut self, name: &str, value: &Value, pointer: String) -> Option<State> {
        let mut fields = Fields::of(value, pointer, &mut self.faults)?;
        let kind_name = fields.required_text("Type", &mut self.faults)?;
        fields.text("Comment", &mut self.faults);
        self.query_language(&mut fields);
        let Some(kind) = self.kind(kind_name, &mut fields) else {
            const TYPES: &str = "Pass, Choice, Wait, Task, Parallel, Map, Succeed, Fail";
            if !TYPES.split(", ").any(|known| known == kind_name) {
                fields.fault("Type", format!("unknown type {kind_name}; known are {TYPES}"), &mut self.faults);
            }
            return None;
        };
        let moves = !matches!(kind, Kind::Succeed | Kind::Fail { .. } | Kind::Choice { .. });
        let next = if moves { self.transition(&mut fields) } else { None };
        let shape = match kind {
            Kind::Fail { .. } => Shape::default(),
            Kind::Succeed => Shape { output: fields.template("Output", &mut self.faults), assign: None },
            _ => self.shape(&mut fields),
        };
        let tries = matches!(kind, Kind::Task(_) | Kind::Parallel { .. } | Kind::Map(_));
        let retry = if tries { self.retriers(&mut fields) } else { Vec::new() };
        let catch = if tries { self.catchers(&mut fields) } else { Vec::new() };
        fields.finish(&format!("a {kind_name} state"), &mut self.faults);
        Some(State { name: name.to_owned(), kind, next, shape, retry, catch })
    }

    fn kind(&mut self, name: &str, fields: &mut Fields<'_>) -> Option<Kind> {
        match name {
            "Pass" => Some(Kind::Pass),
            "Succeed" => Some(Kind::Succeed),
            "Fail" => {
                let error = fields.checked_template("Error", "a string", Value::is_string, &mut self.faults);
                let cause = fields.checked_template("Cause", "a string", Value::is_string, &mut self.faults);
                Some(Kind::Fail { error, cause })
            }
            "Wait" => self.wait(fields),
            "Choice" => self.choice(fields),
            "Task" => self.task(fields),
            "Parallel" => self.parallel(fields),
            "Map" => self.map(fields),
            _ => None,
        }
    }

    fn transition(&mut self, fields: &mut Fields<'_>) -> Option<String> {
        let next = fields.text("Next", &mut self.faults);
        let end = fields.flag("End", &mut self.faults);
        let reason = match (next, end) {
            (Some(_), true) => "Next and End exclude each other",
            (None, false) if fields.get("Next").is_none() => "Next or End is missing",
            _ => return next.map(str::to_owned),
        };
        self.faults.push(Fault { pointer: fields.pointer.clone(), reason: reason.to_owned() });
        None
    }

    fn shape(&mut self, fields: &mut Fields<'_>) -> Shape {
        let output = fields.template("Output", &mut self.faults);
        let assign = fields.template("Assign", &mut self.faults);
        match fields.get("Assign") {
            None => {}
            Some(Value::Object(variables)) => {
                for name in variables.keys().filter(|name| !is_variable(name)) {
                    let pointer = format!("{}/{}", fields.at("Assign"), escape(name));
                    let reason = format!("{name} is not a name for a variable");
                    self.faults.push(Fault { pointer, reason });
                }
            }
            Some(_) => fields.fault("Assign", "must be an object", &mut self.faults),
        }
        Shape { output, assign }
    }

    fn wait(&mut self, fields: &mut Fields<'_>) -> Option<Kind> {
        let is_seconds = |value: &Value| integer(value).is_some_and(|seconds| seconds <= SECONDS_MAX);
        let is_time = |value: &Value| value.as_str().is_some_and(|text| DateTime::parse_from_rfc3339(text).is_ok());
        let needs = format!("an integer from 0 to {SECONDS_MAX}");
        let seconds = fields.checked_template("Seconds", &needs, is_seconds, &mut self.faults);
        let timestamp = fields.checked_template("Timestamp", "an RFC 3339 time", is_time, &mut self.faults);
        match (seconds, timestamp) {
            (Some(seconds), None) => Some(Kind::Wait(Until::Seconds(seconds))),
            (None, Some(timestamp)) => Some(Kind::Wait(Until::Timestamp(timestamp))),
            _ => {
                let reason = "needs either Seconds or Timestamp".to_owned();
                self.faults.push(Fault { pointer: fields.pointer.clone(), reason });
                None
            }
        }
    }

    fn choice(&mut self, fields: &mut Fields<'_>) -> Option<Kind> {
        if fields.get("Choices").is_none() {
            let reason = "Choices is missing".to_owned();
            self.faults.push(Fault { pointer: fields.pointer.clone(), reason });
        }
        let pointer = fields.at("Choices");
        let values = fields.list("Choices", &mut self.faults);
        let mut rules = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let Some(mut rule) = Fields::of(value, format!("{pointer}/{index}"), &mut self.faults) else { continue };
            rule.text("Comment", &mut self.faults);
            let next = rule.required_text("Next", &mut self.faults);
            if rule.get("Condition").is_none() {
                let reason = "Condition is missing".to_owned();
                self.faults.push(Fault { pointer: rule.pointer.clone(), reason });
            }
            let condition = rule.checked_template("Condition", "a boolean", Value::is_boolean, &mut self.faults);
            let shape = self.shape(&mut rule);
            rule.finish("a choice rule", &mut self.faults);
            if let (Some(condition), Some(next)) = (condition, next) {
                rules.push(Rule { condition, next: next.to_owned(), shape });
            }
        }
        let default = fields.text("Default", &mut self.faults).map(str::to_owned);
        (rules.len() == values.len()).then_some(Kind::Choice { rules, default })
    }

    fn task(&mut self, fields: &mut Fields<'_>) -> Option<Kind> {
        let resource = fields.required_text("Resource", &mut self.faults)?;
        let arguments = fields.template("Arguments", &mut self.faults);
        let is_timeout = |value: &Value| integer(value).is_some_and(|seconds| (1..=SECONDS_MAX).contains(&seconds));
        let needs = format!("an integer from 1 to {SECONDS_MAX}");
        let timeout_seconds = fields.checked_template("TimeoutSeconds", &needs, is_timeout, &mut self.faults);
        for fault in (self.check_task)(resource, fields.get("Arguments")) {
            let pointer = format!("{}{}", fields.pointer, fault.pointer);
            self.faults.push(Fault { pointer, reason: fault.reason });
        }
        Some(Kind::Task(Task { resource: resource.to_owned(), arguments, timeout_seconds }))
    }

    fn parallel(&mut self, fields: &mut Fields<'_>) -> Option<Kind> {
        if fields.get("Branches").is_none() {
            let reason = "Branches is missing".to_owned();
            self.faults.push(Fault { pointer: fields.pointer.clone(), reason });
        }
        let pointer = fields.at("Branches");
        let values = fields.list("Branches", &mut self.faults);
        let mut branches = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let Some(mut branch) = Fields::of(value, format!("{pointer}/{index}"), &mut self.faults) else { continue };
            branch.text("Comment", &mut self.faults);
            branches.extend(self.scope(&mut branch));
            branch.finish("a branch", &mut self.faults);
        }
        let arguments = fields.template("Arguments", &mut self.faults);
        (branches.len() == values.len()).then_some(Kind::Parallel { arguments, branches })
    }

    fn map(&mut self, fields: &mut Fields<'_>) -> Option<Kind> {
        let items = fields.checked_template("Items", "an array", Value::is_array, &mut self.faults);
        let item_selector = fields.template("ItemSelector", &mut self.faults);
        let is_count = |value: &Value| integer(value).is_some();
        let max_concurrency = fields.checked_template("MaxConcurrency", "an integer", is_count, &mut self.faults);
        let pointer = fields.at("ItemProcessor");
        let Some(value) = fields.get("ItemProcessor") else {
            let reason = "ItemProcessor is missing".to_owned();
            self.faults.push(Fault { pointer: fields.pointer.clone(), reason });
            return None;
        };
        let mut processor = Fields::of(value, pointer, &mut self.faults)?;
        processor.text("Comment", &mut self.faults);
        if let Some(config) = processor.get("ProcessorConfig") {
            let mut config = Fields::of(config, processor.at("ProcessorConfig"), &mut self.faults)?;
            if config.text("Mode", &mut self.faults).is_some_and(|mode| mode != "INLINE") {
                config.fault("Mode", "must be INLINE; others arrive later", &mut self.faults);
            }
            config.finish("a processor config", &mut self.faults);
        }
        let scope = self.scope(&mut processor);
        processor.finish("an item processor", &mut self.faults);
        Some(Kind::Map(Map { items, item_selector, processor: scope?, max_concurrency }))
    }

    fn retriers(&mut self, fields: &mut Fields<'_>) -> Vec<Retrier> {
        let pointer = fields.at("Retry");
        let values = fields.list("Retry", &mut self.faults);
        let mut retriers = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let Some(mut entry) = Fields::of(value, format!("{pointer}/{index}"), &mut self.faults) else { continue };
            entry.text("Comment", &mut self.faults);
            let error_equals = self.error_equals(&mut entry, index + 1 == values.len());
            let seconds = f64::from(SECONDS_MAX);
            let interval_seconds = entry.number("IntervalSeconds", 1.0, (1.0, seconds), &mut self.faults);
            let max_attempts = entry.integer("MaxAttempts", (0, SECONDS_MAX), &mut self.faults).unwrap_or(3);
            let backoff_rate = entry.number("BackoffRate", 2.0, (1.0, 1000.0), &mut self.faults);
            let max_delay = entry.number("MaxDelaySeconds", seconds, (1.0, 31_622_400.0), &mut self.faults);
            let max_delay_seconds = entry.get("MaxDelaySeconds").map(|_| max_delay);
            let jitter = entry.text("JitterStrategy", &mut self.faults);
            if jitter.is_some_and(|jitter| jitter != "FULL" && jitter != "NONE") {
                entry.fault("JitterStrategy", "must be FULL or NONE", &mut self.faults);
            }
            entry.finish("a retrier", &mut self.faults);
            let full_jitter = jitter == Some("FULL");
            retriers.push(Retrier {
                error_equals,
                interval_seconds,
                max_attempts,
                backoff_rate,
                max_delay_seconds,
                full_jitter,
            });
        }
        retriers
    }

    fn catchers(&mut self, fields: &mut Fields<'_>) -> Vec<Catcher> {
        let pointer = fields.at("Catch");
        let values = fields.list("Catch", &mut self.faults);
        let mut catchers = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let Some(mut entry) = Fields::of(value, format!("{pointer}/{index}"), &mut self.faults) else { continue };
            entry.text("Comment", &mut self.faults);
            let error_equals = self.error_equals(&mut entry, index + 1 == values.len());
            let next = entry.required_text("Next", &mut self.faults);
            let shape = self.shape(&mut entry);
            entry.finish("a catcher", &mut self.faults);
            catchers.extend(next.map(|next| Catcher { error_equals, next: next.to_owned(), shape }));
        }
        catchers
    }

    fn error_equals(&mut self, entry: &mut Fields<'_>, last: bool) -> Vec<String> {
        if entry.get("ErrorEquals").is_none() {
            let reason = "ErrorEquals is missing".to_owned();
            self.faults.push(Fault { pointer: entry.pointer.clone(), reason });
        }
        let values = entry.list("ErrorEquals", &mut self.faults);
        let names: Vec<String> = values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if names.len() < values.len() {
            entry.fault("ErrorEquals", "must be an array of strings", &mut self.faults);
        }
        if names.iter().any(|name| name == Failure::ALL) && (names.len() > 1 || !last) {
            entry.fault("ErrorEquals", "States.ALL stands alone and in the last entry", &mut self.faults);
        }
        names
    }
}

fn is_variable(name: &str) -> bool {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|char| char.is_alphabetic() || char == '_');
    first && name != "states" && name.len() <= NAME_MAX_CHARS && chars.all(|char| char.is_alphanumeric() || char == '_')
}
