//! Which address a call goes to: the better of two at random, over names that are resolved again and again.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use rand::Rng;
use tokio::{
    net::lookup_host,
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    Ground,
    connect::{Connector, TlsOnce},
    dial::Dial,
    replica::{FAILURES, Replica},
};

/// How often names are resolved, and how soon again when a connection fails.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The replicas of one upstream.
pub(super) struct Balance {
    name: String,
    connections: usize,
    connectors: Vec<Arc<Connector>>,
    replicas: ArcSwap<Vec<Arc<Replica>>>,
    /// A connection failed: look at the names now.
    stale: Notify,
    resolving: tokio::sync::Mutex<()>,
}

impl Balance {
    pub(super) fn new(ground: &Ground, dial: &Dial) -> Result<Arc<Self>, String> {
        let mut tls = TlsOnce::default();
        let connectors = dial.endpoints.iter().map(|endpoint| Connector::new(ground, dial, endpoint, &mut tls));
        let connectors: Vec<_> = connectors.map(|made| made.map(Arc::new)).collect::<Result<_, _>>()?;
        let has_names = dial.endpoints.iter().any(|endpoint| endpoint.host.parse::<IpAddr>().is_err());
        let balance = Arc::new(Self {
            name: dial.name.clone(),
            connections: dial.connections,
            connectors,
            replicas: ArcSwap::default(),
            stale: Notify::new(),
            resolving: tokio::sync::Mutex::default(),
        });
        if has_names {
            let stop = ground.stop.clone();
            let watched = watch(Arc::downgrade(&balance));
            ground.tasks.spawn(async move { stop.run_until_cancelled(watched).await });
        } else {
            let fixed = balance.connectors.iter().filter_map(|connector| {
                let address = connector.endpoint.host.parse::<IpAddr>().ok()?;
                Some((SocketAddr::new(address, connector.endpoint.port), connector))
            });
            balance.take(fixed.collect());
        }
        Ok(balance)
    }

    /// The replica for a call, but for those in `tried` if there is another.
    pub(super) async fn pick(&self, tried: &[SocketAddr]) -> Option<Arc<Replica>> {
        if self.replicas.load().is_empty() {
            Box::pin(self.resolve()).await;
        }
        let (replicas, now) = (self.replicas.load(), Instant::now());
        let is_new = |replica: &Replica| !tried.contains(&replica.address);
        // Who is out is asked only when nobody else is left.
        better(&replicas, now, |replica| is_new(replica) && !replica.is_out(now))
            .or_else(|| better(&replicas, now, |replica| !replica.is_out(now)))
            .or_else(|| better(&replicas, now, |_| true))
            .cloned()
    }

    /// Takes a failure into account: too many in a row put a replica out, as long as half of them stay in.
    ///
    /// The number of failures in a row.
    pub(super) fn failed(&self, replica: &Replica) -> u32 {
        let failures = replica.failed();
        if failures < FAILURES {
            return failures;
        }
        let (replicas, now) = (self.replicas.load(), Instant::now());
        let out = replicas.iter().filter(|replica| replica.is_out(now)).count();
        if !replica.is_out(now) && (out + 1) * 2 <= replicas.len() {
            let span = replica.put_out(now);
            metrics::counter!("tenon_edge_upstream_ejections_total", "upstream" => self.name.clone()).increment(1);
            tracing::warn!(
                upstream.name = self.name,
                upstream.address = %replica.address,
                out_s = span.as_secs(),
                "an address of an upstream fails and gets no calls for a while"
            );
        }
        failures
    }

    /// A connection could not be made: perhaps the service has moved.
    pub(super) fn suspect(&self) {
        self.stale.notify_one();
    }

    async fn resolve(&self) {
        let _resolving = self.resolving.lock().await;
        let mut found = Vec::new();
        for connector in &self.connectors {
            let (host, port) = (connector.endpoint.host.as_str(), connector.endpoint.port);
            let looked_up = timeout(RESOLVE_TIMEOUT, lookup_host((host, port))).await;
            match looked_up.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))) {
                Ok(addresses) => found.extend(addresses.map(|address| (address, connector))),
                Err(error) => {
                    tracing::warn!(upstream.name = self.name, %error, "{} cannot be resolved", connector.endpoint);
                    // What was known of it may still answer.
                    let known = self.replicas.load();
                    let known = known.iter().filter(|replica| Arc::ptr_eq(&replica.connector, connector));
                    found.extend(known.map(|replica| (replica.address, connector)));
                }
            }
        }
        self.take(found);
    }

    /// Takes a set of addresses; who was there keeps its connections and its record.
    fn take(&self, mut addresses: Vec<(SocketAddr, &Arc<Connector>)>) {
        addresses.sort_by_key(|(address, _)| *address);
        addresses.dedup_by_key(|(address, _)| *address);
        let known = self.replicas.load();
        let replicas = addresses.into_iter().map(|(address, connector)| {
            let same =
                |replica: &&Arc<Replica>| replica.address == address && Arc::ptr_eq(&replica.connector, connector);
            let kept = known.iter().find(same).cloned();
            kept.unwrap_or_else(|| Arc::new(Replica::new(address, connector.clone(), self.connections)))
        });
        self.replicas.store(Arc::new(replicas.collect()));
    }
}

/// The cheaper of two that are drawn at random.
fn better(replicas: &[Arc<Replica>], now: Instant, fits: impl Fn(&Replica) -> bool) -> Option<&Arc<Replica>> {
    let count = replicas.iter().filter(|replica| fits(replica)).count();
    let nth = |at: usize| replicas.iter().filter(|replica| fits(replica)).nth(at);
    if count < 2 {
        return nth(0);
    }
    let mut rng = rand::rng();
    let first = rng.random_range(0..count);
    let second = (first + rng.random_range(1..count)) % count;
    let (first, second) = (nth(first)?, nth(second)?);
    Some(if second.cost(now) < first.cost(now) { second } else { first })
}

/// Resolves until nobody calls the upstream any more.
async fn watch(balance: Weak<Balance>) {
    loop {
        let Some(current) = balance.upgrade() else { return };
        current.resolve().await;
        drop(current);
        sleep(RESOLVE_AGAIN).await;
        let Some(current) = balance.upgrade() else { return };
        let _stale = timeout(RESOLVE_EVERY.saturating_sub(RESOLVE_AGAIN), current.stale.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn half_of_the_addresses_are_out_at_most_and_one_never() {
        for (addresses, out) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
            let mut dial = Dial::to("x", "http://127.0.0.1:1").unwrap();
            let urls = (1..=addresses).map(|last| format!("http://127.0.0.{last}:1").parse().unwrap());
            dial.endpoints = urls.collect();
            let balance = Balance::new(&Ground::default(), &dial).unwrap();
            for replica in balance.replicas.load().iter() {
                (0..10).for_each(|_| {
                    balance.failed(replica);
                });
            }
            let now = Instant::now();
            assert_eq!(balance.replicas.load().iter().filter(|replica| replica.is_out(now)).count(), out);
            assert!(balance.pick(&[]).await.is_some_and(|replica| !replica.is_out(now)));
        }
    }

    #[tokio::test]
    async fn names_become_all_their_addresses() {
        let dial = Dial::to("x", "http://localhost:1").unwrap();
        let balance = Balance::new(&Ground::default(), &dial).unwrap();
        assert!(balance.pick(&[]).await.is_some_and(|replica| replica.address.port() == 1));
    }
}
