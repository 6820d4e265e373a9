//! The certificate of the edge's own port, read again when its files change; connections that stand are left alone.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;

use crate::upstreams::stamp;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A certificate and its key, by the files that hold them.
pub(crate) struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    current: Arc<Current>,
}

/// What the next handshake is answered with.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certificate {
    /// # Errors
    /// What is wrong with a file, or that the two do not belong together.
    pub(crate) fn read(cert: PathBuf, key: PathBuf) -> Result<Self, String> {
        let current = Arc::new(Current(ArcSwap::from_pointee(pair(&cert, &key)?)));
        Ok(Self { cert, key, current })
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

    /// Takes up each change of the files. A pair that is broken is refused, also one of which only half is written yet.
    pub(crate) async fn watch(self) {
        let mut rounds = interval(LOOK_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.stamps();
        loop {
            rounds.tick().await;
            let now = self.stamps();
            if now == seen {
                continue;
            }
            seen = now;
            let result = match pair(&self.cert, &self.key) {
                Ok(pair) => {
                    self.current.0.store(Arc::new(pair));
                    tracing::info!("the edge's certificate is read anew");
                    "ok"
                }
                Err(why) => {
                    tracing::error!(
                        error = why,
                        "the edge's certificate cannot be read anew; the one of before is shown still"
                    );
                    "refused"
                }
            };
            metrics::counter!("tenon_edge_tls_reloads_total", "result" => result).increment(1);
        }
    }

    fn stamps(&self) -> [crate::upstreams::Stamp; 2] {
        [stamp(&self.cert), stamp(&self.key)]
    }
}

fn pair(cert: &PathBuf, key: &PathBuf) -> Result<CertifiedKey, String> {
    let unread = |path: &PathBuf, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let chain = CertificateDer::pem_file_iter(cert).map_err(|error| unread(cert, &error))?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(|error| unread(cert, &error))?;
    if chain.is_empty() {
        return Err(unread(cert, &"holds no certificate in PEM"));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unread(key, &error))?;
    CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider()).map_err(|error| unread(key, &error))
}
