//! API keys at the edge: exchanged for short tokens of their tenant, which are kept for a minute at most and dropped as soon
//! as the key is revoked. The secret goes no further than here.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use moka::{future, sync};
use tenon_chassis::{ApiKeyId, Clock, Fault, Mesh, api_key::ApiKey, client::Peer, fault::reason, telemetry};
use tenon_proto::auth::v1::{ExchangeApiKeyRequest, WatchApiKeysRequest, api_key_service_client::ApiKeyServiceClient};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::Instrument;

/// Keys in memory at most: about 20 MB when full.
const CAPACITY: u64 = 20_000;
/// How long a token is used before its key is looked up again.
const KEPT_MS: i64 = 60_000;
/// How long while nobody tells of revocations.
const UNWATCHED_MS: i64 = 5_000;
/// How long when who knows the keys cannot be reached either.
const STALE_MS: i64 = 30_000;
/// The stream shows a sign of life every 5 s; after this long without one it is taken for dead.
const STREAM_DEAD_MS: i64 = 7_500;
/// How long a revocation is remembered: longer than a token lives that was made before it.
const REVOKED_LIFE: Duration = Duration::from_secs(300);
/// An exchange that takes longer has failed.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it is remembered that an address has shown a key that is none.
const GUESSER_LIFE: Duration = Duration::from_secs(60);

/// The tokens of the keys that are in use.
pub(crate) struct ApiKeys {
    clock: Clock,
    source: ApiKeyServiceClient<Peer>,
    known: future::Cache<Shown, Arc<Known>>,
    revoked: sync::Cache<ApiKeyId, ()>,
    guessers: sync::Cache<IpAddr, ()>,
    /// Grows each time that a stream stands anew: what was exchanged before may have missed a revocation.
    epoch: AtomicU64,
    alive_ms: AtomicI64,
}

/// A key as it was shown: its id and the hash of its secret.
type Shown = (ApiKeyId, [u8; 32]);

struct Known {
    /// `Bearer` and the token.
    bearer: HeaderValue,
    fetched_ms: i64,
    expires_ms: i64,
    /// The stream's life in which it was exchanged; 0 is none.
    epoch: u64,
}

impl ApiKeys {
    pub(crate) fn new(mesh: &Mesh) -> Arc<Self> {
        let life = Duration::from_millis(KEPT_MS.unsigned_abs());
        Arc::new(Self {
            clock: mesh.clock.clone(),
            source: mesh.api_keys.clone(),
            known: future::Cache::builder().max_capacity(CAPACITY).time_to_live(life).build(),
            revoked: sync::Cache::builder().max_capacity(CAPACITY).time_to_live(REVOKED_LIFE).build(),
            guessers: sync::Cache::builder().max_capacity(CAPACITY).time_to_live(GUESSER_LIFE).build(),
            epoch: AtomicU64::new(0),
            alive_ms: AtomicI64::new(i64::MIN),
        })
    }

    /// The token of a key, if it need not be asked for.
    pub(crate) async fn known(&self, key: &ApiKey) -> Option<HeaderValue> {
        let known = self.known.get(&(key.id, key.hash())).await.filter(|known| self.is_fresh(key.id, known))?;
        Some(known.bearer.clone())
    }

    /// Exchanges a key; of many requests at once one does so for all.
    ///
    /// # Errors
    /// API_KEY_INVALID; UNAVAILABLE when nobody can tell just now.
    pub(crate) async fn exchange(&self, key: &ApiKey) -> Result<HeaderValue, Fault> {
        let shown = (key.id, key.hash());
        let before = self.known.get(&shown).await;
        if before.is_some() {
            self.known.invalidate(&shown).await;
        }
        let asked = self.known.try_get_with(shown, self.ask(key)).await;
        let now = self.clock.now().timestamp_millis();
        match asked {
            Ok(known) if self.revoked.contains_key(&key.id) || now >= known.expires_ms => Err(invalid()),
            Ok(known) => Ok(known.bearer.clone()),
            Err(fault) if fault.code == Code::Unavailable => {
                let is_usable = |known: &Arc<Known>| {
                    now < (known.fetched_ms + STALE_MS).min(known.expires_ms) && !self.revoked.contains_key(&key.id)
                };
                let before = before.filter(is_usable).ok_or_else(|| Fault::clone(&fault))?;
                self.known.insert(shown, before.clone()).await;
                Ok(before.bearer.clone())
            }
            Err(fault) => Err(Fault::clone(&fault)),
        }
    }

