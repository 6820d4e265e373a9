//! Who calls: a user, a service, an operator or anyone; for which tenant; by which method.

use std::sync::Arc;

use tenon_proto::policy::Method;
pub use tenon_proto::policy::grants;
use tonic::{Code, Request};

use crate::{ApiKeyId, Fault, SessionId, TenantId, UserId, directory::Tenant};

/// Who sent a call, as far as it was proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Nobody in particular.
    Anyone,
    /// A person of the caller's tenant.
    User { user: UserId, session: SessionId, amr: Vec<String>, auth_time: i64 },
    /// A program with an API key of the caller's tenant.
    Key { key: ApiKeyId },
    /// A service of the mesh.
    Service { name: String },
    /// The holder of the operator credential.
    Operator,
}

/// A key that makes a repeated request answer as the first one did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    pub key: String,
    /// SHA-256 of the request message.
    pub request_hash: Vec<u8>,
}

/// A call that was let through, and on whose behalf.
#[derive(Debug, Clone)]
pub struct Caller {
    pub principal: Principal,
    pub tenant_id: Option<TenantId>,
    /// The directory's entry; absent on MESH methods, which also serve tenants in the making.
    pub tenant: Option<Arc<Tenant>>,
    pub roles: Vec<String>,
    pub method: Arc<Method>,
    pub idempotency: Option<Idempotency>,
}

impl Caller {
    /// The caller that the guard put beside the request.
    ///
    /// # Errors
    /// INTERNAL when the request did not come through a guard.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Fault> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| Fault::new(Code::Internal, "INTERNAL", "the request did not pass the guard"))
    }

    /// Work of a service's own, which is no answer to a call: what it does in a tenant it does through `acting_for`.
    #[must_use]
    pub fn service(name: &str, method: &Arc<Method>) -> Self {
        let principal = Principal::Service { name: name.to_owned() };
        let (tenant_id, tenant, idempotency) = (None, None, None);
        Self { principal, tenant_id, tenant, roles: Vec::new(), method: method.clone(), idempotency }
    }

    /// The tenant that this call is for.
    ///
    /// # Errors
    /// UNAUTHENTICATED TENANT_REQUIRED when there is none.
    pub fn tenant_id(&self) -> Result<TenantId, Fault> {
        let missing = || Fault::new(Code::Unauthenticated, "TENANT_REQUIRED", "the call names no tenant");
        self.tenant_id.ok_or_else(missing)
    }

    /// The user who calls.
    ///
    /// # Errors
    /// PERMISSION_DENIED USER_REQUIRED when a program or a service calls.
    pub fn user(&self) -> Result<(UserId, SessionId), Fault> {
        match self.principal {
            Principal::User { user, session, .. } => Ok((user, session)),
            _ => Err(Fault::new(Code::PermissionDenied, "USER_REQUIRED", "only a signed-in user can do this")),
        }
    }

    /// The same call for a tenant that it names in its request: what operators, and PUBLIC methods that have checked
    /// for themselves, act through. A user acts for the tenant of the token and for no other.
    ///
    /// # Errors
    /// NOT_FOUND TENANT_NOT_FOUND for another tenant than the one that the caller was proved to belong to.
    pub fn acting_for(&self, tenant: TenantId) -> Result<Self, Fault> {
        if self.tenant_id.is_some_and(|own| own != tenant) {
            return Err(Fault::new(Code::NotFound, "TENANT_NOT_FOUND", "there is no such tenant"));
        }
        Ok(Self { tenant_id: Some(tenant), ..self.clone() })
    }
}
