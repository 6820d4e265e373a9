//! What a tenant is, what it may be called, and how its status may change.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use tenon_chassis::{Fault, TenantId};

use crate::error::Error;

const MAX_NAME: usize = 100;
/// Hosts of our own.
const RESERVED: [&str; 8] = ["www", "api", "admin", "app", "auth", "status", "docs", "mail"];

/// A row of tenant.tenants.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    pub id: TenantId,
    pub slug: String,
    pub display_name: String,
    pub region: String,
    pub status: Status,
    pub plan: String,
    pub features: Vec<String>,
    pub limits: BTreeMap<String, i64>,
    pub version: i64,
    pub created_at: DateTime<Utc>,
}

/// Where a tenant is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Provisioning,
    Active,
    PendingPayment,
    Suspended,
    Deleted,
}

impl Status {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::PendingPayment => "pending_payment",
            Self::Suspended => "suspended",
            Self::Deleted => "deleted",
        }
    }

    /// # Errors
    /// When the row is not one that this code wrote.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let all = [Self::Provisioning, Self::Active, Self::PendingPayment, Self::Suspended, Self::Deleted];
        all.into_iter().find(|status| status.as_str() == text).ok_or(Error::Corrupt("tenant status"))
    }

    /// Whether an operator may move a tenant from here to there: not out of a sign-up, and not back from the dead.
    #[must_use]
    pub fn may_become(self, to: Self) -> bool {
        let lives = |status| matches!(status, Self::Active | Self::PendingPayment | Self::Suspended);
        lives(self) && (lives(to) || to == Self::Deleted)
    }
}

/// What someone who signs up chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub slug: String,
    pub display_name: String,
    pub region: String,
}

impl Choice {
    /// # Errors
    /// INVALID_FIELD for the field.
    pub fn parse(slug: String, display_name: &str, region: String, regions: &[String]) -> Result<Self, Fault> {
        let display_name = display_name.trim().to_owned();
        let count = display_name.chars().count();
        if count == 0 || count > MAX_NAME || display_name.chars().any(char::is_control) {
            return Err(Fault::invalid("tenant.display_name", "must have 1 to 100 characters"));
        }
        let plain = slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !(3..=63).contains(&slug.len()) || !plain || slug.starts_with('-') || slug.ends_with('-') {
            let why = "must be 3 to 63 lower-case letters, digits and inner hyphens";
            return Err(Fault::invalid("tenant.slug", why));
        }
        if RESERVED.contains(&slug.as_str()) {
            return Err(Fault::invalid("tenant.slug", "is reserved; choose another"));
        }
        let region = if region.is_empty() { regions.first().cloned().unwrap_or_default() } else { region };
        if !regions.contains(&region) {
            return Err(Fault::invalid("tenant.region", format!("must be one of {}", regions.join(", "))));
        }
        Ok(Self { slug, display_name, region })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_a_host_label() {
        let regions = ["eu".to_owned()];
        let choose = |slug: &str| Choice::parse(slug.to_owned(), "Acme", String::new(), &regions);
        assert_eq!(choose("acme-2").unwrap().region, "eu");
        for bad in ["", "ab", "-acme", "acme-", "Acme", "a_b", "a.b", "www", &"a".repeat(64)] {
            assert!(choose(bad).is_err(), "{bad}");
        }
        assert!(Choice::parse("acme".to_owned(), " ", String::new(), &regions).is_err());
        assert!(Choice::parse("acme".to_owned(), "Acme", "mars".to_owned(), &regions).is_err());
    }

    #[test]
    fn the_dead_stay_dead() {
        assert!(Status::Active.may_become(Status::Suspended));
        assert!(Status::Suspended.may_become(Status::Active));
        assert!(!Status::Deleted.may_become(Status::Active));
        assert!(!Status::Provisioning.may_become(Status::Suspended));
        assert!(!Status::Active.may_become(Status::Provisioning));
    }
}
