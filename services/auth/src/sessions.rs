//! Sessions: sign in, stay signed in, sign out.

pub mod model;
mod rpc;
mod store;

use std::sync::Arc;

use tenon_chassis::{Caller, Db, Mesh, directory::Directory, directory::Tenant};

use crate::{
    Config,
    error::Error,
    keys::{Keys, model::Signer},
    password::Hasher,
};
use model::{Grant, Session, Terms};

/// Signs users in and out.
pub struct Sessions {
    db: Db,
    directory: Arc<Directory>,
    hasher: Arc<Hasher>,
    keys: Keys,
    terms: Terms,
}

impl Sessions {
    #[must_use]
    pub fn new(mesh: &Mesh, db: Db, hasher: Arc<Hasher>, keys: Keys, config: &Config) -> Self {
        let terms = Terms {
            issuer: config.issuer.replace("{domain}", &mesh.config.domain),
            access_token_s: config.access_token_s,
            refresh_token_s: config.refresh_token_s,
        };
        Self { db, directory: mesh.directory.clone(), hasher, keys, terms }
    }

    /// The tenant that a sign-in is for: the slug that was sent, or the host that it came in on; they must agree.
    async fn tenant(&self, caller: &Caller, slug: &str) -> Result<Option<Arc<Tenant>>, Error> {
        let found = match (slug, caller.tenant_id) {
            ("", None) => return Ok(None),
            ("", Some(id)) => self.directory.by_id(id).await,
            (slug, _) => self.directory.by_slug(slug).await,
        };
        match found {
            Ok(tenant) if caller.tenant_id.is_some_and(|host| host != tenant.id) => Ok(None),
            Ok(tenant) => Ok(Some(tenant)),
            Err(fault) if fault.reason == "TENANT_UNKNOWN" => Ok(None),
            Err(fault) => Err(fault.into()),
        }
    }

    /// The pair of tokens of a session; the refresh token's hash must be stored with it.
    fn grant(&self, signer: &Signer, tenant: &Tenant, session: &Session, roles: &[String]) -> Result<Grant, Error> {
        let claims = self.terms.claims(self.db.clock(), tenant, session, roles);
        Grant::new(signer.sign(&claims)?, tenant.id, &self.terms)
    }
}
