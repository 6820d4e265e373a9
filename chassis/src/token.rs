//! Tokens: a user's JWT under the tenant's own key, and the mesh's own of 60 seconds.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tenon_proto::auth::v1::{GetJwksRequest, Jwks, key_service_client::KeyServiceClient};
use tonic::{Code, Status};

use crate::{Clock, Fault, TenantId, client::Peer, secret::Key};

/// The `aud` of a user's token.
pub const AUDIENCE: &str = "tenon";
/// The `kid` and `iss` of the mesh's own tokens.
pub const MESH: &str = "mesh";
/// Seconds that a mesh token lives.
const MESH_LIFE_S: i64 = 60;
/// Seconds by which clocks of two machines may differ.
const LEEWAY_S: i64 = 5;
/// A verified token is believed again without a signature check for at most this long.
const CACHE_LIFE: Duration = Duration::from_secs(60);
/// Tokens at most in each cache: about 30 MB when full.
const CACHE_SIZE: u64 = 50_000;
/// An unknown `kid` asks for the tenant's keys again at most this often.
const REFETCH_AFTER_S: i64 = 5;

/// What a user's access token says (RFC 7519, RFC 9068).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserClaims {
    pub iss: String,
    /// `usr_...`, or `key:apk_...` for a program
    pub sub: String,
    pub aud: String,
    /// The tenant, `ten_...`
    pub tid: String,
    /// The session, `ses_...`; empty for a program
    pub sid: String,
    pub roles: Vec<String>,
    /// How the user signed in (RFC 8176).
    pub amr: Vec<String>,
    /// When the user signed in, seconds since 1970.
    pub auth_time: i64,
    pub iat: i64,
    pub exp: i64,
}

/// What a service's own token says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MeshClaims {
    pub iss: String,
    /// `svc:NAME`
    pub sub: String,
    /// The service that is called.
    pub aud: String,
    /// The tenant that the service acts for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tid: Option<String>,
    /// The roles that it acts with.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub roles: Vec<String>,
    pub iat: i64,
    pub exp: i64,
}

/// A token that was verified.
#[derive(Debug, Clone)]
pub enum Claims {
    User(Arc<UserClaims>),
    Mesh(Arc<MeshClaims>),
}

/// UNAUTHENTICATED for a token that is not believed; says why in words, never what was in it.
fn refused(reason: &'static str, message: &str) -> Fault {
    Fault::new(Code::Unauthenticated, reason, message)
}

/// What a minted token says: from, to, for which tenant, with which roles.
type Minted = (String, String, Option<TenantId>, Vec<String>);

/// Mints and verifies mesh tokens; holds the mesh key.
pub struct MeshKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
    clock: Clock,
    minted: Cache<Minted, Arc<str>>,
}

impl MeshKey {
    #[must_use]
    pub fn new(key: &Key, clock: Clock) -> Self {
        let (encoding, decoding) = (EncodingKey::from_secret(key.bytes()), DecodingKey::from_secret(key.bytes()));
        // Half of a token's life: what is handed out is good for another half.
        let life = Duration::from_secs(MESH_LIFE_S.unsigned_abs() / 2);
        let minted = Cache::builder().max_capacity(CACHE_SIZE).time_to_live(life).build();
        Self { encoding, decoding, clock, minted }
    }

    /// A token for `from` to call `target`, for a tenant if one is given.
    #[must_use]
    pub fn mint(&self, from: &str, target: &str, tenant: Option<TenantId>, roles: &[String]) -> Arc<str> {
        let key = (from.to_owned(), target.to_owned(), tenant, roles.to_vec());
        self.minted.get_with(key, || {
            let iat = self.clock.unix();
            let (iss, sub, aud) = (MESH.to_owned(), format!("svc:{from}"), target.to_owned());
            let tid = tenant.map(|tenant| tenant.to_string());
            let claims = MeshClaims { iss, sub, aud, tid, roles: roles.to_vec(), iat, exp: iat + MESH_LIFE_S };
            let header = Header { kid: Some(MESH.to_owned()), ..Header::new(Algorithm::HS256) };
            jsonwebtoken::encode(&header, &claims, &self.encoding).expect("plain claims are JSON").into()
        })
    }

    fn verify(&self, token: &str) -> Result<MeshClaims, Fault> {
        let data = jsonwebtoken::decode::<MeshClaims>(token, &self.decoding, &validation(Algorithm::HS256));
        Ok(data.map_err(|_| refused("INVALID_TOKEN", "the token's signature or claims are not valid"))?.claims)
    }
}

/// Verifies any token of the mesh, and remembers what it has verified.
pub struct Verifier {
    mesh: Arc<MeshKey>,
    clock: Clock,
    source: KeyServiceClient<Peer>,
    keys: Cache<TenantId, Arc<KeySet>>,
    verified: Cache<[u8; 32], Claims>,
}

