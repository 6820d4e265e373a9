//! Passwords: argon2id with the OWASP parameters, on a bounded number of threads.

use std::sync::{Arc, LazyLock};

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version,
    password_hash::{SaltString, rand_core::OsRng},
};
use tokio::sync::Semaphore;

use crate::error::Error;

/// 19 MiB, 2 passes, 1 lane (OWASP Password Storage Cheat Sheet).
static ARGON2: LazyLock<Argon2<'static>> = LazyLock::new(|| {
    let params = Params::new(19 * 1_024, 2, 1, None).expect("constant parameters are within argon2's limits");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
});

/// Checked when there is no such user, so that an answer takes as long as for one that there is.
static NOBODY: LazyLock<String> = LazyLock::new(|| hash("no password has this hash").unwrap_or_default());

/// Hashes and checks passwords; bounds how many at once, and how many wait.
pub struct Hasher {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Hasher {
    #[must_use]
    pub fn new(concurrency: usize, queue: usize) -> Self {
        let concurrency = concurrency.max(1);
        Self { running: Arc::new(Semaphore::new(concurrency)), waiting: Arc::new(Semaphore::new(concurrency + queue)) }
    }

    /// A PHC string of a password.
    ///
    /// # Errors
    /// `Busy` when too many wait already.
    pub async fn hash(&self, password: String) -> Result<String, Error> {
        self.run(move || hash(&password)).await?
    }

    /// Whether a password is the stored one; the same work is done when none is stored.
    ///
    /// # Errors
    /// `Busy` when too many wait already.
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<bool, Error> {
        self.run(move || {
            let known = stored.is_some();
            let stored = stored.unwrap_or_else(|| NOBODY.clone());
            let stored = PasswordHash::new(&stored).map_err(|_| Error::Corrupt("password hash"))?;
            Ok(ARGON2.verify_password(password.as_bytes(), &stored).is_ok() && known)
        })
        .await?
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let waiting = self.waiting.clone().try_acquire_owned().map_err(|_| Error::Busy)?;
        let running = self.running.clone().acquire_owned().await.map_err(|_| Error::Busy)?;
        let done = tokio::task::spawn_blocking(move || {
            // Held by the work itself: a caller that goes away does not free the core.
            let _held = (waiting, running);
            work()
        });
        done.await.map_err(|_| Error::Busy)
    }
}

fn hash(password: &str) -> Result<String, Error> {
    let salt = SaltString::generate(&mut OsRng);
    let hash = ARGON2.hash_password(password.as_bytes(), &salt).map_err(|_| Error::Corrupt("salt"))?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_again_and_nobody_has_none() {
        let hasher = Hasher::new(1, 1);
        let stored = hasher.hash("correct horse".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(hasher.verify("correct horse".to_owned(), Some(stored.clone())).await.unwrap());
        assert!(!hasher.verify("wrong".to_owned(), Some(stored)).await.unwrap());
        assert!(!hasher.verify("no password has this hash".to_owned(), None).await.unwrap());
    }
}
