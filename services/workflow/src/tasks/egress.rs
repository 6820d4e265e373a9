//! The way out: HTTP requests to where tenants want, but to no address that only insiders can reach.

use std::{
    error::Error as StdError,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use reqwest::{
    Certificate, Client, Request, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use url::Host;

use crate::{asl::Failure, config::Config};

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection waits for its next use.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Networks in CIDR form, separated by commas: `10.0.0.0/8,fd00::/8`.
#[derive(Debug, Clone, Default)]
pub struct Networks(Arc<[IpNet]>);

impl FromStr for Networks {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let nets: Result<Vec<IpNet>, _> = parts.map(|part| part.parse().map_err(|_| part.to_owned())).collect();
        nets.map(|nets| Self(nets.into())).map_err(|part| format!("{part} is no network like 10.0.0.0/8"))
    }
}

impl Networks {
    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&address.to_canonical()))
    }
}

/// Certificates of authorities that are trusted beside the system's: the path of a file in PEM.
#[derive(Debug, Clone, Default)]
pub struct Authorities(Arc<[Certificate]>);

impl FromStr for Authorities {
    type Err = String;
    fn from_str(path: &str) -> Result<Self, Self::Err> {
        let pem = std::fs::read(path).map_err(|why| format!("{path} cannot be read: {why}"))?;
        match Certificate::from_pem_bundle(&pem) {
            Ok(certificates) if !certificates.is_empty() => Ok(Self(certificates.into())),
            _ => Err(format!("{path} has no certificate in PEM")),
        }
    }
}

/// Sends requests to public addresses and those that the operator allows.
pub(crate) struct Egress {
    client: Client,
    allowed: Networks,
}

/// Every address of a host is one that must not be called.
#[derive(Debug, thiserror::Error)]
#[error("{0} is no public address; an operator can allow its network")]
struct Refused(String);

impl Egress {
    pub(crate) fn of(config: &Config) -> Self {
        let trusted = config.workflow_http_ca.clone().unwrap_or_default();
        Self::new(&config.workflow_http_allow_cidrs, &trusted)
    }

    fn new(allowed: &Networks, trusted: &Authorities) -> Self {
        let client = Client::builder()
            // The addresses that this resolver lets through are the very ones that are connected to: a name that
            // answers differently the next time gains nothing.
            .dns_resolver(Arc::new(Public(allowed.clone())))
            // A redirect would have to be judged as the first address was; whoever wants it calls again.
            .redirect(Policy::none())
            .no_proxy()
            .tls_certs_merge(trusted.0.iter().cloned())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!("tenon/", env!("CARGO_PKG_VERSION")))
            .build()
            .expect("a client with these settings can be made");
        Self { client, allowed: allowed.clone() }
    }

    /// Reads an address that may be called. Names are judged once they are resolved.
    ///
    /// # Errors
    /// INVALID_ARGUMENTS for what is no http(s) URL or carries a password, Http.AddressRefused for a private address.
    pub(crate) fn url(&self, text: &str) -> Result<Url, Failure> {
        let invalid = |why: &str| Failure::new("INVALID_ARGUMENTS", format!("url {why}"));
        let url = Url::parse(text).map_err(|why| invalid(&format!("is no URL: {why}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("must begin with https:// or http://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("must not carry a user or a password; send a header with a secret"));
        }
        // reqwest resolves no literal address, so it never comes past the resolver.
        match literal(&url) {
            Some(address) if !self.may_reach(address) => Err(refused(&address.to_string())),
            _ => Ok(url),
        }
    }

    /// Whether a secret may go there: encrypted, or to an address that the operator allows by name.
    pub(crate) fn may_carry_secrets(&self, url: &Url) -> bool {
        url.scheme() == "https" || literal(url).is_some_and(|address| self.allowed.contains(address))
    }

    /// A request that is still to be filled.
    pub(crate) fn request(&self, method: reqwest::Method, url: Url) -> reqwest::RequestBuilder {
        self.client.request(method, url)
    }

    /// # Errors
    /// Http.AddressRefused or Http.ConnectionFailed; neither names more than the host, as a path may hold a secret.
    pub(crate) async fn send(&self, request: Request) -> Result<Response, Failure> {
        let host = request.url().host_str().unwrap_or_default().to_owned();
        self.client.execute(request).await.map_err(|error| failure(&host, error))
    }

    fn may_reach(&self, address: IpAddr) -> bool {
        is_public(address) || self.allowed.contains(address)
    }
}

/// The failure of a request that got no answer, or not all of one.
pub(crate) fn failure(host: &str, error: reqwest::Error) -> Failure {
    // The URL may hold a secret.
    let error = error.without_url();
    let (mut cause, mut last): (Option<&(dyn StdError + 'static)>, _) = (Some(&error), String::new());
    while let Some(error) = cause {
        if let Some(Refused(host)) = error.downcast_ref() {
            return refused(host);
        }
        last = error.to_string();
        cause = error.source();
    }
    Failure::new("Http.ConnectionFailed", format!("{host} cannot be reached: {last}"))
}

fn refused(host: &str) -> Failure {
    Failure::new("Http.AddressRefused", Refused(host.to_owned()).to_string())
}

fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// Resolves to public addresses and allowed ones only.
struct Public(Networks);

impl Resolve for Public {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let may_reach = |at: &SocketAddr| is_public(at.ip()) || allowed.contains(at.ip());
            let reachable: Vec<SocketAddr> = found.into_iter().filter(may_reach).collect();
            if reachable.is_empty() {
                return Err(Refused(name.as_str().to_owned()).into());
            }
            Ok(Box::new(reachable.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is reachable from everywhere (the IANA registries of special-purpose addresses, RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        // Cloud metadata, 169.254.169.254, is link-local.
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast();
    let reserved = match (a, b, c) {
        (0 | 240..=255, ..) => true,
        // Carrier-grade NAT, where other clouds keep their metadata (RFC 6598).
        (100, 64..=127, _) => true,
        (192, 0, 0) | (192, 88, 99) => true,
        (198, 18 | 19, _) => true,
        _ => false,
    };
    !special && !reserved
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    let parts = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056) lead to the address inside.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // Teredo, documentation, and what else IETF keeps in 2001::/23.
        [0x2001, 0..=0x01ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] => false,
        // Of the rest only 2000::/3 is handed out.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for public in
            ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.192",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "100::1",
            "4000::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn a_url_is_http_without_credentials_and_no_private_address() {
        let egress = Egress::new(&Networks::default(), &Authorities::default());
        assert!(egress.url("https://api.example.com:8443/a?b=c").is_ok());
        for private in
            ["http://127.0.0.1/", "http://0x7f.1/", "http://2130706433/", "http://[::1]/", "http://[::ffff:10.0.0.1]/"]
        {
            assert_eq!(egress.url(private).unwrap_err().error, "Http.AddressRefused", "{private}");
        }
        for invalid in ["file:///etc/passwd", "ftp://x", "x", "https://u:p@x.test/"] {
            assert_eq!(egress.url(invalid).unwrap_err().error, "INVALID_ARGUMENTS", "{invalid}");
        }
        let allowing = Egress::new(&"127.0.0.0/8, fd00::/8".parse().unwrap(), &Authorities::default());
        let url = allowing.url("http://127.0.0.1/").unwrap();
        assert!(allowing.may_carry_secrets(&url) && allowing.url("http://10.0.0.1/").is_err());
        assert!(!allowing.may_carry_secrets(&"http://example.com/".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Networks>().is_err());
    }
}
