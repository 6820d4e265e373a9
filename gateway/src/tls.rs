//! The certificates of the edge's own port, read again when their files change; connections that stand are left alone.

mod folder;

mod pair;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tenon_chassis::Clock;
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_rustls::TlsAcceptor;

use self::{
    folder::{Folder, News},
    pair::{Files, Pair},
};
use crate::{Config, upstreams::Stamp};

/// How often the files of the edge's own certificate are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Rounds from one look at the folder of hosts to the next: it may hold thousands of files.
const FOLDER_ROUNDS: u64 = 2;
/// Rounds after which what was refused is looked at once more: a certificate may have been put there before its time.
const AGAIN_ROUNDS: u64 = 60;

/// The edge's own certificate, which is shown to whoever asks for no other, and those of hosts.
pub(crate) struct Certificates {
    files: Files,
    seen: [Stamp; 2],
    own: Pair,
    /// Why what lies in the place of the own pair is not shown.
    refused: Option<String>,
    folder: Option<Folder>,
    /// Why the folder cannot be read.
    unread: Option<String>,
    clock: Clock,
    current: Arc<Current>,
}

/// What the next handshake is answered with.
#[derive(Debug)]
struct Current(ArcSwap<Shown>);

#[derive(Debug)]
struct Shown {
    own: Arc<CertifiedKey>,
    /// By the name that a client asks for.
    names: HashMap<String, Arc<CertifiedKey>>,
}

impl Shown {
    fn to(&self, asked: Option<&str>) -> Arc<CertifiedKey> {
        let found = asked.filter(|_| !self.names.is_empty()).and_then(|name| {
            let wildcard = || self.names.get(&format!("*.{}", name.split_once('.')?.1));
            self.names.get(name).or_else(wildcard)
        });
        found.unwrap_or(&self.own).clone()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has made the name lower-case.
        Some(self.0.load().to(hello.server_name()))
    }
}

impl Certificates {
    /// What the settings name; nothing when the port is a plain one. A host's pair that is refused costs that host its
    /// certificate and nobody else anything.
    ///
    /// # Errors
    /// What is wrong with the edge's own pair, or that the folder of hosts cannot be read.
    pub(crate) fn read(config: &Config, clock: Clock) -> Result<Option<Self>, String> {
        let Some((cert, key)) = config.edge_tls_cert.clone().zip(config.edge_tls_key.clone()) else { return Ok(None) };
        let files = Files { cert, key };
        let own = files.read(clock.now())?;
        let mut folder = config.edge_tls_certs.clone().map(Folder::new);
        if let Some(folder) = &mut folder {
            tell(&folder.look(clock.now(), true)?);
        }
        let shown = Shown { own: own.key.clone(), names: HashMap::new() };
        let (seen, current) = (files.stamps(), Arc::new(Current(ArcSwap::from_pointee(shown))));
        let read = Self { files, seen, own, refused: None, folder, unread: None, clock, current };
        read.show();
        Ok(Some(read))
    }

