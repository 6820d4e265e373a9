//! The steps of a sign-up, and what it keeps between them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tenon_chassis::TenantId;

use crate::error::Error;

/// The next step of a sign-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// auth makes the signing keys and the first user.
    Admin,
    /// billing puts the tenant on the free plan.
    Subscription,
    /// The tenant opens.
    Activate,
    Done,
}

impl Step {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Subscription => "subscription",
            Self::Activate => "activate",
            Self::Done => "done",
        }
    }

    /// # Errors
    /// When the row is not one that this code wrote.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let all = [Self::Admin, Self::Subscription, Self::Activate, Self::Done];
        all.into_iter().find(|step| step.as_str() == text).ok_or(Error::Corrupt("sign-up step"))
    }
}

/// A row of tenant.onboardings.
#[derive(Debug, Clone)]
pub struct Standing {
    pub step: Step,
    pub sealed_admin: Option<Vec<u8>>,
    pub admin_user: String,
    pub subscription: String,
    pub entitlements: Entitlements,
}

/// What billing says that the plan allows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entitlements {
    pub plan: String,
    pub features: Vec<String>,
    pub limits: BTreeMap<String, i64>,
}

/// The first user, kept sealed until auth has made it.
#[derive(Serialize, Deserialize)]
pub struct Admin {
    pub email: String,
    pub password: String,
}

impl Admin {
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("two texts are JSON")
    }

    /// # Errors
    /// When the bytes are not what `to_bytes` made.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes).map_err(|_| Error::Corrupt("sealed sign-up"))
    }
}

/// Binds a sealed sign-up to its tenant.
#[must_use]
pub fn purpose(tenant: TenantId) -> String {
    format!("tenant.onboardings/{tenant}")
}
