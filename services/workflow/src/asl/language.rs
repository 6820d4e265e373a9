//! Which query language a definition means that does not say.

use serde_json::Value;

use super::template::Language;

/// Fields that only JSONPath has.
pub(super) const JSON_PATH: [&str; 19] = [
    "InputPath",
    "OutputPath",
    "ResultPath",
    "ResultSelector",
    "Parameters",
    "Result",
    "ItemsPath",
    "SecondsPath",
    "TimestampPath",
    "TimeoutSecondsPath",
    "HeartbeatSecondsPath",
    "ErrorPath",
    "CausePath",
    "MaxConcurrencyPath",
    "Variable",
    "ToleratedFailureCountPath",
    "ToleratedFailurePercentagePath",
    "MaxItemsPerBatchPath",
    "MaxInputBytesPerBatchPath",
];

/// Fields that only JSONata has.
pub(super) const JSONATA: [&str; 4] = ["Arguments", "Output", "Condition", "Items"];

/// The language of states that name none in a definition that names none. Step Functions takes JSONPath there; we take
/// JSONata, unless a state uses what only JSONPath has or none uses what only JSONata has.
pub(super) fn implied(definition: &Value) -> Language {
    let mut seen = Seen::default();
    seen.scope(definition);
    if seen.jsonata && !seen.json_path { Language::Jsonata } else { Language::JsonPath }
}

#[derive(Default)]
struct Seen {
    json_path: bool,
    jsonata: bool,
}

impl Seen {
    fn scope(&mut self, scope: &Value) {
        let states = scope.get("States").and_then(Value::as_object);
        for state in states.into_iter().flat_map(|states| states.values()) {
            if state.get("QueryLanguage").is_none() {
                self.state(state);
            }
            let branches = state.get("Branches").and_then(Value::as_array);
            branches.into_iter().flatten().for_each(|branch| self.scope(branch));
            for field in ["ItemProcessor", "Iterator"] {
                state.get(field).into_iter().for_each(|processor| self.scope(processor));
            }
        }
    }

    fn state(&mut self, state: &Value) {
        for (field, value) in state.as_object().into_iter().flatten() {
            match field.as_str() {
                "Branches" | "ItemProcessor" | "Iterator" => {}
                "Comment" | "Resource" | "Next" | "Type" | "Default" => {}
                // What a literal holds says nothing.
                "Result" => self.json_path = true,
                "Retry" => {}
                "Choices" | "Catch" | "ItemReader" | "ItemBatcher" | "ResultWriter" => {
                    self.json_path |= has_key(value, &JSON_PATH, 0);
                    self.jsonata |= has_key(value, &JSONATA, 0);
                    self.value(value, 0);
                }
                field => {
                    self.json_path |= JSON_PATH.contains(&field);
                    self.jsonata |= JSONATA.contains(&field);
                    self.value(value, 0);
                }
            }
        }
    }

    fn value(&mut self, value: &Value, depth: usize) {
        match value {
            Value::String(text) => self.jsonata |= text.starts_with("{%") && text.ends_with("%}"),
            Value::Array(items) if depth < 100 => items.iter().for_each(|item| self.value(item, depth + 1)),
            Value::Object(fields) if depth < 100 => {
                for (key, field) in fields {
                    self.json_path |= key.ends_with(".$");
                    self.value(field, depth + 1);
                }
            }
            _ => {}
        }
    }
}

/// Whether one of these is a key of an entry, of its `And`, `Or` or `Not`, or of an object in it.
fn has_key(value: &Value, keys: &[&str], depth: usize) -> bool {
    match value {
        Value::Array(items) if depth < 100 => items.iter().any(|item| has_key(item, keys, depth + 1)),
        Value::Object(fields) if depth < 100 => fields.iter().any(|(key, field)| {
            keys.contains(&key.as_str())
                || matches!(key.as_str(), "And" | "Or" | "Not") && has_key(field, keys, depth + 1)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_fields_tell_the_language() {
        let of = |state: Value| implied(&json!({"StartAt": "A", "States": {"A": state}}));
        assert_eq!(of(json!({"Type": "Pass", "End": true})), Language::JsonPath);
        assert_eq!(of(json!({"Type": "Pass", "Output": 1})), Language::Jsonata);
        assert_eq!(of(json!({"Type": "Wait", "Seconds": "{% 1 %}"})), Language::Jsonata);
        assert_eq!(of(json!({"Type": "Choice", "Choices": [{"Condition": "{% true %}"}]})), Language::Jsonata);
        assert_eq!(of(json!({"Type": "Choice", "Choices": [{"Not": {"Variable": "$.a"}}]})), Language::JsonPath);
        assert_eq!(of(json!({"Type": "Pass", "Assign": {"a.$": "$", "b": "{% 1 %}"}})), Language::JsonPath);
        assert_eq!(of(json!({"QueryLanguage": "JSONata", "Type": "Pass", "Output": 1})), Language::JsonPath);
    }
}
