//! The pulse: LISTEN and NOTIFY between processes that share a database, so that nobody has to poll fast.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use sqlx::{PgPool, postgres::PgListener};
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use crate::db::store;

/// Channels that are listened to.
const CHANNELS: [&str; 5] = [crate::bus::CHANNEL, "tenon_directory", "tenon_api_keys", "tenon_runs", "tenon_tasks"];
/// Beats of one channel closer than this are one beat: NOTIFY takes a lock that all commits share.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Beats that a slow listener may lag behind; it is then told that it lost some.
const BACKLOG: usize = 1_024;

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beat {
    Notified {
        channel: String,
        payload: String,
    },
    /// The connection was lost and made again: beats may have been missed.
    Lost,
}

/// Sends and hears beats. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Pulse {
    pool: PgPool,
    beats: broadcast::Sender<Beat>,
    due: Arc<(Mutex<BTreeSet<&'static str>>, Notify)>,
}

impl Pulse {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool, beats: broadcast::channel(BACKLOG).0, due: Arc::default() }
    }

    /// Wakes the listeners of a channel in every process, soon; a hint that may be lost, never the only way to know.
    pub fn beat(&self, channel: &'static str) {
        self.due.0.lock().expect("no holder panics").insert(channel);
        self.due.1.notify_one();
    }

    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Beat> {
        self.beats.subscribe()
    }

    /// Sends what is due and hears what others send, until stopped.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(stop.run_until_cancelled(self.send()), stop.run_until_cancelled(self.listen()));
    }

    async fn send(&self) {
        loop {
            self.due.1.notified().await;
            let due = std::mem::take(&mut *self.due.0.lock().expect("no holder panics"));
            for channel in due {
                if let Err(error) = store::notify(&self.pool, channel, "").await {
                    tracing::debug!(%error, "beat was not sent");
                }
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
    }

    async fn listen(&self) {
        loop {
            if let Err(error) = self.hear().await {
                tracing::debug!(%error, "pulse connection lost");
            }
            let _ = self.beats.send(Beat::Lost);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    async fn hear(&self) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen_all(CHANNELS).await?;
        let _ = self.beats.send(Beat::Lost);
        while let Some(heard) = listener.try_recv().await? {
            let (channel, payload) = (heard.channel().to_owned(), heard.payload().to_owned());
            let _ = self.beats.send(Beat::Notified { channel, payload });
        }
        Ok(())
    }
}
