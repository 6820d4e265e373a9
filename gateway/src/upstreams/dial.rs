//! How an upstream is reached: endpoints, TLS, and the numbers that bound it.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Uri, uri::Authority};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// HTTP/2 connections to one address: each is driven by one core of either side.
pub(super) const CONNECTIONS: usize = 2;
/// Calls of one upstream in flight.
pub(super) const MAX_REQUESTS: usize = 4_096;

/// How an upstream is reached. Two that are equal share their connections across a reload.
#[derive(Debug, Clone, PartialEq)]
pub struct Dial {
    /// Its name in logs, metrics and errors.
    pub name: String,
    /// The `aud` of tokens that are minted for it.
    pub audience: String,
    pub endpoints: Vec<Endpoint>,
    pub tls: Tls,
    /// HTTP/2 connections to one address.
    pub connections: usize,
    /// Calls in flight; more are refused with OVERLOADED.
    pub max_requests: usize,
    /// What a call may take here, when that is less than the edge's own limit.
    pub timeout: Option<Duration>,
    pub retries: Retries,
    /// Sent with every call.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Not of the mesh: it gets no token of the mesh's own and no operator credential, and the edge meters for it.
    pub is_foreign: bool,
}

impl Dial {
    /// One endpoint, everything else as by default.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn to(name: &str, url: &str) -> Result<Self, String> {
        Ok(Self {
            name: name.to_owned(),
            audience: name.to_owned(),
            endpoints: vec![url.parse()?],
            tls: Tls::default(),
            connections: CONNECTIONS,
            max_requests: MAX_REQUESTS,
            timeout: None,
            retries: Retries::default(),
            headers: Vec::new(),
            is_foreign: false,
        })
    }
}

/// How many calls may be sent again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retries {
    /// Tries of one call beyond the first.
    pub max: u32,
    /// Of the calls of the last 10 s, this part may be repeated ...
    pub ratio: f64,
    /// ... and this many a second besides.
    pub min_per_s: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self { max: 2, ratio: 0.2, min_per_s: 10 }
    }
}

/// `http://host:port`, or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub is_https: bool,
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
    pub(super) authority: Authority,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| format!("{text:?} is no endpoint: {why}; write http://host:port or https://host:port");
        let uri = text.parse::<Uri>().map_err(|error| refuse(&error.to_string()))?;
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(refuse("it begins with neither http:// nor https://")),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(refuse("gRPC has no path in front of the service's name"));
        }
        let authority = uri.authority().cloned().ok_or_else(|| refuse("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("a user and password have no meaning here"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        Ok(Self { is_https, host, port, authority })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_https { "https" } else { "http" }, self.authority)
    }
}

/// TLS towards an upstream. The files are read when the upstreams are, so that a reload takes new ones up.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// TLS even where the endpoint says http://.
    pub always: bool,
    /// PEM; without it the machine's own roots.
    pub ca: Option<Vec<u8>>,
    /// PEM of the certificate chain and of its key, when the upstream asks who we are.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the certificate must be for, when it is another than the endpoint's host.
    pub server_name: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("always", &self.always)
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl Tls {
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(pem) => {
                for certificate in certificates("tls.ca", pem)? {
                    roots.add(certificate).map_err(|error| format!("tls.ca: {error}"))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    return Err("this machine has no root certificates: name a file in tls.ca".to_owned());
                }
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?.with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("tls.key: {error}"))?;
                let config = builder.with_client_auth_cert(certificates("tls.cert", chain)?, key);
                config.map_err(|error| format!("tls.cert and tls.key: {error}"))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| format!("{what}: {error}"))?;
    if found.is_empty() { Err(format!("{what}: the file has no certificate in PEM")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_refused_with_what_to_write() {
        for (text, host, port) in [
            ("http://127.0.0.1:9100", "127.0.0.1", 9100),
            ("https://crm.example.com", "crm.example.com", 443),
            ("http://[::1]:80/", "::1", 80),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{text}");
        }
        for bad in ["127.0.0.1:9100", "ftp://x", "http://", "http://a/b", "http://a?b", "http://u:p@a", "grpc://a:1"] {
            let why = bad.parse::<Endpoint>().unwrap_err();
            assert!(why.contains("write http://host:port"), "{bad}: {why}");
        }
    }
}