struct KeySet {
    keys: Vec<(String, DecodingKey)>,
    fetched_at: i64,
}

impl Verifier {
    #[must_use]
    pub fn new(mesh: Arc<MeshKey>, clock: Clock, source: KeyServiceClient<Peer>) -> Self {
        // A key that was withdrawn stops to verify when its set is asked for again.
        let keys = Cache::builder().max_capacity(CACHE_SIZE).time_to_live(CACHE_LIFE).build();
        let verified = Cache::builder().max_capacity(CACHE_SIZE).time_to_live(CACHE_LIFE).build();
        Self { mesh, clock, source, keys, verified }
    }

    /// Verifies signature, issuer, audience and time.
    ///
    /// # Errors
    /// UNAUTHENTICATED INVALID_TOKEN or TOKEN_EXPIRED; UNAVAILABLE when the tenant's keys cannot be had.
    pub async fn verify(&self, token: &str, audience: &str) -> Result<Claims, Fault> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let claims = if let Some(claims) = self.verified.get(&hash) {
            claims
        } else {
            let claims = self.decode(token).await?;
            self.verified.insert(hash, claims.clone());
            claims
        };
        let (aud, expected, iat, exp) = match &claims {
            Claims::User(user) => (&user.aud, AUDIENCE, user.iat, user.exp),
            Claims::Mesh(mesh) => (&mesh.aud, audience, mesh.iat, mesh.exp),
        };
        let now = self.clock.unix();
        if now >= exp + LEEWAY_S {
            return Err(refused("TOKEN_EXPIRED", "the token has expired"));
        }
        if aud != expected || iat > now + LEEWAY_S {
            return Err(refused("INVALID_TOKEN", "the token is for another audience or another time"));
        }
        Ok(claims)
    }

    async fn decode(&self, token: &str) -> Result<Claims, Fault> {
        let malformed = || refused("INVALID_TOKEN", "the token is not a JWT of this mesh");
        let header = jsonwebtoken::decode_header(token).map_err(|_| malformed())?;
        let kid = header.kid.ok_or_else(malformed)?;
        match header.alg {
            Algorithm::HS256 if kid == MESH => Ok(Claims::Mesh(Arc::new(self.mesh.verify(token)?))),
            Algorithm::EdDSA => {
                // Read before it is believed, only to learn whose keys to check it with.
                let claims = jsonwebtoken::dangerous::insecure_decode_claims::<UserClaims>(token);
                let tenant = claims.ok().and_then(|claims| claims.tid.parse().ok()).ok_or_else(malformed)?;
                let key = self.key(tenant, &kid).await?;
                let data = jsonwebtoken::decode::<UserClaims>(token, &key, &validation(Algorithm::EdDSA));
                Ok(Claims::User(Arc::new(data.map_err(|_| malformed())?.claims)))
            }
            _ => Err(malformed()),
        }
    }

    async fn key(&self, tenant: TenantId, kid: &str) -> Result<DecodingKey, Fault> {
        let find = |set: &KeySet| set.keys.iter().find(|(id, _)| id == kid).map(|(_, key)| key.clone());
        let known = self.keys.get(&tenant);
        if let Some(key) = known.as_deref().and_then(find) {
            return Ok(key);
        }
        let unknown = || refused("INVALID_TOKEN", "the token was signed by a key that is not the tenant's");
        if known.is_some_and(|set| self.clock.unix() < set.fetched_at + REFETCH_AFTER_S) {
            return Err(unknown());
        }
        let set = Arc::new(self.fetch(tenant).await?);
        self.keys.insert(tenant, set.clone());
        find(&set).ok_or_else(unknown)
    }

    async fn fetch(&self, tenant: TenantId) -> Result<KeySet, Fault> {
        let request = GetJwksRequest { tenant: format!("tenants/{tenant}") };
        let jwks = match self.source.clone().get_jwks(request).await {
            Ok(response) => response.into_inner(),
            Err(status) if status.code() == Code::NotFound => Jwks::default(),
            Err(status) => return Err(unavailable(&status)),
        };
        let decode = |jwk: tenon_proto::auth::v1::Jwk| Some((jwk.kid, DecodingKey::from_ed_components(&jwk.x).ok()?));
        Ok(KeySet { keys: jwks.keys.into_iter().filter_map(decode).collect(), fetched_at: self.clock.unix() })
    }
}

fn unavailable(status: &Status) -> Fault {
    tracing::warn!(code = ?status.code(), message = status.message(), "signing keys cannot be fetched");
    Fault::new(Code::Unavailable, "KEYS_UNAVAILABLE", "the tenant's signing keys cannot be fetched just now")
        .retry_after(Duration::from_secs(1))
}

/// Signature only: time and audience are checked against our own clock, on every use.
fn validation(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}
