//! Arguments as they are written in a template: which fields there are, which must be there, and what a literal may be.

use serde_json::Value;

use crate::asl::Fault;

/// A field of the Arguments of a resource.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
}

/// What a literal may be.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Any,
    Text,
    /// A text, or a list of texts.
    Texts,
    OneOf(&'static [&'static str]),
    Number,
    /// A whole number, 1 or more.
    Count,
    Object,
    List,
    /// A list of user names and roles, or an object.
    Nested(&'static [Field]),
}

pub(super) const fn required(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: true }
}

pub(super) const fn optional(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: false }
}

/// The faults of Arguments, with pointers below the state. Absent ones are the state's input, which is known later.
pub(super) fn check(fields: &[Field], arguments: Option<&Value>) -> Vec<Fault> {
    let mut faults = Vec::new();
    if let Some(arguments) = arguments {
        object(fields, arguments, "/Arguments", &mut faults);
    }
    faults
}

/// Whether the value is worked out when the state is entered.
fn is_expression(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.starts_with("{%"))
}

fn object(fields: &[Field], value: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    let object = match value {
        Value::Object(object) => object,
        value if is_expression(value) => return,
        _ => {
            faults.push(Fault { pointer: pointer.to_owned(), reason: "must be an object".to_owned() });
            return;
        }
    };
    for field in fields.iter().filter(|field| field.required) {
        // `name.$` is a path, in templates that are written in JSONPath.
        if !object.contains_key(field.name) && !object.contains_key(&format!("{}.$", field.name)) {
            faults.push(Fault { pointer: pointer.to_owned(), reason: format!("needs {}", field.name) });
        }
    }
    for (key, value) in object {
        let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
        let (name, is_path) = key.strip_suffix(".$").map_or((key.as_str(), false), |name| (name, true));
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            let known: Vec<&str> = fields.iter().map(|field| field.name).collect();
            faults.push(Fault { pointer, reason: format!("is not one of {}", known.join(", ")) });
            continue;
        };
        if !is_path && !is_expression(value) {
            literal(field.kind, value, pointer, faults);
        }
    }
}

fn literal(kind: Kind, value: &Value, pointer: String, faults: &mut Vec<Fault>) {
    let texts = |value: &Value| value.as_array().is_some_and(|items| items.iter().all(Value::is_string));
    let wanted = match kind {
        Kind::Any => return,
        // `{"$secret": "NAME"}` stands for a text.
        Kind::Text if value.is_string() || value.get("$secret").is_some_and(Value::is_string) => return,
        Kind::Text => "must be a text".to_owned(),
        Kind::Texts if value.is_string() || texts(value) => return,
        Kind::Texts => "must be a text or a list of texts".to_owned(),
        Kind::OneOf(known) if value.as_str().is_some_and(|text| known.contains(&text)) => return,
        Kind::OneOf(known) => format!("must be one of {}", known.join(", ")),
        Kind::Number if value.is_number() => return,
        Kind::Number => "must be a number".to_owned(),
        Kind::Count if value.as_u64().is_some_and(|count| count > 0) => return,
        Kind::Count => "must be a whole number, 1 or more".to_owned(),
        Kind::Object if value.is_object() => return,
        Kind::Object => "must be an object".to_owned(),
        Kind::List if value.is_array() => return,
        Kind::List => "must be a list".to_owned(),
        Kind::Nested(fields) => return object(fields, value, &pointer, faults),
    };
    faults.push(Fault { pointer, reason: wanted });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FIELDS: &[Field] = &[
        required("url", Kind::Text),
        optional("method", Kind::OneOf(&["GET", "POST"])),
        optional("size", Kind::Count),
        optional("to", Kind::Texts),
        optional("notify", Kind::Nested(&[required("email", Kind::Texts)])),
    ];

    fn faults(arguments: &Value) -> Vec<String> {
        let faults = check(FIELDS, Some(arguments)).into_iter();
        let mut shown: Vec<String> = faults.map(|fault| format!("{} {}", fault.pointer, fault.reason)).collect();
        shown.sort();
        shown
    }

    #[test]
    fn what_is_written_out_is_checked_and_what_is_worked_out_is_not() {
        let none: [&str; 0] = [];
        assert_eq!(faults(&json!({"url": "https://x", "method": "GET", "size": 1, "to": ["a"]})), none);
        assert_eq!(faults(&json!({"url": "{% $x %}", "method": "{% $y %}", "size": "{% $z %}"})), none);
        assert_eq!(faults(&json!({"url.$": "$.url"})), none);
        assert_eq!(faults(&json!("{% $states.input %}")), none);
        assert_eq!(faults(&json!({"url": {"$secret": "x"}})), none);
        assert!(check(FIELDS, None).is_empty());
        assert_eq!(
            faults(&json!({"method": "FETCH", "size": 0, "to": [1], "a/b": 1, "notify": {}})),
            [
                "/Arguments needs url",
                "/Arguments/a~1b is not one of url, method, size, to, notify",
                "/Arguments/method must be one of GET, POST",
                "/Arguments/notify needs email",
                "/Arguments/size must be a whole number, 1 or more",
                "/Arguments/to must be a text or a list of texts",
            ]
        );
        assert_eq!(faults(&json!(1)), ["/Arguments must be an object"]);
    }
}