    /// What makes a TCP connection one of TLS 1.2 or 1.3, with HTTP/2 or HTTP/1.1 as the client likes best.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites of both versions");
        let mut config = config.with_no_client_auth().with_cert_resolver(self.current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// Takes up each change of the files. A pair that is broken is refused, also one of which only half is written yet,
    /// and the one of before is shown still.
    pub(crate) async fn watch(mut self) {
        let mut rounds = interval(LOOK_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 0_u64.. {
            rounds.tick().await;
            let again = round % AGAIN_ROUNDS == AGAIN_ROUNDS - 1;
            let mut is_new = self.look_at_own(again);
            if again || round % FOLDER_ROUNDS == FOLDER_ROUNDS - 1 {
                is_new |= self.look_at_folder(again).await;
            }
            if is_new {
                self.show();
            }
        }
    }

    /// Whether there is a new pair of the edge's own.
    fn look_at_own(&mut self, again: bool) -> bool {
        let now = self.files.stamps();
        if now == self.seen && !(again && self.refused.is_some()) {
            return false;
        }
        self.seen = now;
        match self.files.read(self.clock.now()) {
            Ok(pair) => {
                (self.own, self.refused) = (pair, None);
                tell(&News { read: vec![OWN.to_owned()], ..News::default() });
                true
            }
            Err(why) => {
                if self.refused.as_ref() != Some(&why) {
                    tell(&News { refused: vec![(OWN.to_owned(), why.clone())], ..News::default() });
                }
                self.refused = Some(why);
                false
            }
        }
    }

    /// Whether anything has changed in the folder of hosts.
    async fn look_at_folder(&mut self, again: bool) -> bool {
        let Some(mut folder) = self.folder.take() else { return false };
        let now = self.clock.now();
        // Nothing comes back when the runtime ends.
        let Ok((news, folder)) = spawn_blocking(move || (folder.look(now, again), folder)).await else { return false };
        self.folder = Some(folder);
        match news {
            Ok(news) => {
                self.unread = None;
                tell(&news);
                !news.read.is_empty() || !news.gone.is_empty()
            }
            Err(why) => {
                if self.unread.as_ref() != Some(&why) {
                    tracing::error!(
                        error = why,
                        "the folder of certificates cannot be read; what it held is shown still"
                    );
                }
                self.unread = Some(why);
                false
            }
        }
    }

    fn show(&self) {
        let names = self.folder.as_ref().map(Folder::by_name).unwrap_or_default();
        let first_end = self
            .folder
            .as_ref()
            .and_then(Folder::first_end)
            .map_or(self.own.ends_at, |first| first.min(self.own.ends_at));
        metrics::gauge!("tenon_edge_tls_hosts").set(u32::try_from(names.len()).unwrap_or(u32::MAX));
        #[expect(clippy::cast_precision_loss, reason = "seconds of a date are small")]
        metrics::gauge!("tenon_edge_tls_first_expiry_seconds").set(first_end.timestamp() as f64);
        self.current.0.store(Arc::new(Shown { own: self.own.key.clone(), names }));
    }
}

/// How the log calls the certificate of nobody's host.
const OWN: &str = "the edge itself";

fn tell(news: &News) {
    let count = |result: &'static str, how_many: usize| {
        metrics::counter!("tenon_edge_tls_reloads_total", "result" => result).increment(how_many as u64);
    };
    for host in &news.read {
        tracing::info!(host, "a certificate is read");
    }
    for host in &news.gone {
        tracing::warn!(host, "a certificate is gone; the edge's own is shown");
    }
    for (host, why) in &news.refused {
        tracing::error!(host, error = why, "a certificate is refused; the one of before, or the edge's own, is shown");
    }
    count("ok", news.read.len());
    count("refused", news.refused.len());
}

/// A certificate as `tenon doctor` sees it.
#[derive(Debug)]
pub struct Certificate {
    /// The host that it is for; none for the edge's own.
    pub host: Option<String>,
    pub file: PathBuf,
    /// Until when it holds, or why it is refused.
    pub held: Result<DateTime<Utc>, String>,
}

/// The certificates that an edge would show with these settings.
///
/// # Errors
/// When the folder cannot be read.
pub fn certificates(
    own: Option<(&Path, &Path)>,
    folder: Option<&Path>,
    now: DateTime<Utc>,
) -> Result<Vec<Certificate>, String> {
    let own = own.map(|(cert, key)| {
        let held = Files { cert: cert.to_owned(), key: key.to_owned() }.read(now).map(|pair| pair.ends_at);
        Certificate { host: None, file: cert.to_owned(), held }
    });
    let mut all: Vec<_> = own.into_iter().collect();
    if let Some(folder) = folder {
        let mut folder = Folder::new(folder.to_owned());
        let news = folder.look(now, true)?;
        all.extend(folder.hosts().map(|(host, file, held)| {
            let held = held.map_err(str::to_owned);
            Certificate { host: Some(host.to_owned()), file: file.to_owned(), held }
        }));
        let is_host = |name: &str| all.iter().any(|known| known.host.as_deref() == Some(name));
        let odd: Vec<_> = news.refused.into_iter().filter(|(name, _)| !is_host(name)).collect();
        all.extend(odd.into_iter().map(|(name, why)| Certificate {
            file: name.clone().into(),
            host: Some(name),
            held: Err(why),
        }));
    }
    Ok(all)
}
