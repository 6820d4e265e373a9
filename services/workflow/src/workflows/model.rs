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
    pub created_at: DateTime<Utc>,
}

/// Checks the id of a new workflow: 1 to 63 of a-z, 0-9 and inner hyphens, a letter first (AIP-122).
///
/// # Errors
/// INVALID_FIELD when it is something else.
pub fn new_id(id: &str) -> Result<&str, Fault> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let valid = (1..=63).contains(&id.len())
        && id.starts_with(|c: char| c.is_ascii_lowercase())
        && id.bytes().all(inner)
        && !id.ends_with('-');
    let why = "must be 1 to 63 of a-z, 0-9 and inner hyphens, a letter first";
    if valid { Ok(id) } else { Err(Fault::invalid("workflow_id", why)) }
}

/// The id in `hello` or `workflows/hello`. What cannot be an id is not found, whatever it is.
#[must_use]
pub fn id_of(name: &str) -> Option<&str> {
    new_id(name.strip_prefix("workflows/").unwrap_or(name)).ok()
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
    }
}
