//! Large values of a run: snapshots and histories refer to them, and each is written once.

use std::collections::{HashMap, HashSet};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// Bytes of JSON from which on a value is kept apart. A row of its own with its index entry, and a reference in each place,
/// cost some hundred bytes; Postgres moves values out of a row from 2 KiB on, and writes them anew whenever any part of what
/// holds them has changed. Most runs have nothing of that size, and then nothing is looked for.
const LARGE: usize = 8 * 1024;
/// Bytes that stand for a reference.
const REFERENCE: usize = 64;
/// Stands where a value was: with its digest, or with the list of what the run itself had under such a key.
const MARK: &str = "$payload";

/// SHA-256 of a value's text.
pub(crate) type Digest = [u8; 32];

/// A value that is kept apart, as JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) digest: Digest,
    pub(crate) value: String,
}

/// A text refers to a value that is not there.
#[derive(Debug, thiserror::Error)]
#[error("a large value is gone")]
pub(crate) struct Missing;

/// The large values of one run that are known to be kept, and those that still have to be.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    kept: HashSet<Digest>,
    new: Vec<Payload>,
}

impl Keeper {
    /// One for a run whose payloads are these.
    pub(crate) fn of(kept: impl IntoIterator<Item = Digest>) -> Self {
        Self { kept: kept.into_iter().collect(), new: Vec::new() }
    }

    /// Those that came since the last time.
    pub(crate) fn take_new(&mut self) -> Vec<Payload> {
        std::mem::take(&mut self.new)
    }

    /// A snapshot as it is kept: an object, or a list of the one that refers to large values.
    pub(crate) fn fold_snapshot(&mut self, text: String) -> String {
        match self.folded(&text) {
            Some(folded) => Value::Array(vec![folded]).to_string(),
            None => text,
        }
    }

    /// The events of a step as they are kept: a list, or an object with the one that refers to large values.
    pub(crate) fn fold_events(&mut self, text: String) -> String {
        match self.folded(&text) {
            Some(folded) => Value::Object(Map::from_iter([(MARK.to_owned(), folded)])).to_string(),
            None => text,
        }
    }

    fn folded(&mut self, text: &str) -> Option<Value> {
        // What is small has nothing large in it.
        if text.len() <= LARGE {
            return None;
        }
        let mut value: Value = serde_json::from_str(text).ok()?;
        let mut folds = false;
        self.fold(&mut value, &mut folds);
        folds.then_some(value)
    }

    /// Replaces the innermost values that are large, as others around them may change; answers with what is left in bytes.
    fn fold(&mut self, value: &mut Value, folds: &mut bool) -> usize {
        let size = match value {
            Value::Null | Value::Bool(_) => 5,
            Value::Number(_) => 8,
            Value::String(text) => text.len() + 2,
            Value::Array(items) => items.iter_mut().map(|item| self.fold(item, folds) + 1).sum::<usize>() + 2,
            Value::Object(fields) => {
                let each = fields.iter_mut().map(|(name, field)| name.len() + 4 + self.fold(field, folds));
                let size = each.sum::<usize>() + 2;
                if fields.len() == 1 && fields.contains_key(MARK) {
                    // Of the run's own making: told from a reference by the list around it.
                    let own = fields.remove(MARK).unwrap_or_default();
                    fields.insert(MARK.to_owned(), Value::Array(vec![own]));
                }
                size
            }
        };
        if size <= LARGE {
            return size;
        }
        *folds = true;
        let text = value.to_string();
        let digest: Digest = Sha256::digest(text.as_bytes()).into();
        *value = reference(&digest);
        if self.kept.insert(digest) {
            self.new.push(Payload { digest, value: text });
        }
        REFERENCE
    }
}

fn reference(digest: &Digest) -> Value {
    Value::Object(Map::from_iter([(MARK.to_owned(), Value::String(BASE64_URL_SAFE_NO_PAD.encode(digest)))]))
}

/// Whether a snapshot refers to large values.
pub(crate) fn is_folded_snapshot(text: &str) -> bool {
    text.trim_start().starts_with('[')
}

/// Whether the events of a step do.
pub(crate) fn is_folded_events(events: &Value) -> bool {
    events.is_object()
}

/// A snapshot as it was.
///
/// # Errors
/// When a value is not among these.
pub(crate) fn unfold_snapshot(text: String, values: &HashMap<Digest, Value>) -> Result<String, Missing> {
    match is_folded_snapshot(&text).then(|| serde_json::from_str(&text)) {
        Some(Ok(Value::Array(mut list))) if list.len() == 1 => {
            unfold(list.remove(0), values).map(|value| value.to_string())
        }
        _ => Ok(text),
    }
}

/// The values that the events of a step refer to.
pub(crate) fn references(events: &Value, found: &mut Vec<Digest>) {
    match events {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(fields) => match fields.get(MARK).filter(|_| fields.len() == 1) {
            Some(Value::String(text)) => {
                let digest = BASE64_URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| Digest::try_from(bytes).ok());
                found.extend(digest);
            }
            _ => fields.values().for_each(|field| references(field, found)),
        },
        _ => {}
    }
}

