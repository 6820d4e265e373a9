//! A validated definition: states, their transitions, and what they do with their data.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    choice::Test,
    path::Place,
    template::{Language, Query, Template},
};

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
    pub(super) language: Language,
    pub(super) kind: Kind,
    /// Where to go; `None` ends the scope.
    pub(super) next: Option<String>,
    pub(super) shape: Shape,
    pub(super) retry: Vec<Retrier>,
    pub(super) catch: Vec<Catcher>,
    pub(super) compensate: Option<Compensate>,
}

/// What a state does with its data on the way in and out. What one language does not have stays at its default.
#[derive(Debug, Default)]
pub(super) struct Shape {
    pub(super) input_path: Pick,
    /// Parameters or Arguments.
    pub(super) arguments: Option<Template>,
    pub(super) result_selector: Option<Template>,
    pub(super) result_path: Place,
    pub(super) output_path: Pick,
    pub(super) output: Option<Template>,
    pub(super) assign: Option<Template>,
}

/// InputPath and OutputPath.
#[derive(Debug, Default)]
pub(super) enum Pick {
    #[default]
    Whole,
    /// `null`: an empty object.
    Nothing,
    At(Query),
}

/// A field that is a literal, an expression or, under a name that ends in Path, a path.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) template: Template,
}

/// The eight types with what only they have.
#[derive(Debug)]
pub(super) enum Kind {
    Pass { result: Option<Value> },
    Succeed,
    Fail { error: Option<Field>, cause: Option<Field> },
    Wait(Until),
    Choice { rules: Vec<Rule>, default: Option<String> },
    Task(Task),
    Parallel { branches: Vec<Scope> },
    Map(Box<Map>),
}

/// What a Wait waits for.
#[derive(Debug)]
pub(super) enum Until {
    Seconds(Field),
    Timestamp(Field),
}

/// A rule of a Choice.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) test: Test,
    pub(super) next: String,
    pub(super) output: Option<Template>,
    pub(super) assign: Option<Template>,
}

/// What a Task calls.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) resource: String,
    pub(super) timeout_seconds: Option<Field>,
    pub(super) heartbeat_seconds: Option<Field>,
    /// Whose rights a task of AWS uses: told, and nothing to us.
    pub(super) credentials: Option<Template>,
}

/// What a Map runs for each item.
#[derive(Debug)]
pub(super) struct Map {
    /// Items or ItemsPath.
    pub(super) items: Option<Field>,
    /// ItemSelector, or Parameters as it was called before.
    pub(super) item_selector: Option<Field>,
    pub(super) reader: Option<Reader>,
    pub(super) batcher: Option<Batcher>,
    pub(super) writer: Option<Template>,
    pub(super) processor: Scope,
    /// The field of the processor, for pointers.
    pub(super) processor_field: &'static str,
    pub(super) distributed: bool,
    pub(super) label: Option<String>,
    pub(super) max_concurrency: Option<Field>,
    pub(super) tolerated_count: Option<Field>,
    pub(super) tolerated_percentage: Option<Field>,
}

/// Where the items of a Map are read from.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) resource: String,
    pub(super) arguments: Option<Template>,
    /// Items that are taken at most; 0 is all.
    pub(super) max_items: Option<Field>,
}

/// How items are put together.
#[derive(Debug)]
pub(super) struct Batcher {
    pub(super) max_items: Option<Field>,
    pub(super) max_bytes: Option<Field>,
    pub(super) input: Option<Template>,
}

/// What undoes a state that succeeded, when the execution fails.
#[derive(Debug)]
pub(super) struct Compensate {
    pub(super) resource: String,
    pub(super) arguments: Option<Template>,
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
    pub(super) result_path: Place,
    pub(super) output: Option<Template>,
    pub(super) assign: Option<Template>,
}

impl Machine {
    /// Every state that calls something, with the Resource that it calls; undos and readers of items are among them.
    #[must_use]
    pub fn tasks(&self) -> Vec<(&str, &str)> {
        let mut tasks = Vec::new();
        self.scope.tasks(&mut tasks);
        tasks
    }

    /// How long an execution may take.
    #[must_use]
    pub fn timeout_seconds(&self) -> Option<u32> {
        self.timeout_seconds
    }
}

impl Scope {
    fn tasks<'m>(&'m self, tasks: &mut Vec<(&'m str, &'m str)>) {
        for state in self.states.values() {
            match &state.kind {
                Kind::Task(task) => tasks.push((&state.name, &task.resource)),
                Kind::Map(map) => tasks.extend(map.reader.as_ref().map(|reader| (&*state.name, &*reader.resource))),
                _ => {}
            }
            tasks.extend(state.compensate.as_ref().map(|undo| (&*state.name, &*undo.resource)));
            state.inner().into_iter().for_each(|(_, scope)| scope.tasks(tasks));
        }
    }
}

impl State {
    /// The scopes inside of this state with the pointer of each below the state.
    pub(super) fn inner(&self) -> Vec<(String, &Scope)> {
        match &self.kind {
            Kind::Parallel { branches } => {
                branches.iter().enumerate().map(|(index, scope)| (format!("/Branches/{index}"), scope)).collect()
            }
            Kind::Map(map) => vec![(format!("/{}", map.processor_field), &map.processor)],
            _ => Vec::new(),
        }
    }

    /// The field that says what it calls with.
    pub(super) fn argument_field(&self) -> &'static str {
        match self.language {
            Language::Jsonata => "Arguments",
            Language::JsonPath => "Parameters",
        }
    }

    /// Whether it can fail in a way that is tried again: then it counts its retries.
    pub(super) fn is_tried(&self) -> bool {
        matches!(self.kind, Kind::Task(_) | Kind::Parallel { .. } | Kind::Map(_))
    }
}
