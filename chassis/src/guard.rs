//! The guard: proves who calls and enforces the policy that stands beside the method. The edge and every service pass
//! each call through the same function.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, header::AUTHORIZATION};
use tenon_proto::{options::v1::policy::Access, policy::Method};
use tonic::Code;

use crate::{
    Caller, Clock, Fault, TenantId, api_key,
    caller::{Principal, grants},
    directory::{Directory, Tenant, unknown},
    secret::Secret,
    token::{Claims, Verifier},
};

/// Carries the operator credential.
pub const OPERATOR_KEY: HeaderName = HeaderName::from_static("x-operator-key");
/// Carries an API key, as `authorization: Bearer` does.
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Travels beside the token for people and logs; must agree with it.
pub const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");
/// A second factor counts as recent for 5 minutes.
const STEP_UP_S: i64 = 300;

/// Lets calls through, or says why not.
pub struct Guard {
    /// The `aud` that a mesh token must have to be for us.
    audience: &'static str,
    clock: Clock,
    verifier: Arc<Verifier>,
    directory: Arc<Directory>,
    operator_key: Secret,
}

impl Guard {
    #[must_use]
    pub fn new(
        audience: &'static str,
        clock: Clock,
        verifier: Arc<Verifier>,
        directory: Arc<Directory>,
        operator_key: Secret,
    ) -> Self {
        Self { audience, clock, verifier, directory, operator_key }
    }

    /// Proves the caller and enforces the method's policy.
    ///
    /// # Errors
    /// UNAUTHENTICATED, PERMISSION_DENIED or FAILED_PRECONDITION with the reason; UNAVAILABLE when who calls cannot be
    /// found out just now.
    pub async fn admit(&self, method: &Arc<Method>, headers: &HeaderMap) -> Result<Caller, Fault> {
        let caller = match method.access {
            Access::Public => self.public(method, headers).await?,
            Access::Tenant => self.tenant(method, headers).await?,
            Access::Operator => self.operator(method, headers).await?,
            Access::Mesh => self.mesh(method, headers).await?,
            Access::Unspecified => return Err(denied("UNDECLARED", "the method has no policy")),
        };
        agree(&caller, headers)?;
        Ok(caller)
    }

    /// Anyone; a service of the mesh may name the tenant that the call came in for.
    async fn public(&self, method: &Arc<Method>, headers: &HeaderMap) -> Result<Caller, Fault> {
        let mut caller = anonymous(method);
        let Some(token) = bearer(headers)? else { return Ok(caller) };
        // A user's token, valid or not, means nothing here: who signs in again may still send the old one.
        let Ok(Claims::Mesh(claims)) = self.verifier.verify(token, self.audience).await else { return Ok(caller) };
        caller.principal = Principal::Service { name: service(&claims.sub) };
        caller.tenant_id = tenant_of(claims.tid.as_deref())?;
        Ok(caller)
    }

    async fn tenant(&self, method: &Arc<Method>, headers: &HeaderMap) -> Result<Caller, Fault> {
        let mut caller = match self.verified(headers).await? {
            Claims::User(claims) => {
                let invalid = |_| unauthenticated("INVALID_TOKEN", "the token's subject or session is not one of ours");
                let principal = match claims.sub.strip_prefix(api_key::SUBJECT) {
                    Some(key) => Principal::Key { key: key.parse().map_err(invalid)? },
                    None => Principal::User {
                        user: claims.sub.parse().map_err(invalid)?,
                        session: claims.sid.parse().map_err(invalid)?,
                        amr: claims.amr.clone(),
                        auth_time: claims.auth_time,
                    },
                };
                let tenant_id = tenant_of(Some(&claims.tid))?;
                Caller { principal, tenant_id, roles: claims.roles.clone(), ..anonymous(method) }
            }
            Claims::Mesh(claims) => {
                let principal = Principal::Service { name: service(&claims.sub) };
                let tenant_id = tenant_of(claims.tid.as_deref())?;
                Caller { principal, tenant_id, roles: claims.roles.clone(), ..anonymous(method) }
            }
        };
        let tenant = self.directory.by_id(caller.tenant_id()?).await?;
        tenant.admit(method.allow_unpaid)?;
        self.entitled(&caller, &tenant)?;
        caller.tenant = Some(tenant);
        Ok(caller)
    }

