//! A run in memory: what it takes in, what holds it back, and how far it goes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
use tenon_chassis::TenantId;
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::{
    asl::{Command, Event, Execution, Failure, Input, Machine, Outcome, Step},
    payloads::Keeper,
    quotas,
    runs::{
        mail::{Letter, Message},
        model::RunId,
        template::Template,
    },
    tasks::{self, Family},
};

/// A run that sleeps longer than this sleeps in the database.
const AWAKE: TimeDelta = TimeDelta::seconds(5);

/// What a run is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) tenant: TenantId,
    pub(super) run: RunId,
}

/// What stays the same while a run is in memory.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) key: Key,
    pub(super) partition: i16,
    pub(super) workflow_id: String,
    pub(super) version: i32,
    pub(super) entity_id: String,
    pub(super) created_by: String,
    pub(super) roles: Vec<String>,
    pub(super) traceparent: Option<String>,
    pub(super) concurrency_key: Option<String>,
    /// The run that started it, and the wait that its end answers.
    pub(super) parent: Option<(RunId, Option<i64>)>,
    /// Runs above it.
    pub(super) depth: i16,
    /// Days that it is kept after its end.
    pub(super) retention_days: u32,
}

impl About {
    /// The key of a step's call: the same for each repetition of an attempt.
    pub(super) fn idempotency_key(&self, token: u64) -> String {
        format!("{}/{token}", self.key.run)
    }
}

/// What a run is to do next.
#[derive(Debug)]
pub(super) enum Work {
    /// What a call or a timer came to.
    Input(Input),
    /// A message from its mailbox.
    Letter(Letter),
    /// Nothing: it was taken into memory, and may leave it again.
    Look,
    /// Nothing any more: its tenant is suspended or owes money (`standing`), or has nothing left of what it needs
    /// (`quota:METER`).
    Park(String),
}

/// Who holds a run back, as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold(pub(crate) String);

impl Hold {
    /// Whether it is no run's own: a pause of a workflow or a tenant, the tenant's standing or its quota.
    pub(crate) fn is_wide(&self) -> bool {
        Self::is_wide_name(&self.0)
    }

    /// The same of a hold as the database keeps it.
    pub(crate) fn is_wide_name(name: &str) -> bool {
        matches!(name, "workflow" | "tenant" | "standing") || name.starts_with(quotas::HELD)
    }
}

/// Something that a run waits for and that is answered from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) kind: &'static str,
    pub(super) name: String,
}

/// A wait that begins with a step.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    pub(super) token: u64,
    pub(super) wait: Wait,
    pub(super) arguments: String,
    pub(super) timeout_seconds: Option<u32>,
    pub(super) heartbeat_seconds: Option<u32>,
}

/// Where a run is until its next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// In memory: something is under way here, or soon due.
    Memory,
    /// In the database, until a timer is due or a message comes.
    Until(Option<DateTime<Utc>>),
}

impl Rest {
    /// When to look at the run again, if at all.
    pub(super) fn due(self) -> Option<DateTime<Utc>> {
        match self {
            Self::Memory => None,
            Self::Until(due) => due,
        }
    }
}

/// A run in memory.
pub(super) struct Active {
    pub(super) about: Arc<About>,
    pub(super) machine: Arc<Machine>,
    pub(super) execution: Execution,
    /// Calls in flight by token.
    pub(super) calls: HashMap<u64, AbortHandle>,
    /// What is waited for, by token.
    pub(super) waits: BTreeMap<u64, Wait>,
    /// Messages that nothing waits for yet, in their order.
    pub(super) letters: BTreeMap<i64, Letter>,
    /// Messages that were ever sent, as of the last look into the mailbox.
    pub(super) mail: i32,
    pub(super) hold: Option<Hold>,
    /// Whether others with its concurrency key come first.
    pub(super) queued: bool,
    /// Whether its first step is still to come.
    pub(super) fresh: bool,
    /// Whether it may have started runs that have not ended.
    pub(super) has_children: bool,
    /// Its large values that are on disk.
    pub(super) payloads: Keeper,
}

