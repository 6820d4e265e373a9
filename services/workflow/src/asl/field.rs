//! Fields that are a literal, an expression or a path, and how Step Functions words what is wrong with their values.

use serde_json::Value;

use super::{
    failure::Trouble,
    model::Field,
    path::Path,
    scope::Scope,
    template::{Query, Template},
};

impl Field {
    /// Its value.
    pub(super) fn evaluate(&self, scope: &Scope<'_>) -> Result<Value, Trouble> {
        if let Template::Query(Query::Path(path)) = &self.template
            && let Some(cause) = self.missing(path)
            && scope.find(path).is_err()
        {
            return Err(Trouble::fatal(cause));
        }
        self.template.evaluate(self.name, scope)
    }

    fn missing(&self, path: &Path) -> Option<String> {
        let text = &path.text;
        match self.name {
            "SecondsPath" | "TimestampPath" => {
                Some(format!("The {} parameter does not reference an input value: {text}", self.name))
            }
            "TimeoutSecondsPath" | "HeartbeatSecondsPath" => {
                Some(format!("Invalid path '{text}' : No results for path: {}", path.bracketed()))
            }
            _ => None,
        }
    }

    /// The failure of a value that is not what the field needs.
    pub(super) fn wrong(&self, needs: &str, value: &Value) -> Trouble {
        let Template::Query(_) = &self.template else { return self.template.wrong(self.name, needs, value) };
        let (name, path) = (self.name, self.path());
        let shown = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let is_whole = value.as_i64().is_some();
        Trouble::fatal(match name {
            "SecondsPath" if is_whole => {
                format!("The SecondsPath parameter references a negative value: {path} == {shown}")
            }
            "SecondsPath" => format!("The SecondsPath parameter cannot be parsed as a long value: {path} == {shown}"),
            "TimestampPath" => format!(
                "The TimestampPath parameter does not reference a valid ISO-8601 extended offset date-time format string: \
                 {path} == {shown}"
            ),
            "MaxConcurrencyPath" if is_whole => {
                format!("Expected non-negative integer for MaxConcurrency, got '{shown}' instead.")
            }
            "ToleratedFailureCountPath" if is_whole => "ToleratedFailureCount cannot be negative.".to_owned(),
            "ToleratedFailurePercentagePath" if value.is_number() => {
                "ToleratedFailurePercentage must be between 0 and 100.".to_owned()
            }
            "ToleratedFailurePercentagePath" => {
                format!("The {name} field refers to value \"{shown}\" which is not a valid float: {path}")
            }
            "MaxConcurrencyPath" | "ToleratedFailureCountPath" => {
                format!("The {name} field refers to value \"{shown}\" which is not a valid integer: {path}")
            }
            "ItemsPath" => format!("Reference path \"{path}\" must point to array."),
            _ => format!("The value for the field '{name}' must be a valid {needs}, but was: {value}"),
        })
    }

    /// The path that it is, as it was written.
    fn path(&self) -> &str {
        match &self.template {
            Template::Query(Query::Path(path)) => &path.text,
            Template::Query(Query::Call(call)) => &call.text,
            _ => "$",
        }
    }
}
