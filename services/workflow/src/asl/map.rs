//! Map: an iteration for each item, as many at once as may be, and how many of them may fail.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    mem,
};

use serde_json::{Value, json};

use super::{
    execution::Input,
    failure::{Failure, Trouble},
    fields::integer,
    flow::{Call, Flow, Item, Iterations, Waiting},
    interpreter::{Interpreter, Progress, Turn},
    intrinsic,
    model::{Batcher, Field, Map, Reader, State},
    scope::{Frame, Scope},
    template::{Language, size},
};

/// Iterations at once when MaxConcurrency does not say less (the quota of Step Functions for inline maps).
const CONCURRENCY_MAX: usize = 40;
/// Bytes of a batch at most (the payload quota).
const BATCH_MAX_BYTES: u32 = 256 * 1024;

/// What the fields of a Map come to.
struct Plan {
    items: Vec<Value>,
    limit: usize,
}

impl Interpreter<'_> {
    /// Starts a Map: its first iterations, or the reading of its items.
    pub(super) fn iterate(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        map: &Map,
    ) -> Result<Turn, Trouble> {
        if let Some(reader) = &map.reader {
            return self.read_items(state, flow, outer, reader);
        }
        let plan = {
            let root = self.effective(state, flow, outer)?;
            let scope = self.scope(flow, outer, root);
            Plan { limit: limit(map, &scope)?, items: items(map, state.language, &scope)? }
        };
        let length = json!({"length": plan.items.len()});
        self.publish(flow, "MapStateStarted", &state.name, length);
        self.start_map(state, flow, outer, map, plan)
    }

    fn read_items(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        reader: &Reader,
    ) -> Result<Turn, Trouble> {
        let arguments = {
            let root = self.effective(state, flow, outer)?;
            let scope = self.scope(flow, outer, root);
            match &reader.arguments {
                Some(template) => template.evaluate(&format!("ItemReader/{}", state.argument_field()), &scope)?,
                None => json!({}),
            }
        };
        self.publish(flow, "MapStateStarted", &state.name, json!({"length": 0}));
        let call = Call {
            token: self.token(),
            resource: reader.resource.clone(),
            arguments,
            timeout_seconds: None,
            heartbeat_seconds: None,
            timeout: None,
            heartbeat: None,
            started: true,
        };
        self.commands.push(call.command(&state.name));
        flow.waiting = Waiting::Items(call);
        Ok(Turn::Blocked)
    }

    fn start_map(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        map: &Map,
        plan: Plan,
    ) -> Result<Turn, Trouble> {
        let Plan { mut items, limit } = plan;
        let selected = map.batcher.is_some();
        let fails_at = {
            let root = self.effective(state, flow, outer)?;
            let scope = self.scope(flow, outer, root);
            if let Some(batcher) = &map.batcher {
                let select = |(index, value)| self.select(map, flow, outer, &scope.view.root, &Item { index, value });
                let each: Vec<Value> = items.into_iter().enumerate().map(select).collect::<Result<_, _>>()?;
                items = batches(batcher, each, &scope)?;
            }
            tolerated(map, items.len(), &scope)?
        };
        let run = map.distributed.then(|| self.map_run(state, map));
        if let Some(run) = &run {
            self.publish(flow, "MapRunStarted", &state.name, json!({"mapRunArn": run}));
        }
        let (running, results) = (BTreeMap::new(), BTreeMap::new());
        let at = Iterations { items, next: 0, limit, running, results, failed: 0, fails_at, selected, run };
        flow.waiting = Waiting::Map(Box::new(at));
        let from = flow.last_event;
        let mut started = VecDeque::new();
        while let Some(index) = self.start_iteration(state, flow, map, from) {
            started.push_back(index);
        }
        Ok(self.advance_iterations(state, flow, outer, map, started))
    }

    /// The name of the run of a distributed Map, as Step Functions makes it.
    fn map_run(&self, state: &State, map: &Map) -> String {
        let label = map.label.as_deref().unwrap_or(&state.name);
        let id = intrinsic::uuid(self.head.seed, intrinsic::mix(self.head.last_event));
        match self.head.id.split_once(":execution:") {
            None => format!("{}/maps/{label}:{id}", self.head.id),
            Some((account, rest)) => {
                let machine = rest.split(':').next().unwrap_or_default();
                format!("{account}:mapRun:{machine}/{label}:{id}")
            }
        }
    }

    /// Takes the next item, if one may start now.
    fn start_iteration(&mut self, state: &State, flow: &mut Flow, map: &Map, from: u64) -> Option<usize> {
        let Waiting::Map(at) = &mut flow.waiting else { return None };
        if at.running.len() >= at.limit || at.next >= at.items.len() {
            return None;
        }
        let index = at.next;
        at.next += 1;
        let value = mem::take(&mut at.items[index]);
        let quiet = map.distributed || flow.quiet;
        // An execution of its own begins with an event that its first state does not follow.
        let mut id = 1;
        if !map.distributed {
            id = self.record(quiet, from, "MapIterationStarted", &state.name, json!({"index": index}));
        }
        let mut child = Flow::new(&map.processor.start_at, Value::Null, id, self.now);
        child.quiet = quiet;
        child.item = Some(Item { index, value });
        at.running.insert(index, child);
        Some(index)
    }

    /// Lets iterations run that have just started, and those that start when they end.
    fn advance_iterations(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        map: &Map,
        mut started: VecDeque<usize>,
    ) -> Turn {
        while let Some(index) = started.pop_front() {
            let Waiting::Map(at) = &mut flow.waiting else { break };
            let Some(mut child) = at.running.remove(&index) else { continue };
            let progress = match self.input_of(state, flow, outer, map, &mut child) {
                Ok(()) => {
                    let frame = Frame { outer, variables: &flow.variables, item: flow.item.as_ref() };
                    self.run(&map.processor, &mut child, Some(&frame))
                }
                Err(trouble) => {
                    child.entered = flow.entered;
                    Progress::Failed(self.describe(state, &mut child, trouble))
                }
            };
            if let Waiting::Map(at) = &mut flow.waiting {
                at.running.insert(index, child);
            }
            match self.end_iteration(state, flow, outer, map, index, progress) {
                Ok(next) => started.extend(next),
                Err(turn) => return turn,
            }
        }
        self.join_map(state, flow, outer, map)
    }

    fn input_of(
        &mut self,
        state: &State,
        flow: &Flow,
        outer: Option<&Frame<'_>>,
        map: &Map,
        child: &mut Flow,
    ) -> Result<(), Trouble> {
        let Some(item) = &child.item else { return Ok(()) };
        let selected = matches!(&flow.waiting, Waiting::Map(at) if at.selected);
        child.input = if selected || map.item_selector.is_none() {
            item.value.clone()
        } else {
            let root = self.effective(state, flow, outer)?;
            self.select(map, flow, outer, &root, item)?
        };
        Ok(())
    }

    fn select(
        &self,
        map: &Map,
        flow: &Flow,
        outer: Option<&Frame<'_>>,
        root: &Value,
        item: &Item,
    ) -> Result<Value, Trouble> {
        let Some(selector) = &map.item_selector else { return Ok(item.value.clone()) };
        let scope = self.scope_of_item(flow, outer, Some(item), Cow::Borrowed(root));
        selector.template.evaluate(selector.name, &scope)
    }

    /// Takes note of how far an iteration came; answers with the one that starts in its place.
    fn end_iteration(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        map: &Map,
        index: usize,
        progress: Progress,
    ) -> Result<Option<usize>, Turn> {
        let (kind, outcome) = match progress {
            Progress::Blocked => return Ok(None),
            Progress::Done(output) => ("MapIterationSucceeded", Ok(output)),
            Progress::Failed(trouble) => ("MapIterationFailed", Err(trouble)),
        };
        let Waiting::Map(at) = &mut flow.waiting else { return Ok(None) };
        let Some(child) = at.running.remove(&index) else { return Ok(None) };
        if let Err(trouble) = &outcome
            && trouble.is_fatal()
            && !map.distributed
        {
            self.abandoned = true;
            (flow.last_event, flow.tail_event) = (child.last_event, child.tail_event);
            return Err(Turn::Failed(trouble.clone()));
        }
        let mut last = child.last_event;
        if !map.distributed {
            last = self.record(child.quiet, child.last_event, kind, &state.name, json!({"index": index}));
        }
        match outcome {
            Ok(output) => drop(at.results.insert(index, output)),
            Err(trouble) => {
                at.failed += 1;
                if at.failed >= at.fails_at {
                    return Err(self.map_failed(state, flow, outer, map, &child, trouble));
                }
            }
        }
        let next = self.start_iteration(state, flow, map, child.last_event);
        if next.is_none() && !map.distributed {
            (flow.last_event, flow.tail_event) = (last, last);
        }
        Ok(next)
    }

    fn map_failed(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        map: &Map,
        failed: &Flow,
        trouble: Trouble,
    ) -> Turn {
        self.abandoned = true;
        let waiting = mem::replace(&mut flow.waiting, Waiting::Ready);
        let Waiting::Map(at) = waiting else { return Turn::Failed(trouble) };
        let too_many = || {
            let cause = "The specified tolerated failure threshold was exceeded";
            Trouble::from(Failure::new(Failure::TOO_MANY_FAILED, cause))
        };
        if map.distributed {
            let trouble = too_many();
            self.publish(flow, "MapRunFailed", &state.name, trouble.failure.details());
            return self.fail(state, flow, outer, trouble);
        }
        (flow.last_event, flow.tail_event) = (failed.last_event, failed.last_event);
        self.tell_of_own_end(&map.processor, failed, flow);
        for (index, inner) in &at.running {
            self.beside(flow, "MapIterationAborted", &state.name, json!({"index": index}));
            self.tell_of_cut(&map.processor, inner, flow);
        }
        let tolerant = map.tolerated_count.is_some() || map.tolerated_percentage.is_some();
        self.fail(state, flow, outer, if tolerant { too_many() } else { trouble })
    }

    /// Hands an answer to the iteration that waits for it, or takes the items.
    pub(super) fn deliver_to_map(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        map: &Map,
        answer: &Input,
    ) -> Option<Turn> {
        if let Waiting::Items(call) = &flow.waiting {
            let read = match answer {
                Input::TaskDone { token, result } if *token == call.token => Ok(result.clone()),
                Input::TaskFailed { token, failure } if *token == call.token => Err(failure.clone()),
                _ => return None,
            };
            let turn = self.take_items(state, flow, outer, map, read);
            return Some(turn.unwrap_or_else(|trouble| self.fail(state, flow, outer, trouble)));
        }
        let Flow { variables, item, waiting: Waiting::Map(at), .. } = &mut *flow else { return None };
        let frame = Frame { outer, variables, item: item.as_ref() };
        let (index, progress) = at
            .running
            .iter_mut()
            .find_map(|(index, child)| Some((*index, self.deliver(&map.processor, child, Some(&frame), answer)?)))?;
        Some(match self.end_iteration(state, flow, outer, map, index, progress) {
            Ok(next) => self.advance_iterations(state, flow, outer, map, next.into_iter().collect()),
            Err(turn) => turn,
        })
    }

    fn take_items(
        &mut self,
        state: &State,
        flow: &mut Flow,
        outer: Option<&Frame<'_>>,
        map: &Map,
        read: Result<Value, Failure>,
    ) -> Result<Turn, Trouble> {
        let mut items = match read {
            Ok(Value::Array(items)) => items,
            Ok(_) => {
                let cause = "what was read is not an array of items";
                return Err(Failure::new(Failure::ITEM_READER_FAILED, cause).into());
            }
            Err(failure) => return Err(failure.into()),
        };
        let limit = {
            let root = self.effective(state, flow, outer)?;
            let scope = self.scope(flow, outer, root);
            let most = map.reader.as_ref().map(|reader| number(&reader.max_items, &scope)).transpose()?.flatten();
            if let Some(most) = most.filter(|most| *most > 0) {
                items.truncate(most as usize);
            }
            limit(map, &scope)?
        };
        self.start_map(state, flow, outer, map, Plan { items, limit })
    }

    /// Goes on once every iteration has ended.
    fn join_map(&mut self, state: &State, flow: &mut Flow, outer: Option<&Frame<'_>>, map: &Map) -> Turn {
        let Waiting::Map(at) = &mut flow.waiting else { return Turn::Blocked };
        if at.results.len() + at.failed < at.items.len() {
            return Turn::Blocked;
        }
        let mut result: Value = mem::take(&mut at.results).into_values().collect();
        let run = at.run.take().unwrap_or_default();
        if map.distributed {
            self.aside(flow, "MapRunSucceeded", &state.name, json!({}));
        }
        self.aside(flow, "MapStateSucceeded", &state.name, json!({}));
        if let Some(writer) = &map.writer {
            let scope = self.scope(flow, outer, Cow::Borrowed(&flow.input));
            let written = writer.evaluate("ResultWriter", &scope);
            match written {
                Ok(place) => result = written_to(&place, &run),
                Err(trouble) => return self.fail(state, flow, outer, trouble),
            }
        }
        self.succeed(state, flow, outer, result)
    }
}

