//! What may be claimed as a host name, and what proves it.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use tenon_chassis::Fault;

/// The label below which the proof stands.
const CHALLENGE: &str = "_tenon-challenge";
/// What its value begins with, for people who read their zone.
const VALUE: &str = "tenon-verify=";
/// RFC 1035 section 2.3.4, as text, less the label of the challenge and its dot.
const MAX_HOST: usize = 253 - CHALLENGE.len() - 1;
const MAX_LABEL: usize = 63;

/// A row of tenant.domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub hostname: String,
    pub token: String,
    pub created_at: DateTime<Utc>,
    pub verified_at: Option<DateTime<Utc>>,
    pub checked_at: Option<DateTime<Utc>>,
    pub failing_since: Option<DateTime<Utc>>,
}

impl Claim {
    /// A new one, with a value that nobody can guess.
    #[must_use]
    pub fn new(hostname: String, now: DateTime<Utc>) -> Self {
        let token = format!("{VALUE}{}", BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>()));
        Self { hostname, token, created_at: now, verified_at: None, checked_at: None, failing_since: None }
    }

    /// The name of the TXT record.
    #[must_use]
    pub fn record(&self) -> String {
        format!("{CHALLENGE}.{}", self.hostname)
    }
}

/// Reads a host name as it is compared: lower-case, punycode, without the root's dot.
///
/// # Errors
/// INVALID_FIELD for what nobody can own: an address, a single label, a wildcard, a name of the mesh's own domain.
pub fn hostname(text: &str, own: &str) -> Result<String, Fault> {
    let refuse = |why: &str| Err(Fault::invalid("hostname", why));
    let text = text.trim();
    let text = text.strip_suffix('.').unwrap_or(text);
    // What is longer is no name in any alphabet, and need not be read.
    let ascii = if text.len() <= 4 * MAX_HOST { idna::domain_to_ascii(text).ok() } else { None };
    let Some(host) = ascii.filter(|host| is_host(host)) else {
        return refuse("must be a host name like shop.example.com, without a scheme, a port or a wildcard");
    };
    let is_below = host.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if is_below {
        return refuse("is the mesh's own: tenants have their label there already");
    }
    Ok(host)
}

/// Letters, digits and inner hyphens in two labels or more, the last of which is no number.
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    (3..=MAX_HOST).contains(&host.len())
        && host.contains('.')
        && host.split('.').all(is_label)
        && !last.bytes().all(|b| b.is_ascii_digit())
}

/// The host name in `domains/shop.example.com`; what cannot be one is not found.
#[must_use]
pub fn host_of(name: &str) -> Option<&str> {
    name.strip_prefix("domains/").filter(|host| is_host(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_read_as_it_is_compared() {
        for (text, expected) in [
            ("shop.example.com", "shop.example.com"),
            (" Shop.Example.COM. ", "shop.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("a-1.b2.example", "a-1.b2.example"),
        ] {
            assert_eq!(hostname(text, "tenon.test").unwrap(), expected, "{text}");
        }
        let label = "a".repeat(63);
        let most = format!("{label}.{label}.{label}.{}", "b".repeat(MAX_HOST - 3 * 64));
        assert_eq!(hostname(&most, "x.y").unwrap().len(), MAX_HOST);
        let long = format!("{most}b");
        let label = format!("{label}a.b");
        for bad in [
            "",
            ".",
            "a",
            "localhost",
            "a.",
            ".a.b",
            "a..b",
            "-a.b",
            "a-.b",
            "a_b.c",
            "*.a.b",
            "https://a.b",
            "a.b:80",
            "a.b/c",
            "a b.c",
            "1.2.3.4",
            "[::1]",
            "a.1",
            "a.b\0",
            &long,
            &label,
        ] {
            assert!(hostname(bad, "tenon.test").is_err(), "{bad}");
        }
        for own in ["tenon.test", "acme.tenon.test", "a.b.TENON.test."] {
            assert!(hostname(own, "tenon.test").is_err(), "{own}");
        }
        assert!(hostname("nottenon.test", "tenon.test").is_ok());
        assert_eq!(host_of("domains/a.b"), Some("a.b"));
        assert!(host_of("domains/A.b").is_none() && host_of("domains/").is_none() && host_of("a.b").is_none());
    }

    #[test]
    fn a_claim_says_what_proves_it() {
        let now = DateTime::from_timestamp(0, 0).unwrap();
        let (one, two) = (Claim::new("a.b".to_owned(), now), Claim::new("a.b".to_owned(), now));
        assert_eq!(one.record(), "_tenon-challenge.a.b");
        assert!(one.token.starts_with("tenon-verify=") && one.token.len() == 45 && one.token != two.token);
    }
}
