//! Secrets: values that never print, AES-256-GCM under the master key, keyed hashes, constant-time compares.

use std::{fmt, str::FromStr, sync::Arc};

use aes_gcm::{
    Aes256Gcm, Key as AesKey, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A text that is never printed, logged or serialised.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    /// The text, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in time that does not depend on the contents or the length.
    #[must_use]
    pub fn matches(&self, other: &str) -> bool {
        Sha256::digest(self.expose()).ct_eq(&Sha256::digest(other)).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl FromStr for Secret {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() { Err("must not be empty") } else { Ok(Self::new(text)) }
    }
}

/// 32 bytes, written in base64.
#[derive(Clone)]
pub struct Key(Arc<Zeroizing<[u8; 32]>>);

impl Key {
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// HMAC-SHA256 of some text for one purpose: equal texts meet, and nobody without the key can test a guess.
    #[must_use]
    pub fn keyed_hash(&self, purpose: &str, text: &str) -> [u8; 32] {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(self.bytes()).expect("HMAC takes a key of any length");
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl FromStr for Key {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes =
            BASE64_STANDARD.decode(text.trim()).map_err(|_| "must be base64; make one: openssl rand -base64 32")?;
        let bytes = <[u8; 32]>::try_from(bytes.as_slice());
        Ok(Self::new(bytes.map_err(|_| "must be 32 bytes in base64; make one: openssl rand -base64 32")?))
    }
}

/// Sealed bytes that do not open: another key, another purpose, or altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealed value does not open under this master key")]
pub struct Unsealable;

/// Seals small values with AES-256-GCM (NIST SP 800-38D); each is bound to what it is for.
#[derive(Clone)]
pub struct Sealer(Aes256Gcm);

impl Sealer {
    #[must_use]
    pub fn new(master: &Key) -> Self {
        Self(Aes256Gcm::new(AesKey::<Aes256Gcm>::from_slice(master.bytes())))
    }

    /// nonce (12 bytes, random) || ciphertext || tag. `purpose` must be given again to open it: put the row's key in.
    #[must_use]
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; 12] = rand::random();
        let payload = Payload { msg: plain, aad: purpose.as_bytes() };
        let sealed = self.0.encrypt(Nonce::from_slice(&nonce), payload).expect("AES-GCM seals up to 64 GiB");
        [nonce.as_slice(), &sealed].concat()
    }

    /// # Errors
    /// When it was sealed under another key or purpose, or was altered.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        let (nonce, sealed) = sealed.split_at_checked(12).ok_or(Unsealable)?;
        let payload = Payload { msg: sealed, aad: purpose.as_bytes() };
        self.0.decrypt(Nonce::from_slice(nonce), payload).map(Zeroizing::new).map_err(|_| Unsealable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_for_its_purpose_and_unaltered() {
        let sealer = Sealer::new(&Key::new([7; 32]));
        let mut sealed = sealer.seal("key/1", b"secret");
        assert_eq!(sealer.open("key/1", &sealed).unwrap().as_slice(), b"secret");
        assert_eq!(sealer.open("key/2", &sealed), Err(Unsealable));
        sealed[15] ^= 1;
        assert_eq!(sealer.open("key/1", &sealed), Err(Unsealable));
        assert_eq!(sealer.open("key/1", b"short"), Err(Unsealable));
        assert_eq!(format!("{:?}", Secret::new("x")), "[redacted]");
    }
}
