//! A validated definition: states, their transitions and their templates.

use std::collections::BTreeMap;

use super::template::Template;

/// A definition that passed validation.
#[derive(Debug)]
pub struct Machine {
    pub(super) scope: Scope,
    /// How long an execution may take, in seconds.
    pub(super) timeout_seconds: Option<u32>,
}

/// States that name each other: the top level, a branch of a Parallel or the processor of a Map.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) start_at: String,
    pub(super) states: BTreeMap<String, State>,
}

/// One state.
#[derive(Debug)]
pub(super) struct State {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Where to go; `None` ends the scope.
    pub(super) next: Option<String>,
    pub(super) shape: Shape,
    pub(super) retry: Vec<Retrier>,
    pub(super) catch: Vec<Catcher>,
}

/// What a transition leaves behind.
#[derive(Debug, Default)]
pub(super) struct Shape {
    pub(super) output: Option<Template>,
    pub(super) assign: Option<Template>,
}

/// The eight types with what only they have.
#[derive(Debug)]
pub(super) enum Kind {
    Pass,
    Succeed,
    Fail { error: Option<Template>, cause: Option<Template> },
    Wait(Until),
    Choice { rules: Vec<Rule>, default: Option<String> },
    Task(Task),
    Parallel { arguments: Option<Template>, branches: Vec<Scope> },
    Map(Map),
}

/// What a Wait waits for.
#[derive(Debug)]
pub(super) enum Until {
    Seconds(Template),
    Timestamp(Template),
}

/// A rule of a Choice.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) condition: Template,
    pub(super) next: String,
    pub(super) shape: Shape,
}

/// What a Task calls.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) resource: String,
    pub(super) arguments: Option<Template>,
    pub(super) timeout_seconds: Option<Template>,
}

/// What a Map runs for each item.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) items: Option<Template>,
    pub(super) item_selector: Option<Template>,
    pub(super) processor: Scope,
    pub(super) max_concurrency: Option<Template>,
}

/// Which errors are tried again, and when.
#[derive(Debug)]
pub(super) struct Retrier {
    pub(super) error_equals: Vec<String>,
    pub(super) interval_seconds: f64,
    pub(super) max_attempts: u32,
    pub(super) backoff_rate: f64,
    pub(super) max_delay_seconds: Option<f64>,
    pub(super) full_jitter: bool,
}

/// Which errors lead elsewhere.
#[derive(Debug)]
pub(super) struct Catcher {
    pub(super) error_equals: Vec<String>,
    pub(super) next: String,
    pub(super) shape: Shape,
}

impl State {
    /// Every state that this one can lead to.
    pub(super) fn successors(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.next.as_deref().into_iter().collect();
        names.extend(self.catch.iter().map(|catcher| catcher.next.as_str()));
        if let Kind::Choice { rules, default } = &self.kind {
            names.extend(rules.iter().map(|rule| rule.next.as_str()));
            names.extend(default.as_deref());
        }
        names
    }

    /// The scopes inside of this state with the pointer of each below the state.
    pub(super) fn inner(&self) -> Vec<(String, &Scope)> {
        match &self.kind {
            Kind::Parallel { branches, .. } => {
                branches.iter().enumerate().map(|(index, scope)| (format!("/Branches/{index}"), scope)).collect()
            }
            Kind::Map(map) => vec![("/ItemProcessor".to_owned(), &map.processor)],
            _ => Vec::new(),
        }
    }
}
