//! Turns JSON into a validated definition, or into the list of everything that is wrong with it.

mod kinds;
mod map;
mod shape;
mod tries;

use std::collections::BTreeMap;

use serde_json::Value;

pub use super::fields::Fault;
use super::{
    check,
    fields::{Fields, escape},
    language,
    model::{Kind, Machine, Scope, State},
    template::Language,
};

/// The longest name of a state (the States Language).
const NAME_MAX_CHARS: usize = 80;
/// Scopes in scopes at most; bounds the stack.
const DEPTH_MAX: usize = 24;
/// The longest wait and the longest timeout, in seconds (the States Language).
pub(super) const SECONDS_MAX: u32 = 99_999_999;

const TYPES: &str = "Pass, Choice, Wait, Task, Parallel, Map, Succeed, Fail";

/// Checks a Task: its Resource and, if there are any in JSONata, its Arguments. Each fault has a pointer below the state.
pub type CheckTask<'a> = &'a dyn Fn(&str, Option<&Value>) -> Vec<Fault>;

/// Parses and validates a definition.
///
/// # Errors
/// Every fault that was found, in the order of the definition.
pub fn parse(definition: &Value, check_task: CheckTask<'_>) -> Result<Machine, Vec<Fault>> {
    let language = language::implied(definition);
    let mut parser = Parser { faults: Vec::new(), check_task, language, jsonata_only: false, depth: 0 };
    let machine = parser.machine(definition);
    check::transitions(definition, &mut parser.faults);
    if let Some(machine) = &machine {
        check::names(machine, &mut parser.faults);
    }
    match machine {
        Some(machine) if parser.faults.is_empty() => Ok(machine),
        _ => Err(parser.faults),
    }
}

struct Parser<'c> {
    faults: Vec<Fault>,
    check_task: CheckTask<'c>,
    /// The language of states that do not name theirs.
    language: Language,
    /// The definition says JSONata for all of its states.
    jsonata_only: bool,
    depth: usize,
}

impl Parser<'_> {
    fn machine(&mut self, definition: &Value) -> Option<Machine> {
        let mut fields = Fields::of(definition, String::new(), &mut self.faults)?;
        fields.get("Comment");
        fields.text("Version", &mut self.faults);
        if let Some(language) = self.query_language(&mut fields) {
            self.language = language;
            self.jsonata_only = language == Language::Jsonata;
        }
        let timeout_seconds = fields.integer("TimeoutSeconds", (1, SECONDS_MAX), &mut self.faults);
        let scope = self.scope(&mut fields);
        fields.finish("a state machine", self.language, &mut self.faults);
        Some(Machine { scope: scope?, timeout_seconds })
    }

    fn query_language(&mut self, fields: &mut Fields<'_>) -> Option<Language> {
        match fields.text("QueryLanguage", &mut self.faults)? {
            "JSONata" => Some(Language::Jsonata),
            "JSONPath" => Some(Language::JsonPath),
            _ => {
                fields.fault("QueryLanguage", "must be JSONata or JSONPath", &mut self.faults);
                None
            }
        }
    }

    fn scope(&mut self, fields: &mut Fields<'_>) -> Option<Scope> {
        let start_at = fields.required_text("StartAt", &mut self.faults);
        let pointer = fields.at("States");
        let Some(value) = fields.get("States") else {
            fields.fault_here("States is missing", &mut self.faults);
            return None;
        };
        let Some(object) = value.as_object().filter(|states| !states.is_empty()) else {
            fields.fault("States", "must be an object with at least one state", &mut self.faults);
            return None;
        };
        if self.depth >= DEPTH_MAX {
            fields.fault("States", format!("states are nested at most {DEPTH_MAX} deep"), &mut self.faults);
            return None;
        }
        self.depth += 1;
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
        self.depth -= 1;
        // Transitions to a state that is there but faulty are not faults of their own.
        if states.len() < object.len() {
            return None;
        }
        Some(Scope { start_at: start_at?.to_owned(), states })
    }

    fn state(&mut self, name: &str, value: &Value, pointer: String) -> Option<State> {
        let mut fields = Fields::of(value, pointer, &mut self.faults)?;
        let kind_name = fields.required_text("Type", &mut self.faults)?;
        fields.get("Comment");
        let own = self.query_language(&mut fields);
        if own == Some(Language::JsonPath) && self.jsonata_only {
            let reason = "'QueryLanguage' can not be 'JSONPath' if set to 'JSONata' for whole state machine";
            fields.fault("QueryLanguage", reason, &mut self.faults);
        }
        let language = own.unwrap_or(self.language);
        let Some(kind) = self.kind(kind_name, language, &mut fields) else {
            if !TYPES.split(", ").any(|known| known == kind_name) {
                fields.fault("Type", format!("unknown type {kind_name}; known are {TYPES}"), &mut self.faults);
            }
            return None;
        };
        let moves = !matches!(kind, Kind::Succeed | Kind::Fail { .. } | Kind::Choice { .. });
        let next = if moves { self.transition(&mut fields) } else { None };
        let shape = self.shape(kind_name, language, &mut fields);
        let tries = matches!(kind, Kind::Task(_) | Kind::Parallel { .. } | Kind::Map(_));
        let retry = if tries { self.retriers(&mut fields) } else { Vec::new() };
        let catch = if tries { self.catchers(language, &mut fields) } else { Vec::new() };
        let compensate = if tries { self.compensate(&mut fields) } else { None };
        fields.finish(&format!("a {kind_name} state"), language, &mut self.faults);
        Some(State { name: name.to_owned(), language, kind, next, shape, retry, catch, compensate })
    }

    fn transition(&mut self, fields: &mut Fields<'_>) -> Option<String> {
        let next = fields.text("Next", &mut self.faults);
        let end = fields.flag("End", &mut self.faults);
        match (next, end) {
            (Some(_), true) => fields.fault_here("Next and End exclude each other", &mut self.faults),
            (None, false) if fields.get("Next").is_none() => {
                fields.fault_here("Next or End is missing", &mut self.faults);
            }
            _ => return next.map(str::to_owned),
        }
        None
    }
}
