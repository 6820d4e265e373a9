//! The directory: answers look-ups, and pushes each change of any tenant to every process of the mesh.

mod rpc;

use tenon_chassis::{Db, Mesh, TenantId, pulse::Beat};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    error::Error,
    tenants::{
        model::Tenant,
        store::{self, CHANGED},
    },
};

/// Changes that a slow watcher may lag behind; it is then cut off and starts anew.
const BACKLOG: usize = 1_024;

/// What watchers are told.
#[derive(Debug, Clone)]
enum News {
    Changed(Box<Entry>),
    /// It changed, but how could not be read.
    Forget(TenantId),
    /// Changes may have been missed: watchers start anew.
    Gap,
}

/// A tenant with the hosts of its own that are verified.
#[derive(Debug, Clone)]
struct Entry {
    tenant: Tenant,
    hosts: Vec<String>,
}

/// Follows the registry's table for all watchers of this process.
#[derive(Clone)]
pub struct Directory {
    db: Db,
    news: broadcast::Sender<News>,
    draining: CancellationToken,
}

impl Directory {
    #[must_use]
    pub fn new(mesh: &Mesh, db: Db) -> Self {
        Self { db, news: broadcast::channel(BACKLOG).0, draining: mesh.draining.clone() }
    }

    /// Turns what the database notifies into news, until stopped.
    pub async fn follow(self, stop: CancellationToken) {
        let mut beats = self.db.pulse().subscribe();
        while let Some(beat) = stop.run_until_cancelled(beats.recv()).await {
            let news = match beat {
                Ok(Beat::Notified { channel, payload }) if channel == CHANGED => self.read(&payload).await,
                Ok(Beat::Notified { .. }) => continue,
                Ok(Beat::Lost) | Err(broadcast::error::RecvError::Lagged(_)) => News::Gap,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            // Nobody watching is no error.
            let _ = self.news.send(news);
        }
    }

    async fn read(&self, payload: &str) -> News {
        let Ok(id) = payload.parse::<Uuid>().map(TenantId::from) else { return News::Gap };
        match self.find(Some(id), None, None).await {
            Ok(Some(entry)) => News::Changed(Box::new(entry)),
            Ok(None) => News::Forget(id),
            Err(error) => {
                tracing::warn!(tenant.id = %id, %error, "a changed tenant could not be read");
                News::Forget(id)
            }
        }
    }

    async fn find(&self, id: Option<TenantId>, slug: Option<&str>, host: Option<&str>) -> Result<Option<Entry>, Error> {
        let mut tx = self.db.system().await?;
        let mut found = None;
        if let Some(tenant) = store::find(&mut tx, id, slug, host).await? {
            let hosts = store::list_hosts(&mut tx, tenant.id).await?;
            found = Some(Entry { tenant, hosts });
        }
        tx.commit().await?;
        Ok(found)
    }
}