    fn entitled(&self, caller: &Caller, tenant: &Tenant) -> Result<(), Fault> {
        let method = &caller.method;
        let granted = |needed: &str| grants(&caller.roles, needed) || method.is_granted_to(&caller.roles);
        if let Some(permission) = method.permission.as_deref().filter(|needed| !granted(needed)) {
            return Err(denied("PERMISSION_DENIED", "your roles do not grant this").with("permission", permission));
        }
        if let Some(feature) = method.feature.as_deref().filter(|needed| !tenant.features.contains(*needed)) {
            let message = "the tenant's plan does not include this";
            return Err(Fault::new(Code::FailedPrecondition, "FEATURE_NOT_IN_PLAN", message)
                .with("feature", feature)
                .with("plan", &tenant.plan));
        }
        let is_stepped_up = match &caller.principal {
            Principal::User { amr, auth_time, .. } => {
                self.clock.unix() < auth_time + STEP_UP_S && amr.iter().any(|how| how == "mfa")
            }
            // A key has no second factor.
            Principal::Key { .. } => false,
            _ => true,
        };
        if method.step_up && !is_stepped_up {
            return Err(denied("STEP_UP_REQUIRED", "this needs a second factor given within the last 5 minutes"));
        }
        Ok(())
    }

    async fn operator(&self, method: &Arc<Method>, headers: &HeaderMap) -> Result<Caller, Fault> {
        let Some(key) = headers.get(OPERATOR_KEY) else {
            // Who is known but no operator gets another answer than who is not known.
            self.verified(headers).await?;
            return Err(denied("OPERATOR_ONLY", "only an operator can do this: send x-operator-key"));
        };
        if !key.to_str().is_ok_and(|key| self.operator_key.matches(key)) {
            return Err(unauthenticated("INVALID_OPERATOR_KEY", "x-operator-key is not the operator credential"));
        }
        Ok(Caller { principal: Principal::Operator, ..anonymous(method) })
    }

    async fn mesh(&self, method: &Arc<Method>, headers: &HeaderMap) -> Result<Caller, Fault> {
        let Claims::Mesh(claims) = self.verified(headers).await? else {
            return Err(denied("MESH_ONLY", "only a service of the mesh can do this"));
        };
        let principal = Principal::Service { name: service(&claims.sub) };
        let tenant_id = tenant_of(claims.tid.as_deref())?;
        Ok(Caller { principal, tenant_id, roles: claims.roles.clone(), ..anonymous(method) })
    }

    async fn verified(&self, headers: &HeaderMap) -> Result<Claims, Fault> {
        let missing = || unauthenticated("TOKEN_REQUIRED", "send authorization: Bearer with an access token");
        let token = bearer(headers)?;
        if token.map_or(headers.contains_key(API_KEY), |token| token.starts_with(api_key::PREFIX)) {
            let message = "API keys are for the edge; on a service's own port send a token: tenon token SERVICE";
            return Err(unauthenticated("API_KEY_AT_SERVICE", message));
        }
        self.verifier.verify(token.ok_or_else(missing)?, self.audience).await
    }
}

fn anonymous(method: &Arc<Method>) -> Caller {
    let (tenant_id, tenant, idempotency) = (None, None, None);
    Caller { principal: Principal::Anyone, tenant_id, tenant, roles: Vec::new(), method: method.clone(), idempotency }
}

/// The bearer token (RFC 6750 section 2.1).
///
/// # Errors
/// UNAUTHENTICATED INVALID_TOKEN for another scheme, or for more than one header.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Fault> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let malformed = || unauthenticated("INVALID_TOKEN", "authorization must be one header: Bearer and a token");
    if values.next().is_some() {
        return Err(malformed());
    }
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token.trim())) } else { Err(malformed()) }
}

/// x-tenant-id is believed only as far as it repeats the token.
fn agree(caller: &Caller, headers: &HeaderMap) -> Result<(), Fault> {
    let Some(claimed) = headers.get(TENANT_ID) else { return Ok(()) };
    let claimed = claimed.to_str().ok().and_then(|text| text.parse::<TenantId>().ok());
    let agrees = claimed.is_some() && claimed == caller.tenant_id;
    if agrees { Ok(()) } else { Err(denied("TENANT_MISMATCH", "x-tenant-id is not the tenant of the token")) }
}

fn tenant_of(tid: Option<&str>) -> Result<Option<TenantId>, Fault> {
    tid.map(str::parse).transpose().map_err(|_| unknown())
}

fn service(sub: &str) -> String {
    sub.strip_prefix("svc:").unwrap_or(sub).to_owned()
}

fn unauthenticated(reason: &'static str, message: &str) -> Fault {
    Fault::new(Code::Unauthenticated, reason, message)
}

fn denied(reason: &'static str, message: &str) -> Fault {
    Fault::new(Code::PermissionDenied, reason, message)
}
