//! The edge's own port behind TLS: both versions of HTTP, and a certificate that changes under load.
#![expect(clippy::unwrap_used, reason = "what is written here is well-formed")]

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::{
    house::{House, counted},
    patience::until,
};

pub(crate) fn file(name: &str) -> String {
    format!("{}/tests/certs/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn leaf(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(name)).unwrap()
}

async fn connect(edge: SocketAddr, protocols: &[&str]) -> io::Result<TlsStream<TcpStream>> {
    connect_to(edge, "edge.test", protocols).await
}

/// A handshake that asks for a name and offers these protocols.
pub(crate) async fn connect_to(edge: SocketAddr, name: &str, protocols: &[&str]) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(leaf("edge-ca.pem")).unwrap();
    roots.add(leaf("hosts-ca.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(edge).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

pub(crate) fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// A connection that stands, in the version of HTTP that was agreed on.
enum Line {
    One(http1::SendRequest<Empty<Bytes>>),
    Two(http2::SendRequest<Empty<Bytes>>),
}

impl Line {
    async fn open(stream: TlsStream<TcpStream>) -> Self {
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            return Self::Two(sender);
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::One(sender)
    }

    async fn get(&mut self) -> hyper::Result<Response<Incoming>> {
        let request = Request::get("https://edge.test/v1/things/a").header("host", "edge.test");
        let request = request.body(Empty::new()).unwrap();
        let mut response = match self {
            Self::One(sender) => sender.send_request(request).await,
            Self::Two(sender) => sender.send_request(request).await,
        }?;
        while let Some(frame) = response.body_mut().frame().await {
            frame?;
        }
        Ok(response)
    }
}

/// A folder with the pair that an edge is told to use.
struct Pair(tempfile::TempDir);

impl Pair {
    fn new(number: u8) -> Self {
        let pair = Self(tempfile::tempdir().unwrap());
        pair.put("cert.pem", &std::fs::read(file(&format!("edge-{number}.pem"))).unwrap());
        pair.put("key.pem", &std::fs::read(file(&format!("edge-{number}.key"))).unwrap());
        pair
    }

    fn put(&self, name: &str, content: &[u8]) {
        std::fs::write(self.0.path().join("new"), content).unwrap();
        std::fs::rename(self.0.path().join("new"), self.0.path().join(name)).unwrap();
    }

    fn flags(&self) -> [String; 4] {
        let path = |name: &str| self.0.path().join(name).to_str().unwrap().to_owned();
        ["--edge-tls-cert".to_owned(), path("cert.pem"), "--edge-tls-key".to_owned(), path("key.pem")]
    }

    async fn house(&self) -> House {
        // What is asked here is who gets through, not how often.
        let unlimited = ["--rate-ip-read", "50000000"];
        House::open(&[&self.flags().each_ref().map(String::as_str)[..], &unlimited].concat()).await
    }
}

async fn until_shown(edge: SocketAddr, certificate: &CertificateDer<'_>) {
    let is_shown = async || shown(&connect(edge, &["h2"]).await.unwrap()) == *certificate;
    until("the new certificate is shown", is_shown).await;
}

/// Waits until the edge has refused one more pair than before this was asked for.
async fn until_refused(before: u64) {
    until("the pair is refused", async || refused() > before).await;
}

fn refused() -> u64 {
    counted("tenon_edge_tls_reloads_total", "refused")
}

#[tokio::test]
async fn both_versions_of_http_are_served_over_tls() {
    let pair = Pair::new(1);
    let house = pair.house().await;
    for (offered, agreed) in
        [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&["h2"], Some("h2")), (&[], None)]
    {
        let stream = connect(house.address, offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed.map(str::as_bytes));
        assert_eq!(shown(&stream), leaf("edge-1.pem"));
        let response = Line::open(stream).await.get().await.unwrap();
        assert_eq!(response.status(), 200, "{offered:?}");
        assert_eq!(response.headers()["strict-transport-security"], "max-age=31536000; includeSubDomains");
    }
    assert!(connect(house.address, &["h3"]).await.is_err(), "nothing to agree on");
    let plain = TcpStream::connect(house.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(plain)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/v1/things/a").header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
    assert!(sender.send_request(request).await.is_err(), "no plain HTTP on this port");
    // A silent or broken client costs nobody else his turn.
    let _silent = TcpStream::connect(house.address).await.unwrap();
    assert!(connect(house.address, &["h2"]).await.is_ok());
}

#[tokio::test]
async fn an_edge_does_not_start_with_a_pair_that_is_none() {
    for (name, content, expected) in [
        ("key.pem", std::fs::read(file("edge-2.key")).unwrap(), "key.pem: keys may not be consistent"),
        ("key.pem", b"nonsense".to_vec(), "key.pem: "),
        ("cert.pem", b"nonsense".to_vec(), "cert.pem: "),
        ("cert.pem", std::fs::read(file("acme-later.pem")).unwrap(), "key.pem: keys may not be consistent"),
    ] {
        let pair = Pair::new(1);
        pair.put(name, &content);
        let why = House::refused(&pair.flags().each_ref().map(String::as_str)).await;
        assert!(why.contains("the certificate of the edge's port") && why.contains(expected), "{why}");
    }
    for (name, expected) in [
        ("acme-past", "acme-past.pem: the certificate has expired at 2021-01-01 00:00:00 UTC: renew it"),
        ("acme-later", "acme-later.pem: the certificate does not hold before 2100-01-01 00:00:00 UTC"),
    ] {
        let (cert, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
        let why = House::refused(&["--edge-tls-cert", &cert, "--edge-tls-key", &key]).await;
        assert!(why.contains(expected), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_and_no_request_fails_for_it() {
    let pair = Pair::new(1);
    let house = pair.house().await;
    let (stop, served) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = [&["h2"][..], &["http/1.1"]]
        .into_iter()
        .map(|offered| {
            let (stop, served, edge) = (stop.clone(), served.clone(), house.address);
            tokio::spawn(async move {
                // One connection that stands all the time, and new ones beside it.
                let mut old = Line::open(connect(edge, offered).await.unwrap()).await;
                while !stop.is_cancelled() {
                    assert_eq!(old.get().await.unwrap().status(), 200);
                    let mut new = Line::open(connect(edge, offered).await.unwrap()).await;
                    assert_eq!(new.get().await.unwrap().status(), 200);
                    served.fetch_add(2, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let wait_for_more = async |more: usize| {
        let enough = served.load(Ordering::SeqCst) + more;
        until("they are served", async || served.load(Ordering::SeqCst) >= enough).await;
    };
    wait_for_more(20).await;
    // Half of a new pair is no pair: the old one is shown still.
    let before = refused();
    pair.put("cert.pem", &std::fs::read(file("edge-2.pem")).unwrap());
    until_refused(before).await;
    assert_eq!(shown(&connect(house.address, &["h2"]).await.unwrap()), leaf("edge-1.pem"));
    pair.put("key.pem", &std::fs::read(file("edge-2.key")).unwrap());
    until_shown(house.address, &leaf("edge-2.pem")).await;
    wait_for_more(20).await;
    // Broken altogether.
    let before = refused();
    pair.put("cert.pem", b"-----BEGIN CERTIFICATE-----\nnonsense");
    until_refused(before).await;
    assert_eq!(shown(&connect(house.address, &["h2"]).await.unwrap()), leaf("edge-2.pem"));
    stop.cancel();
    for client in clients {
        client.await.unwrap();
    }
}
