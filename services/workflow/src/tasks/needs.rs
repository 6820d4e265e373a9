//! What tasks need that their tenant makes, secrets and workflows: it may come after the template, and should be named early.

use std::collections::BTreeSet;

use serde_json::Value;

use super::references;
use crate::{asl::Fault, secrets::model as secrets};

/// Something that a task refers to by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    Secret(String),
    Workflow(String),
}

impl Need {
    /// The fault of a template where there is none such.
    #[must_use]
    pub fn missing(&self, pointer: String) -> Fault {
        let reason = match self {
            Self::Secret(name) => format!("there is no secret {name}; make it with CreateSecret"),
            Self::Workflow(id) => format!("there is no workflow {id}; publish it with CreateWorkflow"),
        };
        Fault { pointer, reason }
    }
}

/// What a Resource and the written part of its Arguments need, with pointers below the state.
#[must_use]
pub fn needs(resource: &str, arguments: Option<&Value>) -> BTreeSet<(String, Need)> {
    let mut found = BTreeSet::new();
    let arguments = arguments.unwrap_or(&Value::Null);
    match resource.split_once(':') {
        Some(("workflow", id)) => {
            found.insert(("/Resource".to_owned(), Need::Workflow(id.to_owned())));
        }
        Some(("http", _)) => {
            for field in ["url", "query", "headers", "body"] {
                walk(&arguments[field], &format!("/Arguments/{field}"), &mut found);
            }
        }
        Some(("llm", _)) => {
            let secret = &arguments["secret"];
            let name = secret.as_str().filter(|text| !text.starts_with("{%")).or_else(|| secret["$secret"].as_str());
            if let Some(name) = name {
                let name = name.strip_prefix("secrets/").unwrap_or(name).to_owned();
                found.insert(("/Arguments/secret".to_owned(), Need::Secret(name)));
            }
        }
        _ => {}
    }
    found
}

fn walk(value: &Value, pointer: &str, found: &mut BTreeSet<(String, Need)>) {
    match value {
        Value::Object(fields) if references::named(fields).is_none() => {
            for (key, value) in fields {
                walk(value, &format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, &format!("{pointer}/{index}"), found);
            }
        }
        value => {
            let mut names = Vec::new();
            references::find(value, &mut names);
            names.retain(|name| secrets::is_name(name));
            found.extend(names.into_iter().map(|name| (pointer.to_owned(), Need::Secret(name))));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_named_is_needed_and_what_is_worked_out_is_not() {
        let named = |resource: &str, arguments: Value| -> Vec<String> {
            let needs = needs(resource, Some(&arguments)).into_iter();
            needs
                .map(|(pointer, need)| need.missing(pointer))
                .map(|fault| format!("{} {}", fault.pointer, fault.reason))
                .collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(
            named("workflow:child", json!({})),
            ["/Resource there is no workflow child; publish it with CreateWorkflow"]
        );
        let arguments = json!({
            "url": "https://x.test/${secrets.path}", "headers": {"Authorization": "{% 'Bearer ${secrets.key}' & $x %}"},
            "body": {"a/b": [{"$secret": "other"}]}
        });
        assert_eq!(
            named("http:invoke", arguments),
            [
                "/Arguments/body/a~1b/0 there is no secret other; make it with CreateSecret",
                "/Arguments/headers/Authorization there is no secret key; make it with CreateSecret",
                "/Arguments/url there is no secret path; make it with CreateSecret",
            ]
        );
        assert_eq!(named("llm:chat", json!({"secret": "secrets/openai"})).len(), 1);
        assert_eq!(named("llm:chat", json!({"secret": {"$secret": "openai"}})).len(), 1);
        assert_eq!(named("llm:chat", json!({"secret": "{% $states.input.secret %}"})), none);
        assert_eq!(named("llm:chat", json!("{% $states.input %}")), none);
        assert_eq!(named("email:send", json!({"text": "${secrets.x}"})), none);
    }
}
