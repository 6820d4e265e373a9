//! Who calls: the user's token, checked against the keys that the tenant's edge publishes (JWKS).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{Jwk, JwkSet},
};
use serde::Deserialize;
use tonic::{Status, metadata::MetadataMap};

/// Keys rotate; the next one is published before it signs.
const KEPT: Duration = Duration::from_secs(60);

/// Checks tokens.
pub(crate) struct Identity {
    edge: String,
    http: reqwest::Client,
    /// Nobody but the edge reaches this port, so that what it says of the tenant needs no proof.
    is_alone: bool,
    keys: Mutex<HashMap<String, (Instant, JwkSet)>>,
}

/// What is read of a token.
#[derive(Deserialize)]
struct Claims {
    /// The tenant, `ten_...`
    tid: String,
}

impl Identity {
    pub(crate) fn new(edge: String, is_alone: bool) -> Self {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build();
        Self { edge, http: http.expect("a plain client can be made"), is_alone, keys: Mutex::default() }
    }

    /// The tenant of a call. `x-tenant-id` is a hint which keys to look at, and is believed no further, unless only the edge
    /// can have sent it.
    pub(crate) async fn tenant(&self, metadata: &MetadataMap) -> Result<String, Status> {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        let refuse = || Status::unauthenticated("the token is not one of ours");
        let tenant = text("x-tenant-id").ok_or_else(refuse)?;
        if self.is_alone {
            return Ok(tenant.to_owned());
        }
        let token = text("authorization").and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(refuse)?;
        let kid = decode_header(token).ok().and_then(|header| header.kid).ok_or_else(refuse)?;
        let key = self.key(tenant, &kid).await?.ok_or_else(refuse)?;
        let key = DecodingKey::from_jwk(&key).map_err(|_| refuse())?;
        let mut rules = Validation::new(Algorithm::EdDSA);
        // The issuer has the tenant's name in it; the key is the tenant's own, which says as much.
        rules.set_audience(&["tenon"]);
        let claims = decode::<Claims>(token, &key, &rules).map_err(|_| refuse())?.claims;
        if claims.tid == tenant { Ok(claims.tid) } else { Err(refuse()) }
    }

    async fn key(&self, tenant: &str, kid: &str) -> Result<Option<Jwk>, Status> {
        let known = self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned();
        if let Some((at, keys)) = known
            && at.elapsed() < KEPT
            && let Some(key) = keys.find(kid)
        {
            return Ok(Some(key.clone()));
        }
        let url = format!("{}/.well-known/jwks.json?tenant=tenants/{tenant}", self.edge);
        let away = |error: reqwest::Error| Status::unavailable(format!("the keys cannot be had: {error}"));
        let answer = self.http.get(url).send().await.map_err(away)?;
        let keys: JwkSet = answer.error_for_status().map_err(away)?.json().await.map_err(away)?;
        let key = keys.find(kid).cloned();
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant.to_owned(), (Instant::now(), keys));
        Ok(key)
    }
}
