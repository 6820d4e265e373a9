//! The directory: what the mesh knows about every tenant, in memory, filled on demand, corrected by push.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;
use tenon_proto::tenant::v1::{
    DirectoryEntry, LookupTenantRequest, WatchTenantsRequest, directory_service_client::DirectoryServiceClient,
    lookup_tenant_request::Key, tenant::Status as PbStatus,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status as GrpcStatus};
use tracing::Instrument;

use crate::{Clock, Fault, TenantId, client::Peer, telemetry};

/// Tenants at most in memory: about 100 MB when full.
const CAPACITY: u64 = 100_000;
/// The stream shows a sign of life every 5 s; after this long without one it is taken for dead.
const STREAM_DEAD_MS: i64 = 7_500;
/// How long an entry is believed while no stream stands.
const UNWATCHED_MS: i64 = 5_000;
/// How long an entry is believed when the registry cannot be reached either.
const STALE_MS: i64 = 30_000;
/// Slugs are host labels (RFC 1035); what is none is nobody's, without a look-up.
const MAX_SLUG: usize = 63;
/// How long it is remembered that there is no such tenant.
const ABSENT_LIFE: Duration = Duration::from_secs(2);
const STALE_LIFE: Duration = Duration::from_millis(STALE_MS.unsigned_abs());
/// Hosts at most that are remembered to be nobody's.
const STRANGE: u64 = 10_000;

/// Where a tenant is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Provisioning,
    Active,
    PendingPayment,
    Suspended,
    Deleted,
}

/// What the mesh knows about a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub slug: String,
    pub status: Status,
    pub region: String,
    pub plan: String,
    pub features: BTreeSet<String>,
    pub limits: BTreeMap<String, i64>,
    pub version: i64,
    /// Verified hosts of its own, in lower case.
    pub hosts: Vec<String>,
}

impl Tenant {
    fn has(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own == host)
    }

    /// Lets calls of a tenant in good standing through.
    ///
    /// # Errors
    /// TENANT_SUSPENDED (403), TENANT_PENDING_PAYMENT (402) unless `allow_unpaid`, TENANT_UNKNOWN (401).
    pub fn admit(&self, allow_unpaid: bool) -> Result<(), Fault> {
        match self.status {
            Status::Active => Ok(()),
            Status::PendingPayment if allow_unpaid => Ok(()),
            Status::PendingPayment => Err(Fault::new(
                Code::FailedPrecondition,
                "TENANT_PENDING_PAYMENT",
                "the tenant has an open payment; settle it to go on",
            )),
            Status::Suspended => Err(Fault::new(Code::PermissionDenied, "TENANT_SUSPENDED", "the tenant is suspended")),
            Status::Provisioning | Status::Deleted => Err(unknown()),
        }
    }
}

/// UNAUTHENTICATED for a tenant that is not there, not yet or no longer.
#[must_use]
pub fn unknown() -> Fault {
    Fault::new(Code::Unauthenticated, "TENANT_UNKNOWN", "there is no such tenant")
}

impl TryFrom<DirectoryEntry> for Tenant {
    type Error = crate::id::Invalid;

    fn try_from(entry: DirectoryEntry) -> Result<Self, Self::Error> {
        let status = match entry.status() {
            PbStatus::Active => Status::Active,
            PbStatus::PendingPayment => Status::PendingPayment,
            PbStatus::Suspended => Status::Suspended,
            PbStatus::Provisioning => Status::Provisioning,
            PbStatus::Deleted | PbStatus::Unspecified => Status::Deleted,
        };
        Ok(Self {
            id: entry.id.parse()?,
            slug: entry.slug,
            status,
            region: entry.region,
            plan: entry.plan,
            features: entry.features.into_iter().collect(),
            limits: entry.limits.into_iter().collect(),
            version: entry.version,
            hosts: entry.hosts,
        })
    }
}

#[derive(Clone)]
struct Known {
    tenant: Arc<Tenant>,
    fetched_ms: i64,
    /// The stream's life in which it was fetched; 0 is none.
    epoch: u64,
}

/// Finds tenants without asking the registry, as long as its stream stands.
pub struct Directory {
    clock: Clock,
    source: DirectoryServiceClient<Peer>,
    by_id: Cache<TenantId, Known>,
    ids: Cache<String, TenantId>,
    absent: Cache<String, ()>,
    /// As `absent`, for longer: hosts that are nobody's, should the registry not be there to say so.
    strange: Cache<String, ()>,
    /// Grows each time that a stream stands anew: what was fetched before may have missed a change.
    epoch: AtomicU64,
    alive_ms: AtomicI64,
}

