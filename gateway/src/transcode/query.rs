//! Query parameters to request fields: nested by dots, repeated by repetition.

use std::{borrow::Cow, collections::HashSet};

use super::{
    plan::{Kind, Label, Plans},
    read, text, wire,
};
use crate::{errors::Refusal, template};

/// Field paths deeper than this are refused: a recursive message would take any depth.
const DEPTH: usize = 32;
/// As much of a key as an error message repeats.
const KEY_SHOWN: usize = 100;
/// Parameters of one query.
const PARAMETERS: usize = 1_000;

/// A way through messages: for each step the plan of the message and its field.
pub(super) type Way = Vec<(usize, usize)>;

/// A query while it is read.
pub(super) struct Query<'p> {
    plans: &'p Plans,
    /// Ways that hold a single value and have it.
    taken: HashSet<Way>,
    /// Which field of a oneof is set: the message, the oneof, the field.
    oneofs: Vec<(Way, usize, usize)>,
}

impl<'p> Query<'p> {
    pub(super) fn new(plans: &'p Plans) -> Self {
        Self { plans, taken: HashSet::new(), oneofs: Vec::new() }
    }

    /// A field of the message itself that something else sets.
    pub(super) fn set_elsewhere(&mut self, field: usize) {
        if let Some(oneof) = self.plans.messages[0].fields[field].oneof {
            self.oneofs.push((Way::new(), oneof, field));
        }
    }

    /// Writes the fields that a raw query names behind what `out` has. `refuses` says why a field may not come from it.
    pub(super) fn apply(
        mut self,
        query: &str,
        out: &mut Vec<u8>,
        refuses: impl Fn(&[u32]) -> Option<&'static str>,
    ) -> Result<(), Refusal> {
        for (count, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
            if count >= PARAMETERS {
                return Err(Refusal::invalid("INVALID_QUERY", "", "has more than 1,000 parameters"));
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(key), Some(value)) = (decode(key), decode(value)) else {
                return Err(Refusal::invalid("INVALID_QUERY", shown(pair), "is not percent-encoded UTF-8"));
            };
            let unknown = |why: &str| Refusal::invalid("UNKNOWN_FIELD", shown(&key), why);
            if key.split('.').count() > DEPTH {
                return Err(unknown("is nested too deeply"));
            }
            let way = way(self.plans, &key).ok_or_else(|| unknown("is not a field"))?;
            let numbers: Vec<u32> =
                way.iter().map(|(plan, field)| self.plans.messages[*plan].fields[*field].number).collect();
            if let Some(why) = refuses(&numbers) {
                return Err(unknown(why));
            }
            self.set(&way, &value, out).map_err(|why| Refusal::invalid("INVALID_FIELD", shown(&key), why))?;
        }
        Ok(())
    }

    fn set(&mut self, way: &Way, value: &str, out: &mut Vec<u8>) -> Result<(), String> {
        let (plan, field) = *way.last().expect("a way has at least one step");
        let last = &self.plans.messages[plan].fields[field];
        if matches!(last.label, Label::Map(_)) || !text::is_leaf(&last.declared) {
            return Err("cannot stand in a query as a whole".to_owned());
        }
        for (depth, (plan, field)) in way.iter().enumerate() {
            let fields = &self.plans.messages[*plan].fields;
            let Some(oneof) = fields[*field].oneof else { continue };
            let mut known = self.oneofs.iter().filter(|(at, known, _)| at[..] == way[..depth] && *known == oneof);
            if let Some((.., other)) = known.find(|(.., other)| other != field) {
                return Err(format!("{} is set already", fields[*other].name));
            }
            self.oneofs.push((way[..depth].to_vec(), oneof, *field));
        }
        if !put(self.plans, way, value, out) {
            return Err(text::expects(&last.declared));
        }
        if matches!(last.label, Label::Single) && !self.taken.insert(way.clone()) {
            return Err("is given more than once".to_owned());
        }
        Ok(())
    }
}

/// Writes a value with the messages that lead to it; parts of one message are one to every reader.
pub(super) fn put(plans: &Plans, way: &[(usize, usize)], value: &str, out: &mut Vec<u8>) -> bool {
    let Some(((plan, field), rest)) = way.split_first() else { return false };
    let field = &plans.messages[*plan].fields[*field];
    if rest.is_empty() {
        return read::put(plans, field, value, out);
    }
    let Kind::Message { group, .. } = field.kind else { return false };
    wire::put_tag(out, field.number, field.kind.form());
    if group {
        let done = put(plans, rest, value, out);
        wire::put_tag(out, field.number, wire::GROUP_END);
        return done;
    }
    let start = wire::begin(out);
    let done = put(plans, rest, value, out);
    wire::end(out, start);
    done
}

/// Follows a dotted path, in either spelling, through single messages.
pub(super) fn way(plans: &Plans, path: &str) -> Option<Way> {
    let (mut way, mut plan) = (Way::new(), Some(0));
    for name in path.split('.') {
        let at = plan?;
        let field = plans.messages[at].by_name(name, 0)?;
        way.push((at, field));
        let found = &plans.messages[at].fields[field];
        plan = match (found.kind, &found.label) {
            (Kind::Message { plan, .. }, Label::Single) => Some(plan),
            _ => None,
        };
    }
    Some(way)
}

fn decode(text: &str) -> Option<Cow<'_, str>> {
    if text.contains('+') {
        return template::decode(&text.replace('+', " "), false).map(|text| Cow::Owned(text.into_owned()));
    }
    template::decode(text, false)
}

fn shown(key: &str) -> String {
    key.chars().take(KEY_SHOWN).collect()
}
