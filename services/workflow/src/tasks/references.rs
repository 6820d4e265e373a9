//! References to secrets in Arguments: `${secrets.NAME}` inside a text, or `{"$secret": "NAME"}` instead of one. They are
//! resolved in the request alone; the state's input, its history and its result keep the reference.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tenon_chassis::{TenantId, secret::Secret};

use crate::{
    asl::Failure,
    secrets::{Vault, model},
};

const OPENS: &str = "${secrets.";
/// References of one call to different secrets.
const REFERENCES_MAX: usize = 10;
/// A value that is shorter is no secret, and taking it out of an answer would leave holes everywhere.
const SCRUBBED_MIN: usize = 6;

/// The secrets that a call refers to, open.
#[derive(Default)]
pub(super) struct References(BTreeMap<String, (Secret, Vec<String>)>);

impl References {
    /// Opens every secret that the values refer to.
    pub(super) async fn open(vault: &Vault, tenant: TenantId, values: &[&Value]) -> Result<Self, Failure> {
        let mut names = Vec::new();
        values.iter().for_each(|value| find(value, &mut names));
        names.sort();
        names.dedup();
        if names.len() > REFERENCES_MAX {
            let why = format!("a call refers to {REFERENCES_MAX} secrets at most");
            return Err(Failure::new("INVALID_ARGUMENTS", why));
        }
        let mut open = BTreeMap::new();
        for name in names {
            let (value, hosts) = opened(vault, tenant, &name).await?;
            open.insert(name, (value, hosts));
        }
        Ok(Self(open))
    }

    /// One that is open already, to take it out of an answer.
    pub(super) fn of_one(name: &str, value: &str) -> Self {
        Self(BTreeMap::from([(name.to_owned(), (Secret::new(value), Vec::new()))]))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of a secret that is not for a host.
    pub(super) fn not_for(&self, host: &str) -> Option<&str> {
        let strange = self.0.iter().find(|(_, (_, hosts))| !hosts.iter().any(|known| known == host));
        strange.map(|(name, _)| name.as_str())
    }

    /// A text with its references resolved.
    pub(super) fn text(&self, text: &str) -> String {
        let (mut out, mut rest) = (String::with_capacity(text.len()), text);
        while let Some((before, name, after)) = next(rest) {
            out.push_str(before);
            if let Some((secret, _)) = self.0.get(name) {
                out.push_str(secret.expose());
            }
            rest = after;
        }
        out + rest
    }

    /// A value with its references resolved.
    pub(super) fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.value(item)).collect()),
            Value::Object(fields) => match named(fields).and_then(|name| self.0.get(name)) {
                Some((secret, _)) => Value::String(secret.expose().to_owned()),
                None => Value::Object(fields.iter().map(|(key, value)| (key.clone(), self.value(value))).collect()),
            },
            value => value.clone(),
        }
    }

    /// Puts the reference back where an answer repeats a secret.
    pub(super) fn scrub(&self, text: String) -> String {
        let mut text = text;
        for (name, (secret, _)) in &self.0 {
            let plain = secret.expose();
            if plain.len() < SCRUBBED_MIN {
                continue;
            }
            let quoted = Value::String(plain.to_owned()).to_string();
            for form in [plain, &quoted[1..quoted.len() - 1]] {
                if text.contains(form) {
                    text = text.replace(form, &format!("{OPENS}{name}}}"));
                }
            }
        }
        text
    }
}

/// A secret by its name.
///
/// # Errors
/// SECRET_NOT_FOUND, or what keeps the database from answering.
pub(super) async fn opened(vault: &Vault, tenant: TenantId, name: &str) -> Result<(Secret, Vec<String>), Failure> {
    let not_found = || Failure::new("SECRET_NOT_FOUND", format!("there is no secret {name}"));
    if !model::is_name(name) {
        return Err(not_found());
    }
    let opened = vault.open(tenant, name).await;
    let opened = opened.map_err(|error| Failure::new("UNAVAILABLE", error.to_string()))?.ok_or_else(not_found)?;
    Ok((opened.value, opened.hosts))
}

/// (before, name, after) of the first reference in a text.
fn next(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once(OPENS)?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name, after))
}

pub(super) fn named(fields: &Map<String, Value>) -> Option<&str> {
    if fields.len() == 1 { fields.get("$secret")?.as_str() } else { None }
}

pub(super) fn find(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            let mut rest = text.as_str();
            while let Some((_, name, after)) = next(rest) {
                names.push(name.to_owned());
                rest = after;
            }
        }
        Value::Array(items) => items.iter().for_each(|item| find(item, names)),
        Value::Object(fields) => match named(fields) {
            Some(name) => names.push(name.to_owned()),
            None => fields.values().for_each(|value| find(value, names)),
        },
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn references() -> References {
        let hosts = vec!["api.test".to_owned()];
        References(BTreeMap::from([("key".to_owned(), (Secret::new("s3cr\"et"), hosts))]))
    }

    #[test]
    fn references_are_found_resolved_and_put_back() {
        let value =
            json!({"a": ["Bearer ${secrets.key}"], "b": {"$secret": "key"}, "c": {"$secret": 1}, "d": "${secrets.x"});
        let mut names = Vec::new();
        find(&value, &mut names);
        assert_eq!(names, ["key", "key"]);
        let open = references();
        let resolved = open.value(&value);
        assert_eq!(resolved["a"][0], "Bearer s3cr\"et");
        assert_eq!(resolved["b"], "s3cr\"et");
        assert_eq!((&resolved["c"], &resolved["d"]), (&json!({"$secret": 1}), &json!("${secrets.x")));
        assert_eq!(open.scrub("you sent s3cr\"et".to_owned()), "you sent ${secrets.key}");
        assert_eq!(open.scrub(json!({"x": "s3cr\"et"}).to_string()), r#"{"x":"${secrets.key}"}"#);
        assert_eq!((open.not_for("api.test"), open.not_for("evil.test")), (None, Some("key")));
    }
}
