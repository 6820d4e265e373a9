//! What expressions and paths of a state see: input, result, variables and the context object.

use std::{
    borrow::Cow,
    cell::{Cell, OnceCell},
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::{
    failure::{Failure, Trouble},
    flow::{Flow, Head, Item},
    intrinsic,
    jsonata::Bindings,
    path::{Miss, Path, Root},
    template::weight,
};

/// The variables that a flow sees, from the inside out.
pub(super) struct Frame<'f> {
    pub(super) outer: Option<&'f Frame<'f>>,
    pub(super) variables: &'f Map<String, Value>,
    pub(super) item: Option<&'f Item>,
}

/// Where an expression stands.
pub(super) struct View<'v> {
    pub(super) head: &'v Head,
    pub(super) now: DateTime<Utc>,
    pub(super) flow: &'v Flow,
    pub(super) outer: Option<&'v Frame<'v>>,
    pub(super) item: Option<&'v Item>,
    /// What `$` is in JSONPath.
    pub(super) root: Cow<'v, Value>,
    pub(super) result: Option<&'v Value>,
    pub(super) error: Option<&'v Value>,
    /// The task token, for a task that waits for it.
    pub(super) token: Option<u64>,
}

/// A view with what was made of it: nothing is gathered before the first expression asks.
pub(super) struct Scope<'v> {
    pub(super) view: View<'v>,
    /// Without and with the context object.
    bindings: [OnceCell<Bindings>; 2],
    context: OnceCell<Value>,
    randoms: Cell<u64>,
    /// The weight of the values that were taken from here.
    spent: Cell<usize>,
}

/// What the templates of one field may take out of their scope: a value that is handed on is far smaller, and a template
/// that names a large value a thousand times is refused before it is built.
const SPENT_MAX: usize = 8 * 1024 * 1024;

impl<'v> Scope<'v> {
    pub(super) fn new(view: View<'v>) -> Self {
        Self {
            view,
            bindings: [OnceCell::new(), OnceCell::new()],
            context: OnceCell::new(),
            randoms: Cell::new(0),
            spent: Cell::new(0),
        }
    }

    /// Takes a value out of the scope.
    pub(super) fn charged(&self, value: Cow<'_, Value>) -> Result<Value, Trouble> {
        self.spent.set(self.spent.get().saturating_add(weight(&value)));
        if self.is_overdrawn() { Err(self.too_large()) } else { Ok(value.into_owned()) }
    }

    pub(super) fn is_overdrawn(&self) -> bool {
        self.spent.get() > SPENT_MAX
    }

    pub(super) fn too_large(&self) -> Trouble {
        let state = &self.view.flow.state;
        let cause = format!(
            "The state/task '{state}' returned a result with a size exceeding the maximum number of bytes service limit."
        );
        Failure::new(Failure::DATA_LIMIT_EXCEEDED, cause).into()
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.view.now
    }

    /// A number that looks random, another each time, and the same whenever this point is reached again.
    pub(super) fn random(&self) -> u64 {
        let at = self.randoms.get();
        self.randoms.set(at + 1);
        let head = self.view.head;
        intrinsic::mix(head.seed ^ head.last_event.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at.rotate_left(32))
    }

    /// The variables of JSONata.
    pub(super) fn bindings(&self, context: bool) -> &Bindings {
        self.bindings[usize::from(context)].get_or_init(|| {
            let mut states = Map::new();
            states.insert("input".to_owned(), self.view.flow.input.clone());
            if context {
                states.insert("context".to_owned(), self.context().clone());
            }
            if let Some(result) = self.view.result {
                states.insert("result".to_owned(), result.clone());
            }
            if let Some(error) = self.view.error {
                states.insert("errorOutput".to_owned(), error.clone());
            }
            self.frame().bind().var("states", Value::Object(states))
        })
    }

    /// What a path finds, and what it was looked for in.
    pub(super) fn find(&self, path: &Path) -> Result<Cow<'_, Value>, Miss> {
        path.find(self.root_of(path).ok_or(Miss::Absent)?)
    }

    /// What a path is applied to.
    pub(super) fn root_of(&self, path: &Path) -> Option<&Value> {
        match &path.root {
            Root::Input => Some(&self.view.root),
            Root::Context => Some(self.context()),
            Root::Variable(name) => self.frame().variable(name),
        }
    }

    fn frame(&self) -> Frame<'_> {
        Frame { outer: self.view.outer, variables: &self.view.flow.variables, item: self.view.item }
    }

    /// The context object, `$$` and `$states.context`.
    pub(super) fn context(&self) -> &Value {
        self.context.get_or_init(|| {
            let View { head, flow, .. } = &self.view;
            let name = |id: &str| id.rsplit(['/', ':']).next().unwrap_or_default().to_owned();
            let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
            let mut context = json!({
                "Execution": {
                    "Id": head.id,
                    "Input": head.input,
                    "StartTime": time(head.started_at),
                    "Name": name(&head.id),
                },
                "StateMachine": {"Id": head.workflow, "Name": name(&head.workflow)},
                "State": {"Name": flow.state, "EnteredTime": time(flow.entered_at)},
            });
            if !head.role.is_empty() {
                context["Execution"]["RoleArn"] = json!(head.role);
                context["Execution"]["RedriveCount"] = json!(0);
            }
            if let Some(retries) = flow.retries {
                context["State"]["RetryCount"] = json!(retries);
            }
            if let Some(token) = self.view.token {
                context["Task"] = json!({"Token": format!("{}/{token}", head.id)});
            }
            if let Some(item) = self.frame().item() {
                context["Map"] = json!({"Item": {"Index": item.index, "Value": item.value}});
            }
            context
        })
    }
}

impl intrinsic::Source for Scope<'_> {
    fn find(&self, path: &Path) -> Option<Value> {
        self.charged(Scope::find(self, path).ok()?).ok()
    }

    fn random(&self) -> u64 {
        Scope::random(self)
    }
}

impl<'f> Frame<'f> {
    fn item(&self) -> Option<&'f Item> {
        self.item.or_else(|| self.outer.and_then(Frame::item))
    }

    fn variable(&self, name: &str) -> Option<&'f Value> {
        self.variables.get(name).or_else(|| self.outer.and_then(|outer| outer.variable(name)))
    }

    fn bind(&self) -> Bindings {
        let outer = self.outer.map(Frame::bind).unwrap_or_default();
        self.variables.iter().fold(outer, |bindings, (name, value)| bindings.var(name.clone(), value.clone()))
    }
}