/// A snapshot with nothing where large values were: for who asks only where the run stands.
pub(crate) fn outline(text: String) -> String {
    if !is_folded_snapshot(&text) {
        return text;
    }
    match serde_json::from_str::<Value>(&text) {
        Ok(Value::Array(mut list)) if list.len() == 1 => list.remove(0).to_string(),
        _ => text,
    }
}

/// The events of a step as they were.
///
/// # Errors
/// When a value is not among these.
pub(crate) fn unfold_events(events: Value, values: &HashMap<Digest, Value>) -> Result<Value, Missing> {
    match events {
        Value::Object(mut folded) => unfold(folded.remove(MARK).ok_or(Missing)?, values),
        whole => Ok(whole),
    }
}

fn unfold(value: Value, values: &HashMap<Digest, Value>) -> Result<Value, Missing> {
    Ok(match value {
        Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| unfold(item, values)).collect::<Result<_, _>>()?)
        }
        Value::Object(mut fields) if fields.len() == 1 && fields.contains_key(MARK) => {
            match fields.remove(MARK).unwrap_or_default() {
                Value::String(text) => {
                    let digest = BASE64_URL_SAFE_NO_PAD.decode(text).ok();
                    let digest = digest.and_then(|bytes| Digest::try_from(bytes).ok()).ok_or(Missing)?;
                    // A value holds only what was there before it, so this comes to an end.
                    unfold(values.get(&digest).ok_or(Missing)?.clone(), values)?
                }
                Value::Array(mut own) if own.len() == 1 => {
                    fields.insert(MARK.to_owned(), unfold(own.remove(0), values)?);
                    Value::Object(fields)
                }
                _ => return Err(Missing),
            }
        }
        Value::Object(fields) => {
            let each = fields.into_iter().map(|(name, field)| Ok((name, unfold(field, values)?)));
            Value::Object(each.collect::<Result<_, Missing>>()?)
        }
        plain => plain,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn values(payloads: &[Payload]) -> HashMap<Digest, Value> {
        payloads.iter().map(|one| (one.digest, serde_json::from_str(&one.value).unwrap())).collect()
    }

    #[test]
    fn a_value_that_stays_is_kept_once_whatever_changes_around_it() {
        let text = "x".repeat(100_000);
        let snapshot =
            |n: u64| json!({"root": {"input": {"doc": text, "n": n}, "variables": {"doc": text}}}).to_string();
        let (mut keeper, mut all) = (Keeper::default(), Vec::new());
        for n in 0..10 {
            let folded = keeper.fold_snapshot(snapshot(n));
            assert!(folded.len() < 300, "{} bytes", folded.len());
            all.extend(keeper.take_new());
            assert_eq!(unfold_snapshot(folded, &values(&all)).unwrap(), snapshot(n));
        }
        assert_eq!(all.len(), 1);
        let events = json!([[0, "TaskStateEntered", "A", {"input": {"doc": text}}]]);
        let folded: Value = serde_json::from_str(&keeper.fold_events(events.to_string())).unwrap();
        assert!(keeper.take_new().is_empty() && is_folded_events(&folded));
        assert_eq!(unfold_events(folded.clone(), &values(&all)).unwrap(), events);
        assert!(unfold_events(folded, &HashMap::new()).is_err());
        // Another engine knows what it has read.
        let mut other = Keeper::of(all.iter().map(|one| one.digest));
        other.fold_snapshot(snapshot(11));
        assert!(other.take_new().is_empty());
    }

    #[test]
    fn what_is_small_stays_as_it_is_and_what_looks_like_a_reference_comes_back() {
        let mut keeper = Keeper::default();
        let small = json!({"a": {MARK: "mine"}}).to_string();
        assert_eq!(keeper.fold_snapshot(small.clone()), small);
        assert_eq!(outline(small.clone()), small);
        let large = json!({"a": {MARK: "mine"}, "b": {MARK: [1]}, "c": "x".repeat(9_000), "d": {MARK: {MARK: null}}});
        let folded = keeper.fold_snapshot(large.to_string());
        let all = keeper.take_new();
        assert!(is_folded_snapshot(&folded) && outline(folded.clone()).starts_with('{'));
        let back: Value = serde_json::from_str(&unfold_snapshot(folded, &values(&all)).unwrap()).unwrap();
        assert_eq!(back, large);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            "[a-z\"\\\\\u{0}é]{0,12}".prop_map(Value::from),
            (8_000_usize..9_000).prop_map(|length| Value::from("y".repeat(length))),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            let key = prop_oneof![Just(MARK.to_owned()), "[a-z]{1,4}"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_a_run_holds_comes_back(value in any_json()) {
            let mut keeper = Keeper::default();
            let snapshot = json!({"root": value}).to_string();
            let folded = keeper.fold_snapshot(snapshot.clone());
            let all = values(&keeper.take_new());
            prop_assert_eq!(unfold_snapshot(folded, &all).unwrap(), snapshot);
        }
    }
}
