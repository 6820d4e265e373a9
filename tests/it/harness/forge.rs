//! Tokens as an attacker would make them: a key of ours is put beside a tenant's own, so that every claim can be chosen.

use std::time::Instant;

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sqlx::query;
use uuid::Uuid;

use super::{MESH_KEY, Mesh, Tenant};

/// Ed25519 keys made for these tests: PKCS #8 and public half, in base64.
const PAIRS: [(&str, &str); 2] = [
    (
        "MC4CAQAwBQYDK2VwBCIEIAhVRFZSDxF8quGfKweJ97XrSSU0lPSmpqPJxfPXmKiV",
        "cshiA/jBWdlPFXwT0Y4OTHeAHSVqVyORIpugS7RdQOE=",
    ),
    (
        "MC4CAQAwBQYDK2VwBCIEIKe3XBWJBdKLc+ef0XVxjvfHlTug/qnhCCFixSTX24RW",
        "TBTQDgFS7YakuzlqDpEawdcgiGb38e96HA+nheG1nB4=",
    ),
];

/// Signs for one tenant.
#[derive(Debug, Clone)]
pub struct Forge {
    pair: usize,
    pub kid: String,
    /// The claims of a token that the tenant's admin has right now.
    pub claims: Value,
    made: Instant,
}

impl Forge {
    /// Puts key number `pair` among the tenant's, before anyone has asked for them.
    pub async fn for_tenant(mesh: &Mesh, tenant: &Tenant, pair: usize) -> Self {
        let claims = claims(&tenant.token);
        let id = |text: &Value, prefix: &str| {
            let digits = text.as_str().and_then(|text| text.strip_prefix(prefix)).expect("a typed id");
            Uuid::parse_str(digits).expect("a typed id")
        };
        let (tid, key) =
            (id(&claims["tid"], "ten_"), Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + pair as u128));
        let insert = "insert into auth.signing_keys values ($1, $2, 'previous', $3, '', now())";
        let public = BASE64_STANDARD.decode(PAIRS[pair].1).expect("it is base64");
        let insert = query(insert).bind(tid).bind(key).bind(public);
        insert.execute(&mut mesh.database.owner().await).await.expect("the owner may add a key");
        Self { pair, kid: format!("key_{}", key.simple()), claims, made: Instant::now() }
    }

    /// Seconds since 1970, as tokens have it: a mesh token of the beginning has expired before a long test ends.
    pub fn now(&self) -> i64 {
        let began = self.claims["iat"].as_i64().expect("a number");
        began + i64::try_from(self.made.elapsed().as_secs()).expect("a test ends")
    }

    /// A token with these claims instead of the admin's.
    pub fn sign(&self, changes: &Value) -> String {
        self.sign_as(&self.kid, changes)
    }

    /// As `sign`, with the `kid` of another key in the header.
    pub fn sign_as(&self, kid: &str, changes: &Value) -> String {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::EdDSA) };
        let key = EncodingKey::from_ed_der(&BASE64_STANDARD.decode(PAIRS[self.pair].0).expect("it is base64"));
        jsonwebtoken::encode(&header, &self.with(changes), &key).expect("claims are JSON")
    }

    /// HS256 with the public key as the secret (RFC 8725 section 2.1).
    pub fn confused(&self, kid: &str) -> String {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        let key = EncodingKey::from_secret(&BASE64_STANDARD.decode(PAIRS[self.pair].1).expect("it is base64"));
        jsonwebtoken::encode(&header, &self.claims, &key).expect("claims are JSON")
    }

    /// `alg: none` (RFC 8725 section 2.1).
    pub fn unsigned(&self) -> String {
        let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(json!({ "alg": "none", "typ": "JWT", "kid": self.kid })), part(self.claims.clone()))
    }

    /// A good token whose claims were changed after it was signed.
    pub fn tampered(&self, changes: &Value) -> String {
        let good = self.sign(&json!({}));
        let parts: Vec<&str> = good.split('.').collect();
        format!("{}.{}.{}", parts[0], BASE64_URL_SAFE_NO_PAD.encode(self.with(changes).to_string()), parts[2])
    }

    fn with(&self, changes: &Value) -> Value {
        let mut claims = self.claims.clone();
        let changes = changes.as_object().expect("changes are an object").clone();
        claims.as_object_mut().expect("claims are an object").extend(changes);
        claims
    }
}

/// A token of the mesh's own for one audience, issued at `iat`.
pub fn mesh_token(audience: &str, tenant: Option<&str>, iat: i64) -> String {
    let header = Header { kid: Some("mesh".to_owned()), ..Header::new(Algorithm::HS256) };
    let mut claims = json!({ "iss": "mesh", "sub": "svc:test", "aud": audience, "iat": iat, "exp": iat + 60 });
    if let Some(tenant) = tenant {
        claims["tid"] = json!(tenant);
    }
    let key = EncodingKey::from_base64_secret(MESH_KEY).expect("it is base64");
    jsonwebtoken::encode(&header, &claims, &key).expect("claims are JSON")
}

/// What a token says, unverified.
pub fn claims(token: &str) -> Value {
    decode(token.split('.').nth(1).expect("a JWT has three parts"))
}

/// The header of a token.
pub fn header(token: &str) -> Value {
    decode(token.split('.').next().expect("a JWT has three parts"))
}

fn decode(part: &str) -> Value {
    let json = BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url");
    serde_json::from_slice(&json).expect("JSON")
}
