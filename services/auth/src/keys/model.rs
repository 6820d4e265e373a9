//! Ed25519 signing keys (RFC 8032), PKCS #8 sealed under the master key.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use tenon_chassis::{Clock, TenantId, id, secret::Sealer, token::UserClaims};

use crate::error::Error;

id!(KeyId, "key", "A tenant's signing key; the `kid` of its tokens.");

/// Where a key is in its life: published, signing, or kept until what it signed has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Next,
    Current,
    Previous,
}

impl State {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Current => "current",
            Self::Previous => "previous",
        }
    }

    /// # Errors
    /// When the row is not one that this code wrote.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "next" => Ok(Self::Next),
            "current" => Ok(Self::Current),
            "previous" => Ok(Self::Previous),
            _ => Err(Error::Corrupt("signing key state")),
        }
    }
}

/// A row of auth.signing_keys.
#[derive(Debug, Clone)]
pub struct SigningKey {
    pub id: KeyId,
    pub state: State,
    pub public_key: Vec<u8>,
    pub sealed_private: Vec<u8>,
    pub created_at: DateTime<Utc>,
}

impl SigningKey {
    /// # Errors
    /// When the system has no randomness.
    pub fn generate(tenant: TenantId, state: State, clock: &Clock, sealer: &Sealer) -> Result<Self, Error> {
        let document = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new());
        let document = document.map_err(|_| Error::Corrupt("randomness"))?;
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| Error::Corrupt("generated key"))?;
        let id = KeyId::new(clock);
        let sealed_private = sealer.seal(&purpose(tenant, id), document.as_ref());
        Ok(Self { id, state, public_key: pair.public_key().as_ref().to_vec(), sealed_private, created_at: clock.now() })
    }

    /// # Errors
    /// When the private half does not open under the master key.
    pub fn signer(&self, tenant: TenantId, sealer: &Sealer) -> Result<Signer, Error> {
        let document = sealer.open(&purpose(tenant, self.id), &self.sealed_private)?;
        let header = Header {
            kid: Some(self.id.to_string()),
            // RFC 9068: tells an access token from other JWTs.
            typ: Some("at+jwt".to_owned()),
            ..Header::new(Algorithm::EdDSA)
        };
        Ok(Signer { header, key: EncodingKey::from_ed_der(&document) })
    }
}

/// Binds a sealed key to its row.
fn purpose(tenant: TenantId, id: KeyId) -> String {
    format!("auth.signing_keys/{tenant}/{id}")
}

/// Signs a tenant's access tokens.
pub struct Signer {
    header: Header,
    key: EncodingKey,
}

impl Signer {
    /// # Errors
    /// When the key is not an Ed25519 key.
    pub fn sign(&self, claims: &UserClaims) -> Result<String, Error> {
        jsonwebtoken::encode(&self.header, claims, &self.key).map_err(|_| Error::Corrupt("signing key"))
    }
}
