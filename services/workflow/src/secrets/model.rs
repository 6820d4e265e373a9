//! What a secret may be called, hold and be sent to.

use chrono::{DateTime, Utc};
use tenon_chassis::{Fault, TenantId};

/// Bytes of a value.
pub const VALUE_MAX: usize = 8 * 1024;
/// Hosts that a secret is for.
const HOSTS_MAX: usize = 20;

/// A secret, as far as it can be shown.
#[derive(Debug, Clone)]
pub struct Shown {
    pub name: String,
    pub hosts: Vec<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Whether a text can be the name of a secret.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=63).contains(&text.len()) && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.bytes().all(inner)
}

/// Checks the id of a new secret.
///
/// # Errors
/// INVALID_FIELD when it is something else.
pub fn new_id(text: &str) -> Result<&str, Fault> {
    let why = "must be a lower-case letter and up to 62 of a-z, 0-9, _ and -";
    if is_name(text) { Ok(text) } else { Err(Fault::invalid("secret_id", why)) }
}

/// The id in `secrets/stripe_key`; what cannot be one is not found, whatever it is.
#[must_use]
pub fn id_of(name: &str) -> Option<&str> {
    name.strip_prefix("secrets/").filter(|id| is_name(id))
}

/// Checks a value.
///
/// # Errors
/// INVALID_FIELD when it is empty or too long.
pub fn value(text: &str) -> Result<&str, Fault> {
    let fits = (1..=VALUE_MAX).contains(&text.len());
    if fits { Ok(text) } else { Err(Fault::invalid("value", "must have 1 byte to 8 KiB")) }
}

/// Checks hosts: names or addresses, without a scheme, a port or a path, in lower case.
///
/// # Errors
/// INVALID_FIELD naming the first that is something else.
pub fn hosts(hosts: Vec<String>) -> Result<Vec<String>, Fault> {
    if hosts.len() > HOSTS_MAX {
        return Err(Fault::invalid("hosts", format!("must be at most {HOSTS_MAX}")));
    }
    let is_host = |host: &String| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
        (1..=253).contains(&host.len()) && host.bytes().all(inner)
    };
    match hosts.iter().position(|host| !is_host(host)) {
        None => Ok(hosts),
        Some(index) => {
            let why = "must be a host in lower case, like api.stripe.com, without a scheme, port or path";
            Err(Fault::invalid(format!("hosts[{index}]"), why))
        }
    }
}

/// What the sealed bytes are bound to: no row opens in another's place.
#[must_use]
pub fn purpose(tenant: TenantId, name: &str) -> String {
    format!("workflow.secrets/{tenant}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hosts_and_values_are_checked() {
        assert_eq!(id_of("secrets/stripe_key-2"), Some("stripe_key-2"));
        for bad in ["stripe", "secrets/", "secrets/Stripe", "secrets/2x", "secrets/a/b", "secrets/a.b"] {
            assert_eq!(id_of(bad), None, "{bad}");
        }
        assert!(is_name(&"a".repeat(63)) && !is_name(&"a".repeat(64)));
        assert!(value("").is_err() && value(&"x".repeat(VALUE_MAX)).is_ok() && value(&"x".repeat(8_193)).is_err());
        assert!(hosts(vec!["api.stripe.com".to_owned(), "10.0.0.1".to_owned()]).is_ok());
        for bad in ["https://x", "x:80", "x/y", "X", "", "*.x"] {
            let fault = hosts(vec!["ok".to_owned(), bad.to_owned()]).unwrap_err();
            assert_eq!(fault.violations[0].0, "hosts[1]", "{bad}");
        }
    }
}
