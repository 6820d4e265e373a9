//! The edge: HTTP/JSON in, gRPC out, driven by descriptors; it names no service.
//!
//! In reading order: what it is told (`config`), how a path finds a method (`template`, `routes`), how JSON becomes a
//! message and back (`transcode`), how a refusal looks (`errors`), which services there are and how they are called
//! (`upstreams`), and what every request goes through (`stack`).

pub mod config;

pub mod template;

pub mod routes;

pub mod transcode;

pub mod errors;

mod upstreams;

mod stack;

#[doc(hidden)]
pub mod fuzz;

#[cfg(test)]
mod testing;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

use http::Request;
use hyper::body::Incoming;
use tenon_chassis::{Mesh, accept};
use tenon_proto::policy::Contract;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use stack::Cidr;
pub use upstreams::Upstream;

use crate::{stack::Edge, upstreams::Loaded};

/// Why the edge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Route(#[from] routes::Error),
    #[error("the URL {url} of upstream {name} cannot be used: {why}")]
    Url { name: String, url: String, why: tonic::transport::Error },
    #[error("{method} has a route and no upstream serves it")]
    NoUpstream { method: String },
    #[error("{method} asks for the header {header:?}, which is no header's name or one of the mesh's own")]
    Header { method: String, header: String },
    #[error(transparent)]
    Listen(#[from] io::Error),
}

/// An edge that listens but does not serve yet.
pub struct Gateway {
    edge: Arc<Edge>,
    listener: TcpListener,
    limits: accept::Limits,
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
        let loaded = Loaded::new(contract, upstreams)?;
        let listener = accept::bind((mesh.config.bind, config.edge_port).into()).await?;
        let limits = accept::Limits::from(&mesh.config);
        let edge = Arc::new(Edge::new(config, mesh.clone(), loaded));
        Ok(Self { edge, listener, limits })
    }

    /// Where the edge listens.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until stopped, then lets the requests in flight end.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { edge, listener, limits } = self;
        tracing::info!(address = ?listener.local_addr().ok(), "edge serves");
        edge.drains_with(stop.clone());
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let edge = edge.clone();
            async move { Ok::<_, Infallible>(edge.handle(request).await) }
        });
        accept::serve(listener, service, limits, stop).await;
        tracing::info!("edge drained");
    }
}

/// Binds and serves the edge for the mesh's own contract.
///
/// # Errors
/// As [`Gateway::bind`].
pub async fn serve(config: Config, mesh: &Mesh, upstreams: &[Upstream], stop: CancellationToken) -> Result<(), Error> {
    Gateway::bind(config, mesh, mesh.contract.clone(), upstreams).await?.serve(stop).await;
    Ok(())
}
