//! Who is at the other end: the client's address behind trusted proxies, and the tenant that a host names.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use http::{HeaderMap, HeaderName, Uri, header::HOST};

use crate::errors::Refusal;

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Characters of a DNS label, and of a name.
const MAX_LABEL: usize = 63;
const MAX_HOST: usize = 253;

/// A range of addresses: `10.0.0.0/8`, `::1/128`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: u128,
    mask: u128,
}

impl Cidr {
    /// Whether the range holds an address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.network
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || format!("{text:?} is not an address or a CIDR like 10.0.0.0/8");
        let (address, length) = text.trim().split_once('/').map_or((text.trim(), None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let (width, most) = if address.is_ipv4() { (96, 32) } else { (0, 128) };
        let length = length.map_or(Ok(most), str::parse).map_err(|_| malformed())?;
        if length > most {
            return Err(malformed());
        }
        let mask = u128::MAX.checked_shl(128 - width - length).unwrap_or(0);
        Ok(Self { network: bits(address) & mask, mask })
    }
}

/// Every address as IPv6, so that `::ffff:10.0.0.1` is 10.0.0.1.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The client's address: the last one in x-forwarded-for that is not a trusted proxy, read from the right, and only as
/// far as each hop is trusted.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Cidr]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|range| range.contains(address));
    let mut client = peer.to_canonical();
    if !is_trusted(client) {
        return client;
    }
    let values = headers.get_all(FORWARDED_FOR).iter().rev();
    for hop in values.flat_map(|value| value.to_str().unwrap_or("malformed").rsplit(',')) {
        let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
        client = address.to_canonical();
        if !is_trusted(client) {
            break;
        }
    }
    client
}

/// What an address is limited by: itself, or its /64 for IPv6, where one customer holds that many.
pub(super) fn limited_as(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// What a host says of the tenant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named<'r> {
    /// Nothing: the mesh's own domain, an address, a single label.
    Nobody,
    /// `<slug>.<domain>`
    Slug(Cow<'r, str>),
    /// Another name, in lower case: a tenant's own, perhaps.
    Host(Cow<'r, str>),
}

/// What the host of a request names.
pub(super) fn named<'r>(uri: &'r Uri, headers: &'r HeaderMap, domain: &str) -> Result<Named<'r>, Refusal> {
    let malformed = || Refusal::invalid("INVALID_HOST", "host", "must be sent once");
    let mut hosts = headers.get_all(HOST).iter();
    let named = hosts.next().map(|host| host.to_str().map_err(|_| malformed())).transpose()?;
    if hosts.next().is_some() {
        return Err(malformed());
    }
    // The authority of the request line outranks the header (RFC 9110 section 7.2).
    let Some(host) = uri.host().or(named) else { return Ok(Named::Nobody) };
    let host = if host.ends_with(']') { host } else { host.rsplit_once(':').map_or(host, |(host, _)| host) };
    let host = host.strip_suffix('.').unwrap_or(host);
    let Some(label) = below(host, domain) else {
        return Ok(if is_name(host) { Named::Host(lower(host)) } else { Named::Nobody });
    };
    let is_label = !label.is_empty() && label.len() <= MAX_LABEL && !label.contains('.');
    Ok(if is_label { Named::Slug(lower(label)) } else { Named::Nobody })
}

/// What stands before a domain and its dot; nothing for the domain itself, `None` for every other host.
fn below<'h>(host: &'h str, domain: &str) -> Option<&'h str> {
    let (label, end) = host.split_at_checked(host.len().checked_sub(domain.len())?)?;
    if !end.eq_ignore_ascii_case(domain) {
        return None;
    }
    if label.is_empty() { Some(label) } else { label.strip_suffix('.') }
}

/// Whether somebody could own a host: labels with dots between them, and no address.
fn is_name(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= MAX_HOST
        && host.contains('.')
        && host.bytes().all(plain)
        && last.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn lower(text: &str) -> Cow<'_, str> {
    let is_upper = text.bytes().any(|byte| byte.is_ascii_uppercase());
    if is_upper { text.to_ascii_lowercase().into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_addresses() {
        let holds =
            |range: &str, address: &str| range.parse::<Cidr>().unwrap().contains(address.parse::<IpAddr>().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3") && holds("127.0.0.1", "127.0.0.1"));
        assert!(holds("0.0.0.0/0", "8.8.8.8") && !holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("2001:db8::/32", "2001:db8::1") && holds("::/0", "1.2.3.4"));
        for bad in ["", "x", "10.0.0.0/33", "::/129", "10.0.0.0/x", "10.0.0.0/-1"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn forwarded_addresses_are_believed_as_far_as_each_hop_is() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "192.168.0.0/16".parse().unwrap()];
        for (peer, forwarded, expected) in [
            ("1.2.3.4", &["9.9.9.9"][..], "1.2.3.4"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["9.9.9.9"], "9.9.9.9"),
            ("10.0.0.1", &["6.6.6.6, 9.9.9.9, 192.168.1.1"], "9.9.9.9"),
            ("10.0.0.1", &["6.6.6.6", "9.9.9.9"], "9.9.9.9"),
            ("10.0.0.1", &["9.9.9.9, nonsense"], "10.0.0.1"),
            ("::ffff:10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
        ] {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            let client = client(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(client, expected.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
        }
        assert_eq!(limited_as("2001:db8::1".parse().unwrap()), limited_as("2001:db8::2".parse().unwrap()));
    }

    #[test]
    fn a_host_names_a_tenant_by_its_label_or_is_its_own() {
        let slug = |slug: &'static str| Named::Slug(slug.into());
        let own = |host: &'static str| Named::Host(host.into());
        for (host, domain, expected) in [
            ("acme.localhost", "localhost", slug("acme")),
            ("ACME.LocalHost:8080", "localhost", slug("acme")),
            ("acme.localhost.", "localhost", slug("acme")),
            ("localhost:8080", "localhost", Named::Nobody),
            ("127.0.0.1:8080", "localhost", Named::Nobody),
            ("[::1]:8080", "localhost", Named::Nobody),
            ("[::1]", "localhost", Named::Nobody),
            ("a.b.localhost", "localhost", Named::Nobody),
            ("xlocalhost", "localhost", Named::Nobody),
            (".localhost", "localhost", Named::Nobody),
            ("acme.app.example.com", "app.example.com", slug("acme")),
            ("app.example.com", "app.example.com", Named::Nobody),
            ("shop.Acme.com:443", "app.example.com", own("shop.acme.com")),
            ("shop.acme.com.", "localhost", own("shop.acme.com")),
            ("xapp.example.com", "app.example.com", own("xapp.example.com")),
            ("edge", "localhost", Named::Nobody),
            ("10.1", "localhost", Named::Nobody),
            ("a_b.acme.com", "localhost", Named::Nobody),
            ("", "localhost", Named::Nobody),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            let uri = Uri::from_static("/v1/x");
            assert_eq!(named(&uri, &headers, domain).unwrap(), expected, "{host}");
        }
        let uri = Uri::from_static("http://acme.localhost:8080/v1/x");
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "other.localhost".parse().unwrap());
        assert_eq!(named(&uri, &headers, "localhost").unwrap(), slug("acme"));
        headers.append(HOST, "third.localhost".parse().unwrap());
        assert!(named(&uri, &headers, "localhost").is_err());
    }
}