impl Directory {
    #[must_use]
    pub fn new(clock: Clock, source: DirectoryServiceClient<Peer>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            source,
            by_id: Cache::new(CAPACITY),
            ids: Cache::new(CAPACITY),
            absent: Cache::builder().max_capacity(CAPACITY).time_to_live(ABSENT_LIFE).build(),
            strange: Cache::builder().max_capacity(STRANGE).time_to_live(STALE_LIFE).build(),
            epoch: AtomicU64::new(0),
            alive_ms: AtomicI64::new(i64::MIN),
        })
    }

    /// # Errors
    /// TENANT_UNKNOWN, or UNAVAILABLE when the registry has been out of reach for 30 s.
    pub async fn by_id(&self, id: TenantId) -> Result<Arc<Tenant>, Fault> {
        if let Some(known) = self.by_id.get(&id).filter(|known| self.is_fresh(known)) {
            return Ok(known.tenant);
        }
        self.lookup(id.to_string(), Key::Id(id.to_string()), Some(id)).await
    }

    /// # Errors
    /// As `by_id`.
    pub async fn by_slug(&self, slug: &str) -> Result<Arc<Tenant>, Fault> {
        if slug.len() > MAX_SLUG || !slug.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(unknown());
        }
        let id = self.ids.get(slug);
        if let Some(known) = id.and_then(|id| self.by_id.get(&id)).filter(|known| self.is_fresh(known)) {
            return Ok(known.tenant);
        }
        self.lookup(format!("slug {slug}"), Key::Slug(slug.to_owned()), id).await
    }

    /// The tenant that has proved that a host is its own; `None` when nobody has.
    ///
    /// # Errors
    /// UNAVAILABLE as `by_id`.
    pub async fn by_host(&self, host: &str) -> Result<Option<Arc<Tenant>>, Fault> {
        // No slug has a dot, and each of these hosts has one.
        let id = self.ids.get(host);
        let has_it = |known: &Known| self.is_fresh(known) && known.tenant.has(host);
        if let Some(known) = id.and_then(|id| self.by_id.get(&id)).filter(has_it) {
            return Ok(Some(known.tenant));
        }
        let name = format!("host {host}");
        match self.lookup(name.clone(), Key::Host(host.to_owned()), id).await {
            Ok(tenant) => Ok(tenant.has(host).then_some(tenant)),
            Err(fault) if fault.code == Code::Unavailable && !self.strange.contains_key(&name) => Err(fault),
            Err(_) => Ok(None),
        }
    }

    fn is_fresh(&self, known: &Known) -> bool {
        let now = self.clock.now().timestamp_millis();
        let watched = known.epoch != 0 && known.epoch == self.epoch.load(Ordering::Acquire);
        let stream_lives = now < self.alive_ms.load(Ordering::Acquire).saturating_add(STREAM_DEAD_MS);
        (watched && stream_lives) || now < known.fetched_ms + UNWATCHED_MS
    }

    async fn lookup(&self, name: String, key: Key, id: Option<TenantId>) -> Result<Arc<Tenant>, Fault> {
        if self.absent.contains_key(&name) {
            return Err(unknown());
        }
        let epoch = self.epoch.load(Ordering::Acquire);
        match self.source.clone().lookup_tenant(LookupTenantRequest { key: Some(key) }).await {
            Ok(response) => self.learn(response.into_inner(), epoch).ok_or_else(unknown),
            Err(status) if status.code() == Code::NotFound => {
                self.strange.insert(name.clone(), ());
                self.absent.insert(name, ());
                Err(unknown())
            }
            Err(status) => self.stale(id, &status),
        }
    }

    fn stale(&self, id: Option<TenantId>, status: &GrpcStatus) -> Result<Arc<Tenant>, Fault> {
        let now = self.clock.now().timestamp_millis();
        let last_true = |known: &Known| {
            let alive = self.alive_ms.load(Ordering::Acquire);
            if known.epoch == self.epoch.load(Ordering::Acquire) {
                known.fetched_ms.max(alive)
            } else {
                known.fetched_ms
            }
        };
        let known = id.and_then(|id| self.by_id.get(&id)).filter(|known| now < last_true(known) + STALE_MS);
        tracing::warn!(code = ?status.code(), stale = known.is_some(), "tenant registry cannot be reached");
        known.map(|known| known.tenant).ok_or_else(|| {
            Fault::new(Code::Unavailable, "DIRECTORY_UNAVAILABLE", "the tenant registry cannot be reached just now")
                .retry_after(Duration::from_secs(1))
        })
    }

    /// Keeps the entry unless a newer one is known: a lookup may be overtaken by a push.
    fn learn(&self, entry: DirectoryEntry, epoch: u64) -> Option<Arc<Tenant>> {
        let tenant = Arc::new(Tenant::try_from(entry).ok()?);
        let known = Known { tenant: tenant.clone(), fetched_ms: self.clock.now().timestamp_millis(), epoch };
        self.absent.invalidate(&tenant.id.to_string());
        self.absent.invalidate(&format!("slug {}", tenant.slug));
        self.ids.insert(tenant.slug.clone(), tenant.id);
        for host in &tenant.hosts {
            let name = format!("host {host}");
            self.strange.invalidate(&name);
            self.absent.invalidate(&name);
            self.ids.insert(host.clone(), tenant.id);
        }
        let kept = self.by_id.entry(tenant.id).and_upsert_with(|old| match old.map(moka::Entry::into_value) {
            Some(old) if old.tenant.version > known.tenant.version => old,
            _ => known,
        });
        Some(kept.into_value().tenant)
    }

    /// Holds the stream of changes until stopped; reconnects after 250 ms.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let result = stop.run_until_cancelled(self.follow().instrument(telemetry::quiet())).await;
            if let Some(Err(status)) = result {
                tracing::debug!(code = ?status.code(), "tenant stream ended");
            }
            stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(250))).await;
        }
    }

    async fn follow(&self) -> Result<(), GrpcStatus> {
        let mut stream = self.source.clone().watch_tenants(WatchTenantsRequest {}).await?.into_inner();
        let mut epoch = 0;
        loop {
            let silence = Duration::from_millis(STREAM_DEAD_MS.unsigned_abs());
            let message = tokio::time::timeout(silence, stream.message()).await;
            let Some(change) = message.map_err(|_| GrpcStatus::unavailable("silent"))?? else { return Ok(()) };
            if epoch == 0 {
                // Stands from here on: only what is fetched after this moment is kept true by the stream.
                epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
            }
            self.alive_ms.store(self.clock.now().timestamp_millis(), Ordering::Release);
            match (change.entry, change.id.parse::<TenantId>()) {
                (Some(entry), _) => drop(self.learn(entry, epoch)),
                (None, Ok(id)) => self.by_id.invalidate(&id),
                (None, Err(_)) => {}
            }
        }
    }
}
