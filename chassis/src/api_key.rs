//! API keys as texts: whose a key is, 256 random bits, and a checksum that tells a typo without asking anyone.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{TenantId, id::ApiKeyId};

/// Marks a text as an API key, for people and for secret scanners: `tnk_[A-Za-z0-9_-]{91}`.
pub const PREFIX: &str = "tnk_";
/// What the subject of a key's token begins with.
pub const SUBJECT: &str = "key:";
/// Bytes of the checksum.
const CHECK: usize = 4;

/// A key that says whose it is, so that its row can be found under row-level security.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub tenant: TenantId,
    pub id: ApiKeyId,
    secret: Zeroizing<[u8; 32]>,
}

impl ApiKey {
    #[must_use]
    pub fn generate(tenant: TenantId, id: ApiKeyId) -> Self {
        Self { tenant, id, secret: Zeroizing::new(rand::random()) }
    }

    /// `None` for any other text, and for a key with a typo in it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?);
        let (plain, _) = bytes.split_at_checked(64).filter(|(plain, check)| *check == checksum(plain))?;
        let uuid = |bytes: &[u8]| Uuid::from_slice(bytes).ok();
        let secret = Zeroizing::new(plain[32..].try_into().ok()?);
        Some(Self { tenant: uuid(&plain[..16])?.into(), id: uuid(&plain[16..32])?.into(), secret })
    }

    /// The text, for the one who is to have it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let (tenant, id) = (self.tenant.uuid(), self.id.uuid());
        let plain = [tenant.as_bytes().as_slice(), id.as_bytes(), &*self.secret].concat();
        format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode([plain.as_slice(), &checksum(&plain)].concat()))
    }

    /// What is stored and sent: a random secret needs no slow hash.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(*self.secret).into()
    }
}

fn checksum(plain: &[u8]) -> [u8; CHECK] {
    let hash = Sha256::new().chain_update(PREFIX).chain_update(plain).finalize();
    hash[..CHECK].try_into().expect("a SHA-256 has more bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clock;

    #[test]
    fn a_key_reads_back_and_no_typo_does() {
        let clock = Clock::default();
        let key = ApiKey::generate(TenantId::new(&clock), ApiKeyId::new(&clock));
        let text = key.to_text();
        assert_eq!(text.len(), PREFIX.len() + 91);
        assert!(ApiKey::parse(&text).is_some_and(|parsed| parsed == key));
        for at in 0..text.len() {
            let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
            let typo = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(ApiKey::parse(&typo).is_none(), "{typo}");
        }
        for bad in ["", PREFIX, &text[4..], &text[..text.len() - 1], &format!("{text}A"), &text.to_uppercase()] {
            assert!(ApiKey::parse(bad).is_none(), "{bad}");
        }
    }
}