/// The output of a Map that writes its results elsewhere, as Step Functions has it.
fn written_to(place: &Value, run: &str) -> Value {
    let prefix =
        place["Prefix"].as_str().map(|prefix| format!("{}/", prefix.trim_end_matches('/'))).unwrap_or_default();
    let id = run.rsplit(':').next().unwrap_or_default();
    let details = json!({"Bucket": place["Bucket"], "Key": format!("{prefix}{id}/manifest.json")});
    json!({"MapRunArn": run, "ResultWriterDetails": details})
}

fn limit(map: &Map, scope: &Scope<'_>) -> Result<usize, Trouble> {
    let limit = number(&map.max_concurrency, scope)?.unwrap_or(0);
    Ok(if limit == 0 { CONCURRENCY_MAX } else { CONCURRENCY_MAX.min(limit as usize) })
}

fn number(field: &Option<Field>, scope: &Scope<'_>) -> Result<Option<u32>, Trouble> {
    let Some(field) = field else { return Ok(None) };
    let value = field.evaluate(scope)?;
    // Step Functions takes a number in a string here.
    let written =
        value.as_str().and_then(|text| text.parse().ok()).filter(|_| field.name == "ToleratedFailureCountPath");
    integer(&value).or(written).map(Some).ok_or_else(|| field.wrong("number", &value))
}

