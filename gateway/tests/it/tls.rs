//! Upstreams behind TLS: who they are and who we are is proved, or there is no call.
#![expect(clippy::unwrap_used, reason = "what is written here is well-formed")]

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use prost::Message;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{
    house::{House, reply},
    shop::{Folder, Order, entry},
};

fn file(name: &str) -> String {
    format!("{}/tests/certs/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A shop that asks its callers who they are. Its certificate is for shop.test.
async fn shop() -> SocketAddr {
    let certificates = |name| CertificateDer::pem_file_iter(file(name)).unwrap().map(Result::unwrap);
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("ca.pem"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let config = config.with_client_cert_verifier(verifier);
    let mut config = config.with_single_cert(certificates("server.pem").collect(), key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = tower::service_fn(|_: Request<Incoming>| async {
                    let order = Order { server: "proved".to_owned(), ..Order::default() };
                    Ok::<_, Infallible>(reply(&order.encode_to_vec()))
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ended = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn an_upstream_behind_tls_proves_itself_and_so_do_we() {
    let address = shop().await;
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let https = format!("https://127.0.0.1:{}", address.port());
    let http = format!("http://127.0.0.1:{}", address.port());
    let whole = format!("tls = {{ ca = {ca:?}, cert = {cert:?}, key = {key:?}, server_name = \"shop.test\" }}");
    for (endpoint, tls, status) in [
        (&https, whole.as_str(), 200),
        // tls in the entry means TLS, whatever the endpoint says.
        (&http, &whole, 200),
        (&https, &whole.replace("shop.test", "other.test"), 503),
        (&https, &format!("tls = {{ ca = {ca:?}, server_name = \"shop.test\" }}"), 503),
        // A root of the machine did not sign it.
        (&https, &format!("tls = {{ cert = {cert:?}, key = {key:?}, server_name = \"shop.test\" }}"), 503),
        (&http, "", 503),
    ] {
        let folder = Folder::of(&[], "");
        folder.write(
            "upstreams.toml",
            entry(std::slice::from_ref(endpoint), &format!("descriptors = \"shop.binpb\"\n{tls}")),
        );
        let house = House::open(&["--upstreams", &folder.upstreams()]).await;
        let answer = house.get("/v1/orders/1").await;
        assert_eq!(answer.status, status, "{endpoint} {tls}: {}", answer.json);
    }
    for (tls, expected) in [
        (format!("tls = {{ ca = {key:?} }}"), "tls.ca: the file has no certificate in PEM"),
        (format!("tls = {{ cert = {cert:?} }}"), "tls.cert and tls.key belong together"),
        ("tls = { ca = \"none.pem\" }".to_owned(), "none.pem cannot be read"),
        ("tls = false".to_owned(), "tls = false contradicts"),
    ] {
        let folder = Folder::of(&[], "");
        folder.write(
            "upstreams.toml",
            entry(std::slice::from_ref(&https), &format!("descriptors = \"shop.binpb\"\n{tls}")),
        );
        let why = House::refused(&["--upstreams", &folder.upstreams()]).await;
        assert!(why.contains(expected), "{tls}\n{why}");
    }
}
