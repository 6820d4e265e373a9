//! What a user is, and what an e-mail, a password and a role may be.

use chrono::{DateTime, Utc};
use tenon_chassis::{Fault, UserId};
use tenon_proto::policy::ROLES;

/// RFC 5321 section 4.5.3.1.3, less the angle brackets.
const MAX_EMAIL: usize = 254;
/// NIST SP 800-63B section 5.1.1.1.
const MIN_PASSWORD: usize = 8;
/// Hashing takes time in proportion to the length.
const MAX_PASSWORD: usize = 1_024;

/// A row of auth.users.
#[derive(Debug, Clone)]
pub struct User {
    pub id: UserId,
    pub email: Email,
    pub password_hash: String,
    pub roles: Vec<String>,
    pub created_at: DateTime<Utc>,
}

/// An e-mail as it was given, and as it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    pub given: String,
    pub lower: String,
}

impl Email {
    /// Takes what could be delivered to; whether it is, only a mail can tell.
    ///
    /// # Errors
    /// INVALID_FIELD for the field.
    pub fn parse(field: &str, text: &str) -> Result<Self, Fault> {
        let given = text.trim();
        let plausible = given.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && !domain.is_empty() && !domain.contains('@') && !domain.starts_with('.')
        });
        let clean = !given.chars().any(|c| c.is_whitespace() || c.is_control());
        if given.len() > MAX_EMAIL || !plausible || !clean {
            return Err(Fault::invalid(field, "must be an e-mail address of at most 254 characters"));
        }
        Ok(Self { given: given.to_owned(), lower: given.to_lowercase() })
    }
}

/// # Errors
/// INVALID_FIELD for the field.
pub fn check_password(field: &str, password: &str) -> Result<(), Fault> {
    let long_enough = password.chars().count() >= MIN_PASSWORD;
    if long_enough && password.len() <= MAX_PASSWORD {
        return Ok(());
    }
    Err(Fault::invalid(field, "must have 8 characters to 1,024 bytes"))
}

/// # Errors
/// INVALID_FIELD for the field.
pub fn check_roles(field: &str, roles: &[String]) -> Result<(), Fault> {
    if !roles.is_empty() && roles.len() <= ROLES.len() && roles.iter().all(|role| ROLES.contains(&role.as_str())) {
        return Ok(());
    }
    Err(Fault::invalid(field, format!("must be one or more of {}", ROLES.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_must_look_deliverable() {
        for good in ["a@b", "Ada.L+x@example.com", "ü@example.com"] {
            assert!(Email::parse("email", good).is_ok(), "{good}");
        }
        for bad in ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@.c", &format!("{}@b", "a".repeat(254))] {
            assert!(Email::parse("email", bad).is_err(), "{bad}");
        }
        assert_eq!(Email::parse("email", "Ada@X.COM").unwrap().lower, "ada@x.com");
    }

    #[test]
    fn a_password_has_bounds() {
        assert!(check_password("password", "12345678").is_ok());
        assert!(check_password("password", "1234567").is_err());
        assert!(check_password("password", &"x".repeat(1_025)).is_err());
    }
}