fn items(map: &Map, language: Language, scope: &Scope<'_>) -> Result<Vec<Value>, Trouble> {
    let value = match &map.items {
        Some(field) => field.evaluate(scope)?,
        None => scope.view.root.clone().into_owned(),
    };
    match value {
        Value::Array(items) => Ok(items),
        // The States Language: an object is mapped over as an array of its key-value pairs.
        Value::Object(fields) if language == Language::Jsonata => {
            Ok(fields.into_iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect())
        }
        other => match &map.items {
            Some(field) => Err(field.wrong("array", &other)),
            None => Err(Trouble::fatal("Reference path \"$\" must point to array.")),
        },
    }
}

/// How many failures are one too many.
fn tolerated(map: &Map, total: usize, scope: &Scope<'_>) -> Result<usize, Trouble> {
    let count = number(&map.tolerated_count, scope)?.map(|count| count as usize);
    let percentage = match &map.tolerated_percentage {
        None => None,
        Some(field) => {
            let value = field.evaluate(scope)?;
            let percentage = value.as_f64().filter(|number| (0.0..=100.0).contains(number));
            let percentage = percentage.ok_or_else(|| field.wrong("number", &value))?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a part of a count of items"
            )]
            let count = (percentage * total as f64 / 100.0).floor() as usize;
            Some(count)
        }
    };
    let most = count.into_iter().chain(percentage).min().unwrap_or(0);
    Ok(most + 1)
}

/// Puts items together, each batch as large as it may be.
fn batches(batcher: &Batcher, items: Vec<Value>, scope: &Scope<'_>) -> Result<Vec<Value>, Trouble> {
    let max_items = number(&batcher.max_items, scope)?.unwrap_or(u32::MAX).max(1) as usize;
    let max_bytes = number(&batcher.max_bytes, scope)?.unwrap_or(BATCH_MAX_BYTES).min(BATCH_MAX_BYTES) as usize;
    let input =
        batcher.input.as_ref().map(|template| template.evaluate("ItemBatcher/BatchInput", scope)).transpose()?;
    let frame = input.as_ref().map_or(0, size) + r#"{"BatchInput":,"Items":[]}"#.len();
    let mut all: Vec<Vec<Value>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let more = size(&item) + 1;
        match all.last_mut() {
            Some(batch) if batch.len() < max_items && bytes + more <= max_bytes => batch.push(item),
            _ => {
                all.push(vec![item]);
                bytes = frame;
            }
        }
        bytes += more;
    }
    let batch = |items: Vec<Value>| match &input {
        Some(input) => json!({"BatchInput": input, "Items": items}),
        None => json!({"Items": items}),
    };
    Ok(all.into_iter().map(batch).collect())
}
