//! Certificates of hosts: each is shown its own, and how one is asked for by ACME.
#![expect(clippy::unwrap_used, reason = "what is written here is well-formed")]

use std::{fs, net::SocketAddr, path::Path};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    edge_tls::{connect_to, file, leaf, shown},
    house::House,
    patience::{ends, until},
};

/// A folder of certificates, written to as their makers do.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Puts a pair of the tests under the names that it is to have here.
    fn put(&self, pair: &str, cert: &str, key: &str) {
        for (end, name) in [("pem", cert), ("key", key)] {
            let to = self.0.path().join(name);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(file(&format!("{pair}.{end}")), self.0.path().join(".new")).unwrap();
            fs::rename(self.0.path().join(".new"), to).unwrap();
        }
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

fn own() -> [String; 4] {
    ["--edge-tls-cert".to_owned(), file("edge-1.pem"), "--edge-tls-key".to_owned(), file("edge-1.key")]
}

async fn house(more: &[&str]) -> House {
    House::open(&[&own().each_ref().map(String::as_str)[..], more].concat()).await
}

/// The certificate that a client is shown and takes; nothing when it takes none.
async fn certificate_of(edge: SocketAddr, host: &str) -> Option<Vec<u8>> {
    connect_to(edge, host, &["h2"]).await.ok().map(|stream| shown(&stream).to_vec())
}

async fn until_shown(edge: SocketAddr, host: &str, pair: Option<&str>) {
    let expected = pair.map(|pair| leaf(&format!("{pair}.pem")).to_vec());
    let what = format!("{host} is shown {pair:?}");
    until(&what, async || certificate_of(edge, host).await == expected).await;
}

#[tokio::test]
async fn each_host_is_shown_its_own_certificate() {
    let folder = Folder::new();
    folder.put("acme-1", "API.acme.test.crt", "API.acme.test.key");
    folder.put("below", "_wildcard.globex.test/fullchain.pem", "_wildcard.globex.test/privkey.pem");
    // Of another host, of no host, and no certificate: nobody else loses his for it.
    folder.put("acme-2", "other.test/tls.crt", "other.test/tls.key");
    folder.put("acme-2", "no host.crt", "no host.key");
    fs::write(folder.0.path().join("bad.test.crt"), "nonsense").unwrap();
    fs::write(folder.0.path().join("README"), "as certbot writes it").unwrap();
    let house = house(&["--edge-tls-certs", folder.path()]).await;
    for (host, expected) in [
        ("api.acme.test", Some("acme-1")),
        // Named by the certificate of another host's files.
        ("www.acme.test", Some("acme-1")),
        ("x.globex.test", Some("below")),
        ("edge.test", Some("edge-1")),
        // These are shown the edge's own, which is not theirs.
        ("a.b.globex.test", None),
        ("globex.test", None),
        ("other.test", None),
        ("bad.test", None),
    ] {
        let expected = expected.map(|pair| leaf(&format!("{pair}.pem")).to_vec());
        assert_eq!(certificate_of(house.address, host).await, expected, "{host}");
    }
    let gone =
        House::refused(&[&own().each_ref().map(String::as_str)[..], &["--edge-tls-certs", "/nowhere/at/all"]].concat())
            .await;
    assert!(gone.contains("/nowhere/at/all"), "{gone}");
}

#[tokio::test]
async fn a_certificate_comes_and_is_renewed_and_goes_without_a_restart() {
    let folder = Folder::new();
    let house = house(&["--edge-tls-certs", folder.path()]).await;
    until_shown(house.address, "api.acme.test", None).await;
    folder.put("acme-1", "api.acme.test/tls.crt", "api.acme.test/tls.key");
    until_shown(house.address, "api.acme.test", Some("acme-1")).await;
    folder.put("acme-2", "api.acme.test/tls.crt", "api.acme.test/tls.key");
    until_shown(house.address, "api.acme.test", Some("acme-2")).await;
    // An expired one does not take the place of one that holds. The other's is taken up in the same look.
    folder.put("acme-past", "api.acme.test/tls.crt", "api.acme.test/tls.key");
    folder.put("below", "_wildcard.globex.test.crt", "_wildcard.globex.test.key");
    until_shown(house.address, "x.globex.test", Some("below")).await;
    until_shown(house.address, "api.acme.test", Some("acme-2")).await;
    fs::remove_dir_all(Path::new(folder.path()).join("api.acme.test")).unwrap();
    until_shown(house.address, "api.acme.test", None).await;
    assert!(certificate_of(house.address, "edge.test").await.is_some());
}

/// What a port answers to plain HTTP/1.1.
async fn plain(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: api.acme.test:80\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_challenge_is_answered_on_every_port_and_the_plain_one_leads_to_https() {
    let tokens = Folder::new();
    fs::write(tokens.0.path().join("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"), "evaGx.thumb").unwrap();
    let challenge = "/.well-known/acme-challenge/evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
    let flags = ["--edge-acme-challenges", tokens.path()];
    let secured = house(&[&flags[..], &["--edge-http-port", "0"]].concat()).await;
    let open = House::open(&flags).await;
    for port in [secured.plain.unwrap(), open.address] {
        let answer = plain(port, challenge).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nevaGx.thumb"), "{answer}");
        assert!(answer.contains("content-type: text/plain\r\n"), "{answer}");
    }
    for path in ["/v1/things/a?x=1", "/.well-known/acme-challenge/none", "/.well-known/acme-challenge/..%2Fsecret"] {
        let answer = plain(secured.plain.unwrap(), path).await;
        assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
        assert!(answer.contains(&format!("location: https://api.acme.test{path}\r\n")), "{answer}");
        let answer = plain(open.address, path).await;
        assert!(!answer.starts_with("HTTP/1.1 308 "), "{answer}");
    }
    let answer = plain(open.address, "/.well-known/acme-challenge/none").await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("ROUTE_NOT_FOUND"), "{answer}");
    secured.stop.cancel();
    ends("the plain port ends with the edge", secured.edge).await.unwrap();
}
