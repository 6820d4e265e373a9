//! The edge: HTTP/JSON in, gRPC out, driven by descriptors; it names no service that it serves.
//!
//! In reading order: what it is told (`config`), how a path finds a method (`template`, `routes`), how JSON becomes a
//! message and back (`transcode`), how a refusal looks (`errors`), which services there are and how they are called
//! (`upstreams`), what is kept and counted for them (`answers`, `usage`), how often one may call (`limit`), how programs prove themselves
//! (`api_keys`), what every request goes through (`stack`), the threads that it runs in (`workers`), the certificate that it
//! comes by (`tls`), how a certificate is asked for (`acme`) and the port of those who come without one (`plain`).

pub mod config;

pub mod template;

pub mod routes;

pub mod transcode;

pub mod errors;

pub mod openapi;

mod upstreams;

mod answers;

mod limit;

mod api_keys;

pub mod usage;

mod stack;

mod workers;

pub mod tls;

mod acme;

mod plain;

#[doc(hidden)]
pub mod fuzz;

#[cfg(test)]
mod testing;

use std::{
    convert::Infallible, future::pending, io, net::SocketAddr, path::PathBuf, pin::Pin, sync::Arc, time::Duration,
};

use arc_swap::ArcSwap;
use http::Request;
use hyper::body::Incoming;
use tenon_chassis::{Mesh, accept};
use tenon_proto::policy::Contract;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, mpsc::Receiver},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{either::Either, sync::CancellationToken};

pub use config::Config;
pub use stack::Cidr;
pub use upstreams::{
    Dial, Upstream,
    compare::{Change, compare},
    inspect::{Inspection, Row, ask, before, inspect},
};

use crate::{
    stack::Edge,
    tls::Certificates,
    upstreams::{Ground, Loader, Own, Stamps, Target, watch},
    usage::{Meter, Used},
};

/// More than any machine has cores for.
const MAX_THREADS: usize = 1_024;

/// Why the edge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Route(#[from] routes::Error),
    #[error("upstream {name}: {why}")]
    Upstream { name: String, why: String },
    #[error("{0}")]
    Upstreams(String),
    #[error("{service} is claimed by upstream {second} and by {first}: narrow one of them with services = [...]")]
    Claimed { service: String, first: String, second: String },
    #[error("{method} has a route and no upstream serves it")]
    NoUpstream { method: String },
    #[error("{method} asks for the header {header:?}, which is no header's name or one of the mesh's own")]
    Header { method: String, header: String },
    #[error("{method} streams and has a timeout_ms: a stream ends when its client says so; take timeout_ms away")]
    Timeout { method: String },
    #[error("the certificate of the edge's port: {0}")]
    Tls(String),
    #[error(transparent)]
    Listen(#[from] io::Error),
}

/// An edge that listens but does not serve yet.
pub struct Gateway {
    edge: Arc<Edge>,
    listener: TcpListener,
    /// The port of plain HTTP, and the folder of ACME challenges.
    plain: Option<(TcpListener, Option<PathBuf>)>,
    threads: usize,
    limits: accept::Limits,
    drain_wait: Duration,
    used: Option<Receiver<Used>>,
    tls: Option<TlsAcceptor>,
}

impl Gateway {
    /// Reads the routes of a contract and takes the edge's port.
    ///
    /// # Errors
    /// When a route cannot be served, an upstream is missing or malformed, or the port cannot be opened.
    pub async fn bind(
        config: Config,
        mesh: &Mesh,
        contract: Arc<Contract>,
        upstreams: &[Upstream],
    ) -> Result<Self, Error> {
        let threads = config.edge_threads.unwrap_or_else(workers::cores).clamp(1, MAX_THREADS);
        let ground = Ground { lanes: threads + 1, ..Ground::from(mesh) };
        let targets = upstreams.iter().map(|Upstream { prefix, dial }| {
            let refuse = |why| Error::Upstream { name: dial.name.clone(), why };
            Ok((prefix.clone(), Arc::new(Target::new(&ground, dial.clone()).map_err(refuse)?)))
        });
        let own = Own { contract, targets: targets.collect::<Result<_, Error>>()? };
        let loader = Loader { ground, own, path: config.upstreams.clone() };
        let mut files = Stamps::new();
        let loaded = Arc::new(ArcSwap::from_pointee(loader.load(None, &mut files).await?));
        let tls = Certificates::read(&config, mesh.clock.clone()).map_err(Error::Tls)?;
        let listener = accept::bind((mesh.config.bind, config.edge_port).into()).await?;
        let plain = match config.edge_http_port {
            Some(port) => {
                Some((accept::bind((mesh.config.bind, port).into()).await?, config.edge_acme_challenges.clone()))
            }
            None => None,
        };
        let limits = accept::Limits { first_request: accept::HEADER_TIMEOUT, ..accept::Limits::from(&mesh.config) };
        let drain_wait = Duration::from_secs(config.edge_drain_wait_s);
        let (meter, used) = Meter::new(mesh.clock.clone(), Duration::from_millis(config.edge_usage_hold_ms));
        let edge = Arc::new(Edge::new(config, mesh.clone(), loaded.clone(), meter));
        if loader.path.is_some() {
            let (stop, watched) = (mesh.stop.clone(), watch(loader, loaded, files));
            mesh.tasks.spawn(async move { stop.run_until_cancelled(watched).await });
        }
        let tls = tls.map(|certificate| {
            let acceptor = certificate.acceptor();
            let stop = mesh.stop.clone();
            mesh.tasks.spawn(async move { stop.run_until_cancelled(certificate.watch()).await });
            acceptor
        });
        Ok(Self { edge, listener, plain, threads, limits, drain_wait, used: Some(used), tls })
    }

