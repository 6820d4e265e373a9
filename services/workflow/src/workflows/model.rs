//! A published template and its id.

use chrono::{DateTime, Utc};
use serde_json::Value;
use tenon_chassis::Fault;

/// The largest definition and the largest input, as JSON text.
pub const JSON_MAX_BYTES: usize = 256 * 1024;

/// A published version.
#[derive(Debug, Clone, PartialEq)]
pub struct Workflow {
    pub workflow_id: String,
    pub version: i32,
    pub definition: Value,
    /// As `Envelope` writes it.
    pub envelope: Value,
    pub created_at: DateTime<Utc>,
}

/// Who publishes: what triggers start is started in this name and with these roles.
#[derive(Debug)]
pub struct Publisher {
    pub created_by: String,
    pub roles: Vec<String>,
}

/// Checks the id of a new workflow: 1 to 63 of a-z, 0-9 and inner hyphens, a letter first (AIP-122).
///
/// # Errors
/// INVALID_FIELD when it is something else.
pub fn new_id(id: &str) -> Result<&str, Fault> {
    named("workflow_id", id)
}

/// Checks an id that a caller chose, as `new_id` does.
///
/// # Errors
/// INVALID_FIELD with the field.
pub fn named<'i>(field: &str, id: &'i str) -> Result<&'i str, Fault> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let valid = (1..=63).contains(&id.len())
        && id.starts_with(|c: char| c.is_ascii_lowercase())
        && id.bytes().all(inner)
        && !id.ends_with('-');
    let why = "must be 1 to 63 of a-z, 0-9 and inner hyphens, a letter first";
    if valid { Ok(id) } else { Err(Fault::invalid(field, why)) }
}

/// The id in `hello` or `workflows/hello`. What cannot be an id is not found, whatever it is.
#[must_use]
pub fn id_of(name: &str) -> Option<&str> {
    new_id(name.strip_prefix("workflows/").unwrap_or(name)).ok()
}

/// The id and version in `hello`, `workflows/hello` or `workflows/hello/versions/2`; no version is the latest.
#[must_use]
pub fn version_of(name: &str) -> Option<(&str, Option<i32>)> {
    match name.rsplit_once("/versions/") {
        None => Some((id_of(name)?, None)),
        Some((name, version)) => Some((id_of(name)?, Some(version.parse().ok().filter(|version| *version > 0)?))),
    }
}

/// Refuses JSON over 256 KiB.
///
/// # Errors
/// INVALID_FIELD with the field.
pub fn bounded(field: &str, value: &Value) -> Result<(), Fault> {
    if value.to_string().len() <= JSON_MAX_BYTES {
        return Ok(());
    }
    Err(Fault::invalid(field, format!("must have at most {JSON_MAX_BYTES} bytes as JSON")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_aip_122() {
        assert_eq!(id_of("workflows/hello-2"), Some("hello-2"));
        assert_eq!(id_of("hello"), Some("hello"));
        for bad in ["", "Hello", "2x", "a_b", "a-", "a/b", "workflows/", &"a".repeat(64)] {
            assert_eq!(id_of(bad), None, "{bad}");
        }
        assert_eq!(version_of("workflows/hello/versions/2"), Some(("hello", Some(2))));
        assert_eq!(version_of("workflows/hello"), Some(("hello", None)));
        assert_eq!((version_of("workflows/a/versions/0"), version_of("workflows/a/versions/x")), (None, None));
    }
}
