//! The accept loop of every port: bounded connections, GOAWAY when one is old, and a drain that lets calls end.

mod connection;

mod calls;

mod rewound;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use self::connection::Builders;
use crate::config::Config;

/// A stranger who has not shaken hands, or not sent the headers of his first request, by now is let go (slow-header attack).
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// As hyper's own default, which a browser never reaches.
const PENDING_RESETS: usize = 20;

/// The numbers of one port.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_connections: usize,
    /// When a connection is asked to go; each gets up to a tenth more or less, so that they don't all come at once.
    pub connection_age: Duration,
    /// How long calls in flight may take to end.
    pub drain: Duration,
    /// Streams of one connection that may be reset before they were taken up; one more and the connection is sent away
    /// (the rapid reset attack). Few for strangers; many for the mesh, whose parts each call on behalf of everyone.
    pub pending_resets: usize,
    /// How long a connection may be without a request at first.
    pub first_request: Duration,
}

impl From<&Config> for Limits {
    fn from(config: &Config) -> Self {
        Self {
            max_connections: config.max_connections,
            connection_age: Duration::from_secs(config.connection_age_s),
            drain: Duration::from_secs(config.drain_s),
            pending_resets: PENDING_RESETS,
            first_request: Duration::MAX,
        }
    }
}

/// Opens a port.
///
/// # Errors
/// The system's, with the address put in front.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
    TcpListener::bind(address).await.map_err(named)
}

/// Serves HTTP/1.1 and HTTP/2 (prior knowledge) until stopped, then drains. Each request carries its peer's
/// `SocketAddr` as an extension.
pub async fn serve<S, B>(listener: TcpListener, service: S, limits: Limits, stop: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + Unpin + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = Arc::new(listener);
    let accept = move || {
        let listener = listener.clone();
        async move { listener.accept().await }
    };
    serve_over(accept, |stream| std::future::ready(Ok(stream)), service, limits, stop).await;
}

/// As [`serve`], for connections that `accept` brings, over what `handshake` makes of each in the time that headers have.
pub async fn serve_over<A, I, H, T, F, S, B>(
    accept: A,
    handshake: H,
    service: S,
    limits: Limits,
    stop: CancellationToken,
) where
    A: Fn() -> I,
    I: Future<Output = io::Result<(TcpStream, SocketAddr)>>,
    H: Fn(TcpStream) -> F,
    F: Future<Output = io::Result<T>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + Unpin + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let (connections, leave) = (TaskTracker::new(), CancellationToken::new());
    let builders = Arc::new(Builders::new(limits.pending_resets));
    while let Some(slot) = stop.run_until_cancelled(slots.clone().acquire_owned()).await {
        let Some(accepted) = stop.run_until_cancelled(accept()).await else { break };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: room comes when a connection ends.
                tracing::warn!(%error, "connection was not accepted");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (builders, service, leave) = (builders.clone(), service.clone(), leave.clone());
        let greeted = leave.clone().run_until_cancelled_owned(timeout(HEADER_TIMEOUT, handshake(stream)));
        connections.spawn(async move {
            match greeted.await {
                Some(Ok(Ok(stream))) => connection::serve(&builders, stream, peer, service, limits, leave).await,
                Some(Ok(Err(error))) => tracing::debug!(%error, client.address = %peer.ip(), "handshake failed"),
                _ => {}
            }
            drop(slot);
        });
    }
    // The port first: who is sent away must not come back to it.
    drop(accept);
    leave.cancel();
    connections.close();
    if timeout(limits.drain, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "drain time is over; what is left is cut");
    }
}
