//! The rules of an envelope, compiled: what they make of an input.

use std::fmt;

use jsonschema::Validator;
use serde_json::{Map, Value};
use tenon_chassis::Fault;
use tonic::Code;

use super::envelope::Envelope;
use crate::cel::{self, Expression};

/// Faults of an input that one answer names.
const FAULTS_MAX: usize = 20;
/// Characters that are kept of a search attribute.
const ATTRIBUTE_MAX: usize = 256;
/// Characters of a key.
const KEY_MAX: usize = 256;

/// The compiled rules of a published version.
pub struct Rules {
    envelope: Envelope,
    schema: Option<Validator>,
    key: Option<Expression>,
    entity_id: Option<Expression>,
    idempotency_key: Option<Expression>,
    attributes: Vec<(String, Expression)>,
}

/// What the rules make of an input.
#[derive(Debug, Default, PartialEq)]
pub struct Admission {
    /// With which runs it takes turns, and how many of them may be at work.
    pub concurrency: Option<(String, i32)>,
    pub entity_id: Option<String>,
    pub idempotency_key: Option<String>,
    /// What the run is searched by, a JSON object of texts, numbers and booleans.
    pub attributes: Map<String, Value>,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rules({:?})", self.envelope)
    }
}

/// Compiles the JSON Schema of inputs. References go to the schema itself and nowhere else.
///
/// # Errors
/// Says what is wrong with it.
pub fn schema(schema: &Value) -> Result<Validator, String> {
    let options = jsonschema::draft202012::options().should_validate_formats(true);
    options.build(schema).map_err(|why| format!("is no JSON Schema: {why}"))
}

impl Rules {
    /// Compiles the rules of an envelope that was checked when it was published.
    ///
    /// # Errors
    /// INTERNAL when it does not pass any more.
    pub fn new(envelope: Envelope) -> Result<Self, Fault> {
        let broken =
            |why: String| Fault::new(Code::Internal, "INTERNAL", format!("a published envelope is not valid: {why}"));
        let compile = |source: &str| match source {
            "" => Ok(None),
            source => cel::compile(source, &["input"]).map(Some).map_err(broken),
        };
        let key = compile(envelope.concurrency.as_ref().map_or("", |concurrency| concurrency.key.as_str()))?;
        let (entity_id, idempotency_key) = (compile(&envelope.entity_id)?, compile(&envelope.idempotency_key)?);
        let mut attributes = Vec::new();
        for (name, source) in &envelope.search_attributes {
            attributes.extend(compile(source)?.map(|compiled| (name.clone(), compiled)));
        }
        let schema = envelope.input_schema.as_ref().map(schema).transpose().map_err(broken)?;
        Ok(Self { envelope, schema, key, entity_id, idempotency_key, attributes })
    }

    /// The envelope that the rules are of.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Checks an input and derives what the run is to be kept by.
    ///
    /// # Errors
    /// INVALID_ARGUMENT INVALID_INPUT with the places that do not match the schema, or the rule that has no value.
    pub fn admit(&self, input: &Value) -> Result<Admission, Fault> {
        self.check(input)?;
        let variables = [("input", input)];
        let text = |rule: &Option<Expression>, field: &str| {
            let text = rule.as_ref().map(|rule| rule.text(&variables)).transpose();
            text.map(Option::flatten).map_err(|why| refused(field, why))
        };
        let key = text(&self.key, "concurrency.key")?.unwrap_or_default();
        if key.chars().count() > KEY_MAX {
            return Err(refused("concurrency.key", format!("must have at most {KEY_MAX} characters")));
        }
        let mut attributes = Map::new();
        for (name, rule) in &self.attributes {
            match rule.evaluate(&variables).map_err(|why| refused(&format!("searchAttributes.{name}"), why))? {
                Value::Null => {}
                Value::String(text) => {
                    attributes.insert(name.clone(), Value::String(text.chars().take(ATTRIBUTE_MAX).collect()));
                }
                scalar @ (Value::Bool(_) | Value::Number(_)) => drop(attributes.insert(name.clone(), scalar)),
                _ => return Err(refused(&format!("searchAttributes.{name}"), "is a list or a map".to_owned())),
            }
        }
        Ok(Admission {
            concurrency: self.envelope.concurrency.as_ref().map(|concurrency| (key, concurrency.limit)),
            entity_id: text(&self.entity_id, "entityId")?,
            idempotency_key: text(&self.idempotency_key, "idempotencyKey")?,
            attributes,
        })
    }

    fn check(&self, input: &Value) -> Result<(), Fault> {
        let limit = usize::try_from(self.envelope.limits.input_bytes).unwrap_or_default();
        if limit > 0 && input.to_string().len() > limit {
            return Err(refused("", format!("must have at most {limit} bytes as JSON")));
        }
        let Some(schema) = &self.schema else { return Ok(()) };
        let mut fault =
            Fault::new(Code::InvalidArgument, "INVALID_INPUT", "the input does not match the schema of the workflow");
        let mut valid = true;
        for error in schema.iter_errors(input).take(FAULTS_MAX) {
            valid = false;
            fault = fault.violation(format!("input{}", error.instance_path()), error.to_string());
        }
        if valid { Ok(()) } else { Err(fault) }
    }
}

fn refused(rule: &str, why: String) -> Fault {
    let fault = Fault::new(Code::InvalidArgument, "INVALID_INPUT", "the input does not pass the rules of the workflow");
    let why = if rule.is_empty() { why } else { format!("{rule}: {why}") };
    fault.violation("input", why)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_are_applied_to_an_input() {
        let envelope = json!({
            "input_schema": {"type": "object", "required": ["customer"], "properties": {"n": {"type": "integer"}}},
            "concurrency": {"key": "input.customer", "limit": 2},
            "entity_id": "input.customer",
            "idempotency_key": "has(input.id) ? input.id : null",
            "search_attributes": {"n": "has(input.n) ? input.n : null", "customer": "input.customer"},
            "run_timeout_s": 60,
            "limits": {"input_bytes": 60, "history_events": 0},
        });
        let rules = Rules::new(serde_json::from_value(envelope).unwrap()).unwrap();
        let admission = rules.admit(&json!({"customer": "c1", "n": 7})).unwrap();
        assert_eq!(admission.concurrency, Some(("c1".to_owned(), 2)));
        assert_eq!((admission.entity_id.as_deref(), admission.idempotency_key), (Some("c1"), None));
        assert_eq!(Value::Object(admission.attributes), json!({"customer": "c1", "n": 7}));
        for bad in [
            json!({"n": 1}),
            json!({"customer": "c", "n": "x"}),
            json!({"customer": {"a": 1}}),
            json!({"customer": "c".repeat(80)}),
        ] {
            assert_eq!(rules.admit(&bad).unwrap_err().reason, "INVALID_INPUT", "{bad}");
        }
    }

    #[test]
    fn a_schema_refers_to_itself_only() {
        assert!(schema(&json!({"$ref": "https://example.com/schema.json"})).is_err());
        assert!(schema(&json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}})).is_ok());
        assert!(schema(&json!({"type": "nothing"})).is_err());
    }
}
