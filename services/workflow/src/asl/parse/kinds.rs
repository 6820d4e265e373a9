//! What only states of one type have.

use serde_json::Value;

use super::{Parser, SECONDS_MAX};
use crate::asl::{
    choice::{self, Test},
    fields::{Fields, integer},
    model::{Field, Kind, Rule, Task, Until},
    template::Language,
};

impl Parser<'_> {
    pub(super) fn kind(&mut self, name: &str, language: Language, fields: &mut Fields<'_>) -> Option<Kind> {
        match name {
            "Pass" if language == Language::JsonPath => Some(Kind::Pass { result: fields.get("Result").cloned() }),
            "Pass" => Some(Kind::Pass { result: None }),
            "Succeed" => Some(Kind::Succeed),
            "Fail" => {
                let string: (&str, &dyn Fn(&Value) -> bool) = ("a string", &Value::is_string);
                let error = self.field(("Error", "ErrorPath"), language, string, fields);
                let cause = self.field(("Cause", "CausePath"), language, string, fields);
                Some(Kind::Fail { error, cause })
            }
            "Wait" => self.wait(language, fields),
            "Choice" => self.choice(language, fields),
            "Task" => self.task(language, fields),
            "Parallel" => self.parallel(fields),
            "Map" => self.map(language, fields),
            _ => None,
        }
    }

    fn wait(&mut self, language: Language, fields: &mut Fields<'_>) -> Option<Kind> {
        let is_seconds = |value: &Value| integer(value).is_some_and(|seconds| seconds <= SECONDS_MAX);
        let is_time = |value: &Value| choice::timestamp(value).is_some();
        let needs = format!("an integer from 0 to {SECONDS_MAX}");
        let seconds = self.field(("Seconds", "SecondsPath"), language, (&needs, &is_seconds), fields);
        let time = ("an RFC 3339 time", &is_time as &dyn Fn(&Value) -> bool);
        let timestamp = self.field(("Timestamp", "TimestampPath"), language, time, fields);
        match (seconds, timestamp) {
            (Some(seconds), None) => Some(Kind::Wait(Until::Seconds(seconds))),
            (None, Some(timestamp)) => Some(Kind::Wait(Until::Timestamp(timestamp))),
            _ => {
                let or_paths = if language == Language::JsonPath { ", or SecondsPath or TimestampPath" } else { "" };
                fields.fault_here(format!("needs either Seconds or Timestamp{or_paths}"), &mut self.faults);
                None
            }
        }
    }

    fn choice(&mut self, language: Language, fields: &mut Fields<'_>) -> Option<Kind> {
        if fields.get("Choices").is_none() {
            fields.fault_here("Choices is missing", &mut self.faults);
        }
        let pointer = fields.at("Choices");
        let values = fields.list("Choices", &mut self.faults);
        let mut rules = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let Some(mut rule) = Fields::of(value, format!("{pointer}/{index}"), &mut self.faults) else { continue };
            rule.get("Comment");
            let next = rule.required_text("Next", &mut self.faults);
            let (test, output) = match language {
                Language::JsonPath => (choice::parse(&mut rule, 0, &mut self.faults), None),
                Language::Jsonata => {
                    if rule.get("Condition").is_none() {
                        rule.fault_here("Condition is missing", &mut self.faults);
                    }
                    let check = ("a boolean", Value::is_boolean);
                    let condition = rule.checked_template("Condition", language, check.0, check.1, &mut self.faults);
                    (condition.map(Test::Condition), rule.template("Output", language, &mut self.faults))
                }
            };
            let assign = self.assign(language, &mut rule);
            rule.finish("a choice rule", language, &mut self.faults);
            if let (Some(test), Some(next)) = (test, next) {
                rules.push(Rule { test, next: next.to_owned(), output, assign });
            }
        }
        let default = fields.text("Default", &mut self.faults).map(str::to_owned);
        (rules.len() == values.len()).then_some(Kind::Choice { rules, default })
    }

    fn task(&mut self, language: Language, fields: &mut Fields<'_>) -> Option<Kind> {
        let resource = fields.required_text("Resource", &mut self.faults)?;
        let credentials = fields.template("Credentials", language, &mut self.faults);
        let timeout_seconds = self.seconds(("TimeoutSeconds", "TimeoutSecondsPath"), language, fields);
        let heartbeat_seconds = self.seconds(("HeartbeatSeconds", "HeartbeatSecondsPath"), language, fields);
        if let (Some(timeout), Some(heartbeat)) = (literal(&timeout_seconds), literal(&heartbeat_seconds))
            && heartbeat >= timeout
        {
            fields.fault("HeartbeatSeconds", "must be less than TimeoutSeconds", &mut self.faults);
        }
        let field = if language == Language::Jsonata { "Arguments" } else { "Parameters" };
        let written = (field, fields.get(field));
        self.check(&fields.pointer, resource, written);
        Some(Kind::Task(Task { resource: resource.to_owned(), timeout_seconds, heartbeat_seconds, credentials }))
    }

    fn seconds(
        &mut self,
        names: (&'static str, &'static str),
        language: Language,
        fields: &mut Fields<'_>,
    ) -> Option<Field> {
        let valid = |value: &Value| integer(value).is_some_and(|seconds| (1..=SECONDS_MAX).contains(&seconds));
        self.field(names, language, (&format!("an integer from 1 to {SECONDS_MAX}"), &valid), fields)
    }

    fn parallel(&mut self, fields: &mut Fields<'_>) -> Option<Kind> {
        if fields.get("Branches").is_none() {
            fields.fault_here("Branches is missing", &mut self.faults);
        }
        let pointer = fields.at("Branches");
        let values = fields.list("Branches", &mut self.faults);
        let mut branches = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let Some(mut branch) = Fields::of(value, format!("{pointer}/{index}"), &mut self.faults) else { continue };
            branch.get("Comment");
            branches.extend(self.scope(&mut branch));
            branch.finish("a branch", self.language, &mut self.faults);
        }
        (branches.len() == values.len() && !branches.is_empty()).then_some(Kind::Parallel { branches })
    }
}

fn literal(field: &Option<Field>) -> Option<u32> {
    integer(field.as_ref()?.template.literal()?)
}
