//! Retry and Catch.

use serde_json::Value;

use super::{Parser, SECONDS_MAX};
use crate::asl::{
    failure::Failure,
    fields::Fields,
    model::{Catcher, Retrier},
    path::Place,
    template::Language,
};

impl Parser<'_> {
    pub(super) fn retriers(&mut self, fields: &mut Fields<'_>) -> Vec<Retrier> {
        let pointer = fields.at("Retry");
        let values = fields.list_or_empty("Retry", &mut self.faults);
        let mut retriers = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let Some(mut entry) = Fields::of(value, format!("{pointer}/{index}"), &mut self.faults) else { continue };
            entry.get("Comment");
            let error_equals = self.error_equals(&mut entry, index + 1 == values.len());
            let seconds = f64::from(SECONDS_MAX);
            let interval_seconds = entry.number("IntervalSeconds", 1.0, (0.0, seconds), &mut self.faults);
            let max_attempts = entry.integer("MaxAttempts", (0, SECONDS_MAX), &mut self.faults).unwrap_or(3);
            let backoff_rate = entry.number("BackoffRate", 2.0, (1.0, 1000.0), &mut self.faults);
            let max_delay = entry.number("MaxDelaySeconds", seconds, (1.0, 31_622_400.0), &mut self.faults);
            let max_delay_seconds = entry.get("MaxDelaySeconds").map(|_| max_delay);
            let jitter = entry.text("JitterStrategy", &mut self.faults);
            if jitter.is_some_and(|jitter| jitter != "FULL" && jitter != "NONE") {
                entry.fault("JitterStrategy", "must be FULL or NONE", &mut self.faults);
            }
            entry.finish("a retrier", self.language, &mut self.faults);
            let full_jitter = jitter == Some("FULL");
            retriers.push(Retrier {
                error_equals,
                interval_seconds,
                max_attempts,
                backoff_rate,
                max_delay_seconds,
                full_jitter,
            });
        }
        retriers
    }

    pub(super) fn catchers(&mut self, language: Language, fields: &mut Fields<'_>) -> Vec<Catcher> {
        let pointer = fields.at("Catch");
        let values = fields.list_or_empty("Catch", &mut self.faults);
        let mut catchers = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let Some(mut entry) = Fields::of(value, format!("{pointer}/{index}"), &mut self.faults) else { continue };
            entry.get("Comment");
            let error_equals = self.error_equals(&mut entry, index + 1 == values.len());
            let next = entry.required_text("Next", &mut self.faults);
            let (result_path, output) = match language {
                Language::JsonPath => (self.place(&mut entry), None),
                Language::Jsonata => (Place::Whole, entry.template("Output", language, &mut self.faults)),
            };
            let assign = self.assign(language, &mut entry);
            entry.finish("a catcher", language, &mut self.faults);
            catchers.extend(next.map(|next| Catcher {
                error_equals,
                next: next.to_owned(),
                result_path,
                output,
                assign,
            }));
        }
        catchers
    }

    fn error_equals(&mut self, entry: &mut Fields<'_>, last: bool) -> Vec<String> {
        if entry.get("ErrorEquals").is_none() {
            entry.fault_here("ErrorEquals is missing", &mut self.faults);
        }
        let values = entry.list("ErrorEquals", &mut self.faults);
        let names: Vec<String> = values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if names.len() < values.len() {
            entry.fault("ErrorEquals", "must be an array of strings", &mut self.faults);
        }
        if names.iter().any(|name| name == Failure::ALL) && (names.len() > 1 || !last) {
            entry.fault("ErrorEquals", "States.ALL stands alone and in the last entry", &mut self.faults);
        }
        names
    }
}
