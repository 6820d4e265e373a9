//! The mesh as one process sees it: keys, tenants, peers and the bus, built once and shared by every part.

use std::sync::Arc;

use redis::aio::ConnectionManager;
use tenon_proto::{
    auth::v1::{api_key_service_client::ApiKeyServiceClient, key_service_client::KeyServiceClient},
    policy::Contract,
    tenant::v1::directory_service_client::DirectoryServiceClient,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Channel;

use crate::{
    Clock,
    bus::{Bus, JetStream},
    client::{Peer, channel},
    config::Config,
    directory::Directory,
    guard::Guard,
    secret::Sealer,
    token::{MeshKey, Verifier},
};

/// Everything that the parts of a process share. Clones are one.
#[derive(Clone)]
pub struct Mesh(Arc<Shared>);

/// What a mesh is made of.
pub struct Shared {
    pub config: Config,
    pub clock: Clock,
    pub contract: Arc<Contract>,
    pub key: Arc<MeshKey>,
    pub directory: Arc<Directory>,
    pub verifier: Arc<Verifier>,
    /// What knows API keys: the edge asks it.
    pub api_keys: ApiKeyServiceClient<Peer>,
    pub sealer: Sealer,
    pub bus: Bus,
    /// When it is configured. It may be gone at any time: nothing waits for it, and nothing fails without it.
    pub redis: Option<ConnectionManager>,
    /// Every background task of the process; waited for at the end.
    pub tasks: TaskTracker,
    /// Begins the end: what servers are to be stopped by, and what endless streams end at.
    pub draining: CancellationToken,
    /// Ends background tasks, after the servers have drained.
    pub stop: CancellationToken,
    channels: [(&'static str, Channel); 4],
}

impl std::ops::Deref for Mesh {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Why a process cannot join the mesh.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("TENON_{}_URL is not a URL: {why}", service.to_uppercase())]
    Url { service: &'static str, why: tonic::transport::Error },
    #[error(transparent)]
    Nats(#[from] crate::bus::JetStreamError),
    #[error("Redis at TENON_REDIS_URL cannot be used: {0}")]
    Redis(#[from] redis::RedisError),
}

impl Mesh {
    /// Connects to what is configured, and starts to follow the tenant registry.
    ///
    /// # Errors
    /// When a URL is malformed, or NATS or Redis is configured and does not answer.
    pub async fn join(config: Config, clock: Clock) -> Result<Self, JoinError> {
        let mut channels = Vec::with_capacity(4);
        for service in Config::SERVICES {
            let channel = channel(&config.url(service)).map_err(|why| JoinError::Url { service, why })?;
            channels.push((service, channel));
        }
        let channels: [_; 4] = channels.try_into().map_err(|_| ()).expect("one a service");
        let key = Arc::new(MeshKey::new(&config.mesh_key, clock.clone()));
        let peer = |to: &'static str| {
            let channel = channels.iter().find(|(name, _)| *name == to).expect("one a service").1.clone();
            Peer::new(channel, key.clone(), "mesh", to)
        };
        let directory = Directory::new(clock.clone(), DirectoryServiceClient::new(peer("tenant")));
        let verifier = Arc::new(Verifier::new(key.clone(), clock.clone(), KeyServiceClient::new(peer("auth"))));
        let api_keys = ApiKeyServiceClient::new(peer("auth"));
        let bus = match &config.nats_url {
            Some(url) => Bus::JetStream(Box::new(JetStream::connect(url).await?)),
            None => Bus::Outbox,
        };
        let redis = match &config.redis_url {
            Some(url) => Some(ConnectionManager::new(redis::Client::open(url.as_str())?).await?),
            None => None,
        };
        let sealer = Sealer::new(&config.master_key);
        let (tasks, draining, stop) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        tasks.spawn(directory.clone().watch(stop.clone()));
        let contract = Arc::new(Contract::embedded());
        Ok(Self(Arc::new(Shared {
            config,
            clock,
            contract,
            key,
            directory,
            verifier,
            api_keys,
            sealer,
            bus,
            redis,
            tasks,
            draining,
            stop,
            channels,
        })))
    }

    /// A connection from one part to another.
    ///
    /// # Panics
    /// On a service that is not in `Config::SERVICES`.
    #[must_use]
    pub fn peer(&self, from: &'static str, to: &'static str) -> Peer {
        let channel = self.channels.iter().find(|(name, _)| *name == to).expect("a service of the mesh").1.clone();
        Peer::new(channel, self.key.clone(), from, to)
    }

    /// The guard of one part.
    #[must_use]
    pub fn guard(&self, part: &'static str) -> Arc<Guard> {
        let (verifier, directory) = (self.verifier.clone(), self.directory.clone());
        Arc::new(Guard::new(part, self.clock.clone(), verifier, directory, self.config.operator_key.clone()))
    }

    /// Ends the background tasks and waits for them.
    pub async fn leave(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
