//! tenon.auth.v1.KeyService

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use tenon_chassis::{Caller, TenantId};
use tenon_proto::auth::v1::{GetJwksRequest, Jwk, Jwks, key_service_server::KeyService};
use tonic::{Request, Response, Status};

use super::{Keys, model::SigningKey, store};
use crate::error::Error;

#[tonic::async_trait]
impl KeyService for Keys {
    async fn get_jwks(&self, request: Request<GetJwksRequest>) -> Result<Response<Jwks>, Status> {
        let caller = Caller::of(&request)?;
        let tenant = self.named(&caller, &request.into_inner().tenant).await?;
        let mut tx = self.db.begin(&caller.acting_for(tenant)?).await?;
        let keys = store::list(&mut tx).await?;
        if keys.is_empty() {
            return Err(Error::TenantNotFound.into());
        }
        Ok(tx.reply(Jwks { keys: keys.into_iter().map(Jwk::from).collect() }).await?)
    }
}

impl Keys {
    /// The tenant that a request names: by name, by slug, or by the host that it came in on.
    async fn named(&self, caller: &Caller, tenant: &str) -> Result<TenantId, Error> {
        if tenant.is_empty() {
            return caller.tenant_id.ok_or(Error::TenantNotFound);
        }
        if let Some(id) = tenant.strip_prefix("tenants/") {
            return id.parse().map_err(|_| Error::TenantNotFound);
        }
        let found = self.directory.by_slug(tenant).await;
        found.map(|tenant| tenant.id).map_err(|fault| match fault.reason {
            "TENANT_UNKNOWN" => Error::TenantNotFound,
            _ => fault.into(),
        })
    }
}

impl From<SigningKey> for Jwk {
    fn from(key: SigningKey) -> Self {
        Self {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            x: BASE64_URL_SAFE_NO_PAD.encode(key.public_key),
            kid: key.id.to_string(),
            alg: "EdDSA".to_owned(),
            r#use: "sig".to_owned(),
        }
    }
}
