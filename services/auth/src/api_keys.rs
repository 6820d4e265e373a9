//! API keys: made once, shown once, exchanged for short tokens, revoked everywhere within a second.

pub mod model;
mod rpc;
mod store;

use std::{sync::Arc, time::Duration};

use tenon_chassis::{ApiKeyId, Db, Mesh, directory::Directory, pulse::Beat};
use tenon_proto::policy::Contract;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Config, keys::Keys};
use model::Terms;

/// Revocations that a slow watcher may lag behind; it is then cut off and starts anew.
const BACKLOG: usize = 1_024;
/// Half of the time after which a watcher takes silence for death, and then some.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// What watchers are told.
#[derive(Debug, Clone, Copy)]
enum News {
    Revoked(ApiKeyId),
    /// Revocations may have been missed: watchers start anew.
    Gap,
}

/// Keeps the API keys of a tenant.
#[derive(Clone)]
pub struct ApiKeys {
    db: Db,
    directory: Arc<Directory>,
    keys: Keys,
    contract: Arc<Contract>,
    terms: Terms,
    news: broadcast::Sender<News>,
    draining: CancellationToken,
}

impl ApiKeys {
    #[must_use]
    pub fn new(mesh: &Mesh, db: Db, keys: Keys, config: &Config) -> Self {
        let terms = Terms {
            issuer: config.issuer.replace("{domain}", &mesh.config.domain),
            days: config.api_key_days.min(config.api_key_max_days),
            max_days: config.api_key_max_days,
            most: config.api_keys.into(),
        };
        let (directory, contract, draining) = (mesh.directory.clone(), mesh.contract.clone(), mesh.draining.clone());
        Self { db, directory, keys, contract, terms, news: broadcast::channel(BACKLOG).0, draining }
    }

    /// Turns what the database notifies into news, until stopped.
    pub async fn follow(self, stop: CancellationToken) {
        let mut beats = self.db.pulse().subscribe();
        while let Some(beat) = stop.run_until_cancelled(beats.recv()).await {
            let news = match beat {
                Ok(Beat::Notified { channel, payload }) if channel == store::REVOKED => {
                    payload.parse::<Uuid>().map_or(News::Gap, |id| News::Revoked(id.into()))
                }
                Ok(Beat::Notified { .. }) => continue,
                Ok(Beat::Lost) | Err(broadcast::error::RecvError::Lagged(_)) => News::Gap,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            // Nobody watching is no error.
            let _ = self.news.send(news);
        }
    }
}