/// What came of some work.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) events: Vec<Event>,
    /// What must be asked for, beside what is outstanding already.
    pub(super) commands: Vec<Command>,
    pub(super) outcome: Option<Outcome>,
    /// Messages that have had their effect.
    pub(super) read: Vec<Uuid>,
    /// Answers that came while the run was held back.
    pub(super) keep: Vec<Message>,
    pub(super) opened: Vec<Opened>,
    /// Tokens of waits that are over.
    pub(super) closed: Vec<u64>,
    /// Those of them that were for another run.
    pub(super) orphaned: Vec<u64>,
    /// Whether there may be runs that it has started.
    pub(super) has_children: bool,
    /// Whether it was paused or resumed.
    pub(super) rehold: bool,
    /// Whether there is something to write.
    pub(super) changed: bool,
    /// Whether everything outstanding must be asked for: it was held back, and goes on.
    pub(super) resumed: bool,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.calls.values().for_each(AbortHandle::abort);
    }
}

impl Active {
    /// A run before its first step.
    pub(super) fn fresh(about: Arc<About>, template: &Template, execution: Execution, hold: Option<Hold>) -> Self {
        Self {
            about,
            machine: template.machine.clone(),
            execution,
            calls: HashMap::new(),
            waits: BTreeMap::new(),
            letters: BTreeMap::new(),
            mail: 0,
            hold,
            queued: false,
            fresh: true,
            has_children: false,
            payloads: Keeper::default(),
        }
    }

    /// Takes what came in, and goes on until everything waits again.
    pub(super) fn take(&mut self, work: Vec<Work>, now: DateTime<Utc>) -> Taken {
        let mut taken = Taken::default();
        for work in work {
            match work {
                Work::Look => taken.changed = true,
                Work::Park(by) if self.hold.is_none() => {
                    self.hold = Some(Hold(by));
                    (taken.changed, taken.rehold) = (true, true);
                }
                Work::Park(_) => {}
                Work::Letter(letter) => drop(self.letters.insert(letter.seq, letter)),
                Work::Input(Input::TimerFired { .. }) if self.is_held() => {}
                Work::Input(input) if self.is_held() => {
                    let token = match &input {
                        Input::TaskDone { token, .. } | Input::TaskFailed { token, .. } => *token,
                        _ => continue,
                    };
                    self.calls.remove(&token);
                    taken.keep.extend(answer(input));
                    taken.changed = true;
                }
                Work::Input(input) => self.advance(input, now, &mut taken),
            }
        }
        loop {
            if self.fresh && !self.is_held() {
                self.fresh = false;
                self.advance(Input::Started, now, &mut taken);
            }
            let Some(letter) = self.next_letter() else { break };
            taken.read.push(letter.id);
            taken.changed = true;
            self.read(letter.message, now, &mut taken);
        }
        self.settle(&mut taken);
        taken
    }

    /// Whether it takes no step for now.
    pub(super) fn is_held(&self) -> bool {
        self.queued || self.hold.is_some()
    }

    fn advance(&mut self, input: Input, now: DateTime<Utc>, taken: &mut Taken) {
        let Step { events, commands, outcome } = self.execution.advance(&self.machine, input, now);
        taken.changed |= !events.is_empty() || !commands.is_empty();
        taken.events.extend(events);
        taken.commands.extend(commands);
        taken.outcome = taken.outcome.take().or(outcome);
    }

    /// The first message that can have its effect now, taken out.
    fn next_letter(&mut self) -> Option<Letter> {
        if self.letters.is_empty() {
            return None;
        }
        let held = self.is_held();
        let has_signals = !held && self.letters.values().any(|letter| matches!(letter.message, Message::Signal { .. }));
        let awaited: Vec<Wait> =
            if has_signals { waits(&self.execution).map(|(_, wait)| wait).collect() } else { vec![] };
        let first = self.letters.values().find(|letter| match &letter.message {
            Message::Cancel { .. } | Message::Terminate { .. } | Message::Pause { .. } | Message::Resume => true,
            Message::Retry => !held,
            Message::Signal { name, .. } => awaited.iter().any(|wait| wait.kind == "signal" && wait.name == *name),
            Message::TaskDone { .. } | Message::TaskFailed { .. } | Message::Heartbeat { .. } => !held,
        });
        let seq = first?.seq;
        self.letters.remove(&seq)
    }

