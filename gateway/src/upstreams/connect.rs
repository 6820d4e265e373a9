//! One HTTP/2 connection to one address of an upstream: TCP, TLS when asked for, handshake.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::uri::{Authority, Scheme};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    Ground,
    dial::{Dial, Endpoint},
    link::{self, Sender},
};

/// TCP, TLS and HTTP/2 together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

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

    pub(super) fn lanes(&self) -> usize {
        self.ground.lanes.max(1)
    }

    /// Connects within a second. The connection ends by itself once nobody holds its sender.
    pub(super) async fn connect(&self, address: SocketAddr) -> io::Result<Sender> {
        let made = timeout(CONNECT_TIMEOUT, async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let Some((tls, name)) = &self.tls else {
                return link::handshake(stream, &self.ground).await.map_err(io::Error::other);
            };
            let stream = tls.connect(name.clone(), stream).await?;
            if stream.get_ref().1.alpn_protocol().is_some_and(|protocol| protocol != b"h2") {
                return Err(io::Error::other("the service does not speak HTTP/2"));
            }
            link::handshake(stream, &self.ground).await.map_err(io::Error::other)
        });
        made.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
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
