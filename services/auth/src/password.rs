//! Passwords: argon2id with the OWASP parameters, on a bounded number of threads.

use std::sync::{Arc, LazyLock, Mutex};

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHash, Version,
    password_hash::{Output, ParamsString, SaltString, rand_core::OsRng},
};
use tokio::sync::Semaphore;

use crate::error::Error;

/// 19 MiB, 2 passes, 1 lane (OWASP Password Storage Cheat Sheet).
static PARAMS: LazyLock<Params> =
    LazyLock::new(|| Params::new(19 * 1_024, 2, 1, None).expect("constant parameters are within argon2's limits"));

/// The memory of hashes that are done, for those to come: each thread would keep its own 19 MiB otherwise.
static MEMORY: Mutex<Vec<Vec<Block>>> = Mutex::new(Vec::new());

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
            Ok(verify(&password, &stored)? && known)
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
    let corrupt = |_| Error::Corrupt("password parameters");
    let salt = SaltString::generate(&mut OsRng);
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&*PARAMS).map_err(corrupt)?,
        salt: Some(salt.as_salt()),
        hash: Some(derive(password, &salt, Version::V0x13, PARAMS.clone())?),
    };
    Ok(hash.to_string())
}

/// Compares in constant time, under the parameters that the stored hash was made with.
fn verify(password: &str, stored: &str) -> Result<bool, Error> {
    let corrupt = |_| Error::Corrupt("password hash");
    let stored = PasswordHash::new(stored).map_err(corrupt)?;
    let (Some(salt), Some(expected)) = (stored.salt, stored.hash) else { return Err(Error::Corrupt("password hash")) };
    let version = stored.version.unwrap_or(Version::V0x13.into());
    let version = Version::try_from(version).map_err(|_| Error::Corrupt("password hash"))?;
    let params = Params::try_from(&stored).map_err(corrupt)?;
    let salt = SaltString::from_b64(salt.as_str()).map_err(corrupt)?;
    Ok(derive(password, &salt, version, params)? == expected)
}

fn derive(password: &str, salt: &SaltString, version: Version, params: Params) -> Result<Output, Error> {
    let corrupt = |_| Error::Corrupt("password hash");
    let mut bytes = [0; 64];
    let salt = salt.decode_b64(&mut bytes).map_err(corrupt)?;
    let mut memory = MEMORY.lock().expect("no holder panics").pop().unwrap_or_default();
    memory.resize(params.block_count(), Block::default());
    let argon2 = Argon2::new(Algorithm::Argon2id, version, params);
    let output = Output::init_with(32, |out| {
        Ok(argon2.hash_password_into_with_memory(password.as_bytes(), salt, out, &mut memory)?)
    });
    MEMORY.lock().expect("no holder panics").push(memory);
    output.map_err(corrupt)
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
