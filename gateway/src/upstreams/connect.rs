//! One HTTP/2 connection to one address of an upstream: TCP, TLS when asked for, handshake.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http_body::{Frame, SizeHint};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::{Status, body::Body};

use super::{
    Ground,
    dial::{Dial, Endpoint},
};

/// TCP, TLS and HTTP/2 together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that a service may send ahead, on a stream and on a connection.
const WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * WINDOW;
/// Bytes of all headers of an answer, and of its trailers.
const MAX_HEADERS: u32 = 64 * 1024;

pub(super) type Sender = http2::SendRequest<Outgoing>;

/// A request body: whole, or as it is made.
pub(super) enum Outgoing {
    Whole(Option<Bytes>),
    Stream(Body),
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

/// Makes connections to one endpoint.
pub(super) struct Connector {
    pub(super) endpoint: Endpoint,
    pub(super) scheme: Scheme,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    ground: Ground,
}

impl Connector {
    pub(super) fn new(ground: &Ground, dial: &Dial, endpoint: &Endpoint, tls: &mut TlsOnce) -> Result<Self, String> {
        let is_tls = endpoint.is_https || dial.tls.always;
        let tls = if is_tls {
            let name = dial.tls.server_name.as_ref().unwrap_or(&endpoint.host).clone();
            let name = ServerName::try_from(name).map_err(|_| format!("{endpoint}: no name for a certificate"))?;
            Some((TlsConnector::from(tls.config(dial)?), name))
        } else {
            None
        };
        let scheme = if is_tls { Scheme::HTTPS } else { Scheme::HTTP };
        Ok(Self { endpoint: endpoint.clone(), scheme, tls, ground: ground.clone() })
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.endpoint.authority
    }

    /// Connects within a second. The connection ends by itself once nobody holds its sender.
    pub(super) async fn connect(&self, address: SocketAddr) -> io::Result<Sender> {
        let made = timeout(CONNECT_TIMEOUT, async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let Some((tls, name)) = &self.tls else { return self.handshake(stream).await };
            let stream = tls.connect(name.clone(), stream).await?;
            if stream.get_ref().1.alpn_protocol().is_some_and(|protocol| protocol != b"h2") {
                return Err(io::Error::other("the service does not speak HTTP/2"));
            }
            self.handshake(stream).await
        });
        made.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
    }

    async fn handshake<S>(&self, stream: S) -> io::Result<Sender>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let stop = self.ground.stop.clone();
        self.ground.tasks.spawn(async move {
            if let Some(Err(error)) = stop.run_until_cancelled(connection).await {
                tracing::debug!(%error, "connection to an upstream ended");
            }
        });
        Ok(sender)
    }
}

/// The TLS settings of an upstream, made when the first endpoint needs them.
#[derive(Default)]
pub(super) struct TlsOnce(Option<Arc<ClientConfig>>);

impl TlsOnce {
    fn config(&mut self, dial: &Dial) -> Result<Arc<ClientConfig>, String> {
        if self.0.is_none() {
            self.0 = Some(dial.tls.config()?);
        }
        Ok(self.0.clone().expect("made above"))
    }
}
