//! Query parameters to request fields: nested by dots, repeated by repetition.

use std::{borrow::Cow, collections::HashSet};

use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage};

use super::{descend, oneof_taken, resolve, text};
use crate::{errors::Refusal, template};

/// Field paths deeper than this are refused: a recursive message would take any depth.
const DEPTH: usize = 32;
/// As much of a key as an error message repeats.
const KEY_SHOWN: usize = 100;

/// Sets the fields that a raw query names. `refuses` says why a field may not come from the query.
pub(super) fn apply(
    message: &mut DynamicMessage,
    query: &str,
    refuses: impl Fn(&[FieldDescriptor]) -> Option<&'static str>,
) -> Result<(), Refusal> {
    let mut seen = HashSet::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(key), Some(value)) = (decode(key), decode(value)) else {
            return Err(Refusal::invalid("INVALID_QUERY", shown(pair), "is not percent-encoded UTF-8"));
        };
        let unknown = |why: String| Refusal::invalid("UNKNOWN_FIELD", shown(&key), why);
        if key.split('.').count() > DEPTH {
            return Err(unknown("is nested too deeply".to_owned()));
        }
        let fields = resolve(&message.descriptor(), &key).map_err(|_| unknown("is not a field".to_owned()))?;
        if let Some(why) = refuses(&fields) {
            return Err(unknown(why.to_owned()));
        }
        set(message, &fields, &key, &value, &mut seen)?;
    }
    Ok(())
}

fn set(
    message: &mut DynamicMessage,
    fields: &[FieldDescriptor],
    key: &str,
    value: &str,
    seen: &mut HashSet<Vec<u32>>,
) -> Result<(), Refusal> {
    let refuse = |why: String| Refusal::invalid("INVALID_FIELD", shown(key), why);
    let (last, parents) = fields.split_last().expect("resolve yields at least one field");
    let kind = last.kind();
    if last.is_map() || !text::is_leaf(&kind) {
        return Err(refuse("cannot stand in a query as a whole".to_owned()));
    }
    for (depth, parent) in parents.iter().enumerate() {
        if let Some(why) = oneof_taken(descend(message, &parents[..depth]), parent) {
            return Err(refuse(why));
        }
    }
    let target = descend(message, parents);
    if let Some(why) = oneof_taken(target, last) {
        return Err(refuse(why));
    }
    let value = text::parse(&kind, value).ok_or_else(|| refuse(text::expects(&kind)))?;
    if last.is_list() {
        target.get_field_mut(last).as_list_mut().expect("the field is a list").push(value);
        return Ok(());
    }
    if !seen.insert(fields.iter().map(FieldDescriptor::number).collect()) {
        return Err(refuse("is given more than once".to_owned()));
    }
    target.set_field(last, value);
    Ok(())
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
