//! Resources that are answered from outside: what may stand behind their schemes, and in their Arguments.

use serde_json::Value;

use super::arguments::{self, Field, Kind, optional, required};
use crate::asl::Fault;

const APPROVAL: &[Field] = &[
    required("title", Kind::Text),
    optional("description", Kind::Text),
    optional("form", Kind::Object),
    optional("approvers", Kind::Texts),
    optional("expiresInSeconds", Kind::Count),
    optional("notify", Kind::Nested(&[required("email", Kind::Texts)])),
];

/// Characters of a name.
const NAME_MAX: usize = 128;

pub(super) fn check(kind: &str, name: &str, arguments: Option<&Value>) -> Vec<Fault> {
    let wrong = |reason: &str| vec![Fault { pointer: "/Resource".to_owned(), reason: reason.to_owned() }];
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let is_name = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(inner);
    match kind {
        "activity" if !is_name => wrong("must be activity: and a queue, 1 to 128 of a-z, A-Z, 0-9, _, - and ."),
        "signal" if !is_name => wrong("must be signal: and a name, 1 to 128 of a-z, A-Z, 0-9, _, - and ."),
        "workflow" if crate::workflows::model::new_id(name).is_err() => {
            wrong("must be workflow: and the id of a workflow")
        }
        // What stands behind it is a label for lists, and may be missing.
        "approval" if !name.is_empty() && !is_name => {
            wrong("must be approval: with nothing behind it, or a label of a-z, A-Z, 0-9, _, - and .")
        }
        "approval" => arguments::check(APPROVAL, arguments),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_arguments_of_waits_are_checked() {
        assert!(check("activity", "resize.images-2", None).is_empty());
        assert!(check("workflow", "child", Some(&json!({"any": 1}))).is_empty());
        assert!(check("approval", "", Some(&json!({"title": "Pay?", "notify": {"email": ["a@b.test"]}}))).is_empty());
        for (kind, name) in
            [("activity", ""), ("activity", "a b"), ("signal", "a/b"), ("workflow", "A"), ("approval", "?")]
        {
            assert_eq!(check(kind, name, None)[0].pointer, "/Resource", "{kind}:{name}");
        }
        assert_eq!(check("approval", "", Some(&json!({})))[0].reason, "needs title");
    }
}
