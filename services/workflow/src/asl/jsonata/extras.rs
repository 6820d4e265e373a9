//! What Step Functions adds to JSONata: $partition, $range, $hash, $random, $uuid and $parse; and what it takes away.

use std::sync::atomic::{AtomicU64, Ordering};

use jlens_core::{Bindings, Error, HostFunction};
use serde_json::{Value, json};

use crate::asl::intrinsic::{hash, mix, partition, range, uuid};

type Arguments<'a> = &'a [Option<Value>];
type Answer = Result<Option<Value>, Error>;

const NAMES: [&str; 7] = ["$partition", "$range", "$hash", "$random", "$uuid", "$parse", "$eval"];

/// Whether an expression may call one of them.
pub(super) fn are_used(source: &str) -> bool {
    NAMES.iter().any(|name| source.contains(name))
}

/// Adds them. `seed` makes what is random repeatable.
pub(super) fn add(bindings: Bindings, seed: u64) -> Bindings {
    let (uuids, randoms) = (AtomicU64::new(0), AtomicU64::new(0));
    // $eval is shadowed: to call it is an error (T1006), as in Step Functions.
    bindings
        .var("eval", Value::Null)
        .function(
            "partition",
            HostFunction::new(2, |arguments, _| {
                let items = match argument(arguments, 0) {
                    Some(Value::Array(items)) => items.clone(),
                    Some(other) => vec![other.clone()],
                    None => return Ok(None),
                };
                answered(whole(arguments, 1).and_then(|size| partition(&items, size)))
            }),
        )
        .function(
            "range",
            HostFunction::new(3, |arguments, _| {
                let bounds = || Ok((whole(arguments, 0)?, whole(arguments, 1)?, whole(arguments, 2)?));
                answered(bounds().and_then(|(first, last, step)| range(first, last, step)))
            }),
        )
        .function(
            "hash",
            HostFunction::new(2, |arguments, _| {
                let data = match argument(arguments, 0) {
                    None => return Ok(None),
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                };
                let algorithm = argument(arguments, 1).and_then(Value::as_str).unwrap_or("SHA-256");
                answered(hash(&data, algorithm).map(Value::String))
            }),
        )
        .function(
            "random",
            HostFunction::new(1, move |arguments, _| {
                let number = match argument(arguments, 0) {
                    Some(seed) => mix(seed.as_f64().unwrap_or_default().to_bits()),
                    None => mix(seed ^ randoms.fetch_add(1, Ordering::Relaxed).wrapping_mul(0xd6e8_feb8_6659_fd93)),
                };
                #[expect(clippy::cast_precision_loss, reason = "53 bits of a random number are enough")]
                let fraction = (number >> 11) as f64 / (1_u64 << 53) as f64;
                Ok(Some(json!(fraction)))
            }),
        )
        .function(
            "uuid",
            HostFunction::new(0, move |_, _| {
                let at = uuids.fetch_add(1, Ordering::Relaxed);
                let high = mix(seed ^ at.wrapping_mul(0xa076_1d64_78bd_642f));
                Ok(Some(json!(uuid(high, mix(high)))))
            }),
        )
        .function(
            "parse",
            HostFunction::new(1, |arguments, _| match argument(arguments, 0) {
                None => Ok(None),
                Some(value) => {
                    let text = value.as_str().ok_or("the argument of $parse must be a string".to_owned());
                    let parse =
                        |text| serde_json::from_str(text).map_err(|_| "the argument of $parse is not JSON".to_owned());
                    answered(text.and_then(parse))
                }
            }),
        )
}

fn argument<'a>(arguments: Arguments<'a>, at: usize) -> Option<&'a Value> {
    arguments.get(at)?.as_ref()
}

fn whole(arguments: Arguments<'_>, at: usize) -> Result<i64, String> {
    let number = argument(arguments, at).and_then(Value::as_f64).filter(|number| number.abs() < 9.0e15);
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
    number.map(|number| number.round() as i64).ok_or_else(|| format!("argument {} must be a number", at + 1))
}

fn answered(value: Result<Value, String>) -> Answer {
    value.map(Some).map_err(|why| Error::new("H0001").with("message", why))
}
