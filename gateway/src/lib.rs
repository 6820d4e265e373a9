//! The edge: HTTP/JSON in, gRPC out, driven by descriptors; it names no service.
//!
//! In reading order: what it is told (`config`), how a path finds a method (`template`, `routes`), how JSON becomes a
//! message and back (`transcode`), how a refusal looks (`errors`), how a service is called (`upstream`), and what every
//! request goes through (`stack`).

pub mod config;

pub mod template;

pub mod routes;

pub mod transcode;

pub mod errors;

pub mod upstream;

mod stack;

#[cfg(test)]
mod testing;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

use http::{Request, Uri};
use hyper::body::Incoming;
use tenon_chassis::{Mesh, accept};
use tenon_proto::policy::Contract;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use stack::Cidr;
pub use upstream::Upstream;

use crate::{
    routes::Routes,
    stack::{Edge, Served},
    upstream::Target,
};

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
        upstreams: Vec<Upstream>,
    ) -> Result<Self, Error> {
        let routes = Routes::load(&contract)?;
        let targets = upstreams.into_iter().map(|upstream| {
            let (name, url) = (upstream.audience.clone(), upstream.url.clone());
            Target::new(upstream).map(Arc::new).map_err(|why| Error::Url { name, url, why })
        });
        let targets: Vec<_> = targets.collect::<Result<_, _>>()?;
        let served = routes.iter().map(|route| {
            let method = route.method.descriptor.full_name();
            let fitting = targets.iter().filter(|target| method.starts_with(&target.prefix));
            let target = fitting.max_by_key(|target| target.prefix.len());
            let target = target.ok_or_else(|| Error::NoUpstream { method: method.to_owned() })?.clone();
            let path = Uri::try_from(route.method.path.as_str()).expect("names of services and methods are plain");
            let handed_on = stack::handed_on(&route.method);
            let handed_on = handed_on.map_err(|header| Error::Header { method: method.to_owned(), header })?;
            Ok(Served { target, path, handed_on })
        });
        let served = served.collect::<Result<Vec<_>, Error>>()?;
        let listener = accept::bind((mesh.config.bind, config.edge_port).into()).await?;
        let limits = accept::Limits::from(&mesh.config);
        let edge = Arc::new(Edge::new(config, mesh.clone(), contract, routes, served));
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
pub async fn serve(
    config: Config,
    mesh: &Mesh,
    upstreams: Vec<Upstream>,
    stop: CancellationToken,
) -> Result<(), Error> {
    Gateway::bind(config, mesh, mesh.contract.clone(), upstreams).await?.serve(stop).await;
    Ok(())
}
