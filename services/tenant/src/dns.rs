//! TXT records, asked of the servers that the settings name.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{RData, RecordType},
    },
};
use tokio::{sync::Semaphore, time::timeout};

use crate::error::Error;

/// How long one server gets to answer, how often it is asked, and how long all of that may take.
const ANSWER: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
const ALL: Duration = Duration::from_secs(8);
/// Look-ups at one time; others wait, within their deadlines.
const AT_ONCE: usize = 16;
/// Records of one name that are read.
const MOST: usize = 100;

/// A DNS server: `10.0.0.53` or `10.0.0.53:5353`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server(SocketAddr);

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let plain = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        let address = plain.or_else(|_| text.parse::<SocketAddr>());
        address.map(Self).map_err(|_| format!("{text:?} is no address like 10.0.0.53 or 10.0.0.53:5353"))
    }
}

/// Looks records up, and remembers none of them: who asks has just changed one.
pub(crate) struct Dns {
    resolver: Option<TokioResolver>,
    room: Semaphore,
}

impl Dns {
    /// Asks these servers, or those of the system (/etc/resolv.conf) when there are none.
    pub(crate) fn new(servers: &[Server]) -> Self {
        let resolver = build(servers);
        if let Err(error) = &resolver {
            tracing::warn!(%error, "no DNS server is known, so no domain can be verified: set TENON_DNS_SERVERS");
        }
        Self { resolver: resolver.ok(), room: Semaphore::new(AT_ONCE) }
    }

    /// The TXT records of a name; none is no error.
    ///
    /// # Errors
    /// `DnsUnavailable` when no server says.
    pub(crate) async fn texts(&self, name: &str) -> Result<Vec<String>, Error> {
        let resolver = self.resolver.as_ref().ok_or(Error::DnsUnavailable)?;
        let _place = self.room.acquire().await.map_err(|_| Error::DnsUnavailable)?;
        // The dot at the end keeps it from being looked for below the system's own domains.
        let answer = timeout(ALL, resolver.lookup(format!("{name}."), RecordType::TXT)).await;
        match answer {
            Ok(Ok(answer)) => {
                let texts = answer.answers().iter().filter_map(|record| match &record.data {
                    RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).trim().to_owned()),
                    _ => None,
                });
                Ok(texts.take(MOST).collect())
            }
            Ok(Err(error)) if is_absent(&error) => Ok(Vec::new()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "TXT records cannot be looked up");
                Err(Error::DnsUnavailable)
            }
            Err(_) => Err(Error::DnsUnavailable),
        }
    }
}

fn build(servers: &[Server]) -> Result<TokioResolver, NetError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if servers.is_empty() {
        Resolver::builder(provider)?
    } else {
        let connection = |mut connection: ConnectionConfig, port| {
            connection.port = port;
            connection
        };
        let servers = servers.iter().map(|Server(at)| {
            let both = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|kind| connection(kind, at.port()));
            NameServerConfig::new(at.ip(), true, both.into())
        });
        Resolver::builder_with_config(ResolverConfig::from_name_servers(servers.collect()), provider)
    };
    let options = builder.options_mut();
    (options.timeout, options.attempts, options.cache_size) = (ANSWER, ATTEMPTS, 0);
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}

/// Whether a server said that there is no such record; one that cannot tell is another thing.
fn is_absent(error: &NetError) -> bool {
    let NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. })) = error else { return false };
    matches!(*response_code, ResponseCode::NXDomain | ResponseCode::NoError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_address() {
        let at = |text: &str| text.parse::<Server>().ok().map(|Server(at)| at.to_string());
        assert_eq!(at("10.0.0.53").as_deref(), Some("10.0.0.53:53"));
        assert_eq!(at(" 10.0.0.53:5353").as_deref(), Some("10.0.0.53:5353"));
        assert_eq!(at("2001:db8::1").as_deref(), Some("[2001:db8::1]:53"));
        assert_eq!(at("[2001:db8::1]:5353").as_deref(), Some("[2001:db8::1]:5353"));
        assert!(at("dns.example.com").is_none() && at("").is_none());
    }
}