    /// Whether it was told that a key is revoked.
    pub(crate) fn is_revoked(&self, id: ApiKeyId) -> bool {
        self.revoked.contains_key(&id)
    }

    /// Whether an address has shown keys that are none a moment ago.
    pub(crate) fn is_guesser(&self, address: IpAddr) -> bool {
        self.guessers.contains_key(&address)
    }

    pub(crate) fn guessed(&self, address: IpAddr) {
        self.guessers.insert(address, ());
    }

    fn is_fresh(&self, id: ApiKeyId, known: &Known) -> bool {
        let now = self.clock.now().timestamp_millis();
        let watched = known.epoch != 0 && known.epoch == self.epoch.load(Ordering::Acquire);
        let stream_lives = now < self.alive_ms.load(Ordering::Acquire).saturating_add(STREAM_DEAD_MS);
        let kept = if watched && stream_lives { KEPT_MS } else { UNWATCHED_MS };
        now < (known.fetched_ms + kept).min(known.expires_ms) && !self.revoked.contains_key(&id)
    }

    async fn ask(&self, key: &ApiKey) -> Result<Arc<Known>, Fault> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let (tenant, api_key, secret_hash) = (key.tenant.to_string(), key.id.to_string(), key.hash().to_vec());
        let request = ExchangeApiKeyRequest { tenant, api_key, secret_hash: secret_hash.into() };
        let mut source = self.source.clone();
        let asked = tokio::time::timeout(EXCHANGE_TIMEOUT, source.exchange_api_key(request)).await;
        let result = asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        metrics::counter!("tenon_edge_api_key_exchanges_total", "result" => label(&result)).increment(1);
        let answer = result.map_err(|status| refused(&status))?.into_inner();
        let bearer = HeaderValue::try_from(format!("Bearer {}", answer.access_token));
        let mut bearer = bearer.map_err(|error| Fault::internal(&error))?;
        bearer.set_sensitive(true);
        let expires_ms = answer.expire_time.map_or(0, |at| at.seconds.saturating_mul(1_000));
        Ok(Arc::new(Known { bearer, fetched_ms: self.clock.now().timestamp_millis(), expires_ms, epoch }))
    }

    /// Holds the stream of revocations until stopped; reconnects after 250 ms.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let result = stop.run_until_cancelled(self.follow().instrument(telemetry::quiet())).await;
            if let Some(Err(status)) = result {
                tracing::debug!(code = ?status.code(), "stream of revoked API keys ended");
            }
            stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(250))).await;
        }
    }

    async fn follow(&self) -> Result<(), Status> {
        let mut stream = self.source.clone().watch_api_keys(WatchApiKeysRequest {}).await?.into_inner();
        let mut stands = false;
        loop {
            let silence = Duration::from_millis(STREAM_DEAD_MS.unsigned_abs());
            let message = tokio::time::timeout(silence, stream.message()).await;
            let Some(told) = message.map_err(|_| Status::unavailable("silent"))?? else { return Ok(()) };
            if !stands {
                // Only what is exchanged after this moment is kept true by the stream.
                self.epoch.fetch_add(1, Ordering::AcqRel);
                stands = true;
            }
            self.alive_ms.store(self.clock.now().timestamp_millis(), Ordering::Release);
            if let Ok(id) = told.api_key.parse() {
                self.revoked.insert(id, ());
            }
        }
    }
}

/// The same for every key that does not open anything.
pub(crate) fn invalid() -> Fault {
    let message = "the API key is not valid: it is unknown, has expired or was revoked";
    Fault::new(Code::Unauthenticated, "API_KEY_INVALID", message)
}

fn refused(status: &Status) -> Fault {
    if status.code() == Code::Unauthenticated && reason(status).as_deref() == Some("API_KEY_INVALID") {
        return invalid();
    }
    tracing::warn!(code = ?status.code(), message = status.message(), "an API key cannot be exchanged");
    Fault::new(Code::Unavailable, "KEYS_UNAVAILABLE", "API keys cannot be looked up just now")
        .retry_after(Duration::from_secs(1))
}

fn label<T>(result: &Result<T, Status>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(status) if status.code() == Code::Unauthenticated => "invalid",
        Err(_) => "failed",
    }
}