    /// Where the edge listens.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where it listens for those who come by plain HTTP, if it does.
    #[must_use]
    pub fn plain_address(&self) -> Option<SocketAddr> {
        self.plain.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// What is counted for services that don't count themselves; nothing the second time. It ends when the edge has drained.
    pub fn usage(&mut self) -> Option<Receiver<Used>> {
        self.used.take()
    }

    /// Serves until stopped, then lets the requests in flight end: first it says so, then it closes the port.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { edge, listener, plain, threads, limits, drain_wait, used: _untaken, tls } = self;
        tracing::info!(address = ?listener.local_addr().ok(), threads, "edge serves");
        edge.drains_with(stop.clone());
        let (closing, leaving) = (CancellationToken::new(), CancellationToken::new());
        // The threads end too when nobody waits for this any more.
        let _leaving = leaving.clone().drop_guard();
        let port = Port { listener: Arc::new(Mutex::new(Some(listener))), closing };
        let limits = accept::Limits { max_connections: limits.max_connections.div_ceil(threads), ..limits };
        let working = workers::run(threads, || {
            let (edge, port, tls, leaving) = (edge.clone(), port.clone(), tls.clone(), leaving.clone());
            move || -> Pin<Box<dyn Future<Output = ()>>> { Box::pin(work(edge, port, tls, limits, leaving)) }
        });
        let noticed = async {
            stop.cancelled().await;
            sleep(drain_wait).await;
            // The port first: who is sent away must not come back to it.
            port.closing.cancel();
            drop(port.listener.lock().await.take());
            leaving.cancel();
        };
        let aside = async {
            if let Some((listener, challenges)) = plain {
                plain::serve(listener, challenges, limits, stop.clone()).await;
            }
        };
        tokio::join!(working, noticed, aside);
        tracing::info!("edge drained");
    }
}

/// The port that all threads accept from, in turn.
#[derive(Clone)]
struct Port {
    listener: Arc<Mutex<Option<TcpListener>>>,
    closing: CancellationToken,
}

impl Port {
    async fn accept(self) -> io::Result<(TcpStream, SocketAddr)> {
        let accepted = async {
            match &*self.listener.lock().await {
                Some(listener) => listener.accept().await,
                None => pending().await,
            }
        };
        match self.closing.run_until_cancelled(accepted).await {
            Some(accepted) => accepted,
            None => pending().await,
        }
    }
}

/// What each thread does.
async fn work(
    edge: Arc<Edge>,
    port: Port,
    tls: Option<TlsAcceptor>,
    limits: accept::Limits,
    leaving: CancellationToken,
) {
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let edge = edge.clone();
        async move { Ok::<_, Infallible>(edge.handle(request).await) }
    });
    let handshake = move |stream| {
        let tls = tls.clone();
        async move {
            Ok(match tls {
                None => Either::Left(stream),
                // What a plain connection does not need it has no room for.
                Some(tls) => Either::Right(Box::new(Box::pin(tls.accept(stream)).await?)),
            })
        }
    };
    accept::serve_over(move || port.clone().accept(), handshake, service, limits, leaving).await;
}

/// Binds and serves the edge for the mesh's own contract.
///
/// # Errors
/// As [`Gateway::bind`].
pub async fn serve(config: Config, mesh: &Mesh, upstreams: &[Upstream], stop: CancellationToken) -> Result<(), Error> {
    Gateway::bind(config, mesh, mesh.contract.clone(), upstreams).await?.serve(stop).await;
    Ok(())
}
