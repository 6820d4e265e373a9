//! Rate limits of an address, of a tenant and of its users, and the headers that tell how much is left
//! (draft-ietf-httpapi-ratelimit-headers-10).

use std::{
    fmt::{Display, Write},
    net::IpAddr,
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use tenon_chassis::{Fault, directory::Tenant};
use tenon_proto::options::v1::policy::Rate;
use tonic::Code;

use super::peer;
use crate::{
    config::Rates,
    limit::{Decision, Limiter, Quota},
};

pub(super) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(super) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// Quotas are per minute.
const WINDOW_S: u32 = 60;

/// One call taken from one quota.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draw {
    policy: &'static str,
    quota: Quota,
    decision: Decision,
}

/// What one request drew on: the address, then the tenant, then the user.
#[derive(Debug, Default)]
pub(super) struct Draws {
    ip: Option<Draw>,
    tenant: Option<Draw>,
    user: Option<Draw>,
}

impl Draws {
    pub(super) fn ip(&mut self, limiter: &Limiter, rates: &Rates, class: Rate, client: IpAddr) -> Result<(), Fault> {
        let (policy, quota) = (names(class).ip, rates.ip(class));
        let decision = limiter.check(&format!("{policy}:{}", peer::limited_as(client)), quota);
        take(self.ip.insert(Draw { policy, quota, decision }))
    }

    pub(super) fn tenant(
        &mut self,
        limiter: &Limiter,
        rates: &Rates,
        class: Rate,
        tenant: &Tenant,
    ) -> Result<(), Fault> {
        let names = names(class);
        let quota = rates.tenant(class, tenant.limits.get(names.plan).copied());
        let decision = limiter.check(&format!("{}:{}", names.tenant, tenant.id), quota);
        take(self.tenant.insert(Draw { policy: names.tenant, quota, decision }))
    }

    /// Nothing is drawn where neither the plan nor a setting bounds one user; an API key is one.
    pub(super) fn user(
        &mut self,
        limiter: &Limiter,
        rates: &Rates,
        class: Rate,
        tenant: &Tenant,
        user: &dyn Display,
    ) -> Result<(), Fault> {
        let names = names(class);
        let Some(quota) = rates.user(class, tenant.limits.get(names.user_plan).copied()) else { return Ok(()) };
        let decision = limiter.check(&format!("{}:{user}", names.user), quota);
        take(self.user.insert(Draw { policy: names.user, quota, decision }))
    }

    /// Writes both headers, as lists of what was drawn on.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let (mut policies, mut left) = (String::with_capacity(64), String::with_capacity(64));
        for Draw { policy, quota, decision } in self.ip.iter().chain(&self.tenant).chain(&self.user) {
            let comma = if policies.is_empty() { "" } else { ", " };
            let reset = seconds(decision.reset_after);
            let _ = write!(policies, "{comma}\"{policy}\";q={};w={WINDOW_S}", quota.per_minute);
            let _ = write!(left, "{comma}\"{policy}\";r={};t={reset}", decision.remaining);
        }
        if policies.is_empty() {
            return;
        }
        let value = |text| HeaderValue::try_from(text).expect("names and numbers are printable ASCII");
        headers.insert(RATELIMIT_POLICY, value(policies));
        headers.insert(RATELIMIT, value(left));
    }
}

fn take(draw: &Draw) -> Result<(), Fault> {
    if draw.decision.allowed {
        return Ok(());
    }
    metrics::counter!("tenon_edge_limited_total", "policy" => draw.policy).increment(1);
    Err(Fault::new(Code::ResourceExhausted, "RATE_LIMITED", "too many calls; try again after the time in Retry-After")
        .with("policy", draw.policy)
        .with("limit_per_minute", draw.quota.per_minute.to_string())
        .retry_after(draw.decision.retry_after.max(Duration::from_millis(1))))
}

struct Names {
    ip: &'static str,
    tenant: &'static str,
    user: &'static str,
    /// The keys of a plan's limits.
    plan: &'static str,
    user_plan: &'static str,
}

fn names(class: Rate) -> Names {
    match class {
        Rate::Read | Rate::Unspecified => Names {
            ip: "ip-read",
            tenant: "tenant-read",
            user: "user-read",
            plan: "rate.read",
            user_plan: "rate.user.read",
        },
        Rate::Write => Names {
            ip: "ip-write",
            tenant: "tenant-write",
            user: "user-write",
            plan: "rate.write",
            user_plan: "rate.user.write",
        },
        Rate::Login => Names {
            ip: "ip-login",
            tenant: "tenant-login",
            user: "user-login",
            plan: "rate.login",
            user_plan: "rate.user.login",
        },
        Rate::Ingest => Names {
            ip: "ip-ingest",
            tenant: "tenant-ingest",
            user: "user-ingest",
            plan: "rate.ingest",
            user_plan: "rate.user.ingest",
        },
    }
}

fn seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}
