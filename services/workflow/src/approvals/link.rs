//! Links that decide: what is asked, who was asked and until when, under a MAC. A link works once, as a question does.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use subtle::ConstantTimeEq;
use tenon_chassis::{TenantId, secret::Key};
use uuid::Uuid;

use super::model::Name;

/// A link without an end works so long: 90 days.
const LIFE_S: i64 = 90 * 86_400;
/// What the MAC is for, so that no other of this key's is one.
const PURPOSE: &str = "workflow.approvals.link.v1";
/// tenant, run, token, end.
const HEAD: usize = 16 + 16 + 8 + 8;
const MAC: usize = 32;
/// Bytes of a link at most: an address has 320 characters.
const MAX: usize = HEAD + 1_300 + MAC;

/// What a link says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) tenant: TenantId,
    pub(super) name: Name,
    /// Seconds since 1970.
    pub(super) ends_at: i64,
    /// The address that it was mailed to.
    pub(super) to: String,
}

impl Link {
    pub(super) fn new(
        tenant: TenantId,
        name: Name,
        to: &str,
        (now, expires_at): (DateTime<Utc>, Option<DateTime<Utc>>),
    ) -> Self {
        let ends_at = expires_at.map_or(now.timestamp() + LIFE_S, |at| at.timestamp());
        Self { tenant, name, ends_at, to: to.to_owned() }
    }

    pub(super) fn sign(&self, key: &Key) -> String {
        let mut bytes = Vec::with_capacity(HEAD + self.to.len() + MAC);
        bytes.extend_from_slice(self.tenant.uuid().as_bytes());
        bytes.extend_from_slice(self.name.run.uuid().as_bytes());
        bytes.extend_from_slice(&self.name.token.to_be_bytes());
        bytes.extend_from_slice(&self.ends_at.to_be_bytes());
        bytes.extend_from_slice(self.to.as_bytes());
        let mac = mac(key, &bytes);
        bytes.extend_from_slice(&mac);
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None` for what we did not sign, or is over.
    pub(super) fn open(key: &Key, text: &str, now: DateTime<Utc>) -> Option<Self> {
        if text.len() > MAX * 4 / 3 {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (signed, found) = bytes.split_last_chunk::<MAC>()?;
        if !bool::from(mac(key, signed).ct_eq(found)) {
            return None;
        }
        let (tenant, rest) = signed.split_first_chunk::<16>()?;
        let (run, rest) = rest.split_first_chunk::<16>()?;
        let (token, rest) = rest.split_first_chunk::<8>()?;
        let (ends_at, to) = rest.split_first_chunk::<8>()?;
        let name = Name { run: Uuid::from_bytes(*run).into(), token: u64::from_be_bytes(*token) };
        let (tenant, ends_at) = (Uuid::from_bytes(*tenant).into(), i64::from_be_bytes(*ends_at));
        let to = String::from_utf8(to.to_vec()).ok()?;
        (now.timestamp() < ends_at).then_some(Self { tenant, name, ends_at, to })
    }
}

fn mac(key: &Key, bytes: &[u8]) -> [u8; MAC] {
    key.keyed_hash(PURPOSE, &BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use tenon_chassis::Clock;

    use super::*;
    use crate::runs::model::RunId;

    #[test]
    fn only_our_own_links_open_and_only_in_time() {
        let (clock, key) = (Clock::default(), Key::new([7; 32]));
        let (now, name) = (clock.now(), Name { run: RunId::new(&clock), token: 7 });
        let link = Link::new(TenantId::new(&clock), name, "ada@b.test", (now, Some(now + TimeDelta::seconds(60))));
        let text = link.sign(&key);
        assert_eq!(Link::open(&key, &text, now), Some(link.clone()));
        assert_eq!(Link::open(&key, &text, now + TimeDelta::seconds(61)), None);
        assert_eq!(Link::open(&Key::new([8; 32]), &text, now), None);
        let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(&text).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert_eq!(Link::open(&key, &BASE64_URL_SAFE_NO_PAD.encode(&bytes), now), None, "byte {at}");
            bytes[at] ^= 1;
        }
        for bad in ["", "x", "****", &"A".repeat(10_000)] {
            assert_eq!(Link::open(&key, bad, now), None);
        }
    }
}