    fn read(&mut self, message: Message, now: DateTime<Utc>, taken: &mut Taken) {
        match message {
            Message::TaskDone { token, result } => self.advance(Input::TaskDone { token, result }, now, taken),
            Message::TaskFailed { token, failure } => self.advance(Input::TaskFailed { token, failure }, now, taken),
            Message::Heartbeat { token } => self.advance(Input::TaskHeartbeat { token }, now, taken),
            Message::Signal { name, payload } => {
                let token = waits(&self.execution)
                    .find(|(_, wait)| wait.kind == "signal" && wait.name == name)
                    .map(|(token, _)| token);
                if let Some(token) = token {
                    self.advance(Input::TaskDone { token, result: payload }, now, taken);
                }
            }
            Message::Cancel { reason } => {
                self.release();
                self.advance(Input::Cancel { cause: reason }, now, taken);
            }
            Message::Terminate { reason } => {
                self.release();
                self.advance(Input::Terminate { cause: reason }, now, taken);
            }
            Message::Retry => self.advance(Input::Retry, now, taken),
            Message::Pause { by } => {
                self.hold = Some(Hold(by));
                taken.rehold = true;
            }
            Message::Resume => {
                // A pause of the workflow or the tenant is not the run's to end.
                if self.hold.as_ref().is_some_and(|hold| !hold.is_wide()) {
                    self.hold = None;
                    (taken.rehold, taken.resumed) = (true, true);
                }
            }
        }
    }

    /// Lets go of what holds it back: it is about to end.
    fn release(&mut self) {
        (self.hold, self.queued, self.fresh) = (None, false, false);
    }

    /// Compares what is outstanding with what was before.
    fn settle(&mut self, taken: &mut Taken) {
        let outstanding = self.execution.outstanding();
        let mut open = BTreeMap::new();
        for command in outstanding {
            let Command::CallTask { token, resource, arguments, timeout_seconds, heartbeat_seconds, .. } = command
            else {
                continue;
            };
            let Family::Wait { kind, name } = tasks::family(&resource) else { continue };
            let wait = Wait { kind, name };
            if !self.waits.contains_key(&token) {
                let (wait, arguments) = (wait.clone(), arguments.to_string());
                taken.opened.push(Opened { token, wait, arguments, timeout_seconds, heartbeat_seconds });
            }
            open.insert(token, wait);
        }
        for (token, wait) in self.waits.iter().filter(|(token, _)| !open.contains_key(token)) {
            taken.closed.push(*token);
            taken.orphaned.extend((wait.kind == "workflow").then_some(*token));
        }
        self.has_children |= taken.opened.iter().any(|opened| opened.wait.kind == "workflow");
        taken.has_children = self.has_children;
        self.waits = open;
    }

    /// Where the run may be until its next step.
    pub(super) fn rest(&self, now: DateTime<Utc>) -> Rest {
        if self.is_held() {
            // What is in flight is waited for; nothing else is begun.
            return if self.calls.is_empty() { Rest::Until(None) } else { Rest::Memory };
        }
        let mut first: Option<DateTime<Utc>> = None;
        for command in self.execution.outstanding() {
            match command {
                Command::StartTimer { due, .. } if due > now + AWAKE => {
                    first = Some(first.map_or(due, |earliest| earliest.min(due)));
                }
                Command::CallTask { resource, .. } if tasks::family(&resource) != Family::Call => {}
                Command::StartTimer { .. } | Command::CallTask { .. } => return Rest::Memory,
            }
        }
        Rest::Until(first)
    }
}

/// What an execution waits for from outside.
pub(super) fn waits(execution: &Execution) -> impl Iterator<Item = (u64, Wait)> {
    execution.outstanding().into_iter().filter_map(|command| match command {
        Command::CallTask { token, resource, .. } => match tasks::family(&resource) {
            Family::Wait { kind, name } => Some((token, Wait { kind, name })),
            Family::Call => None,
        },
        Command::StartTimer { .. } => None,
    })
}

/// The answer of a call as a message that waits until the run goes on.
fn answer(input: Input) -> Option<Message> {
    match input {
        Input::TaskDone { token, result } => Some(Message::TaskDone { token, result }),
        Input::TaskFailed { token, failure } => Some(Message::TaskFailed { token, failure }),
        _ => None,
    }
}

impl Taken {
    /// The end of a run that cannot go on.
    pub(super) fn given_up(cause: &str) -> Self {
        let outcome = Outcome::Failed(Failure::new(Failure::RUNTIME, cause));
        Self { outcome: Some(outcome), changed: true, ..Self::default() }
    }
}
