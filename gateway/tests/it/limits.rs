//! Limits that several edges share: none waits for Redis, and together they let through little more than one would.

use std::time::{Duration, Instant};

use http::Request;
use serde_json::json;

use crate::{
    house::{ACME, House},
    redis::Redis,
};

const PER_MINUTE: usize = 600;
const BURST: usize = 100;
/// Between two rounds, with room for a slow machine.
const ROUND_S: f64 = 0.5;

/// The status of a read of an address, and how much is left of its quota.
async fn read(house: &House, address: &str) -> u16 {
    house.send(Request::get("/v1/things/a").header("x-forwarded-for", address), "").await.status
}

async fn open(redis: &Redis) -> House {
    let (url, rate) = (redis.url(), PER_MINUTE.to_string());
    House::open(&["--redis-url", &url, "--rate-ip-read", &rate, "--trusted-proxies", "127.0.0.1"]).await
}

/// Calls of one address through all edges in turn until `end`; how many were let through, and how long that took.
async fn hammer(edges: &[&House], address: &str, span: Duration) -> (usize, f64) {
    let (started, mut through) = (Instant::now(), 0);
    while started.elapsed() < span {
        for edge in edges {
            match read(edge, address).await {
                200 => through += 1,
                status => assert_eq!(status, 429, "no call fails for what others are told"),
            }
        }
    }
    (through, started.elapsed().as_secs_f64())
}

/// Calls that are let through before the first that is not.
async fn spend(house: &House, address: &str) -> usize {
    let mut through = 0;
    while read(house, address).await == 200 {
        through += 1;
    }
    through
}

/// Spends a burst at one edge until another knows of it.
async fn until_told(one: &House, two: &House, net: usize) {
    for host in 1..=100 {
        let address = format!("198.51.{net}.{host}");
        spend(one, &address).await;
        if spend(two, &address).await < BURST / 2 {
            return;
        }
    }
    panic!("the other edge is not told");
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn allowed(span_s: f64, edges: usize) -> f64 {
    let rate = PER_MINUTE as f64 / 60.0;
    let own = BURST as f64 + rate * span_s;
    own + (edges - 1) as f64 * (BURST as f64 + rate * ROUND_S) + 1.0
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
#[tokio::test(flavor = "multi_thread")]
async fn edges_share_limits_within_the_stated_bound() {
    let mut redis = Redis::open().await;
    let (one, two) = (open(&redis).await, open(&redis).await);
    // Both at once, from nothing: each has its burst before it hears of the other.
    let span = Duration::from_secs(3);
    let (only_one, only_two) = ([&one], [&two]);
    let (left, right) = tokio::join!(hammer(&only_one, "192.0.2.1", span), hammer(&only_two, "192.0.2.1", span));
    let (through, span_s) = (left.0 + right.0, left.1.max(right.1));
    assert!(through >= BURST && through as f64 <= allowed(span_s, 2), "{through} in {span_s} s");
    // What was too much is paid back: over both spans it is what one edge alone would have let through.
    let (more, more_s) = hammer(&[&one, &two], "192.0.2.1", Duration::from_secs(3)).await;
    assert!((through + more) as f64 <= allowed(span_s + more_s, 2), "{through} and {more} in {} s", span_s + more_s);

    // What one edge has seen spent, the other knows: it needs no burst of its own to find out.
    until_told(&one, &two, 1).await;

    // Redis gone: limits of each edge's own, at once, and no call fails.
    redis.kill();
    let started = Instant::now();
    for edge in [&one, &two] {
        let through = spend(edge, "192.0.2.3").await;
        assert!(through >= BURST, "{through}");
    }
    assert!(started.elapsed() < Duration::from_secs(10), "nothing waits for Redis");
    redis.restart().await;
    until_told(&one, &two, 2).await;
}

#[tokio::test]
async fn a_user_has_a_share_of_what_the_tenant_may() {
    let house = House::open(&["--rate-user-read", "60"]).await;
    let member = house.token(ACME, &["admin"]);
    let headers = [("authorization", member.as_str())];
    let mut through = 0;
    let refused = loop {
        let answer = house.post("/v1/mine", &headers, &json!({})).await;
        if answer.status == 429 {
            break answer;
        }
        through += 1;
    };
    assert!((20..40).contains(&through), "{through}");
    assert_eq!(refused.reason(), "RATE_LIMITED");
    let policies = refused.headers["ratelimit-policy"].to_str().unwrap();
    assert!(policies.ends_with("\"tenant-read\";q=120;w=60, \"user-read\";q=60;w=60"), "{policies}");
    assert!(refused.headers["ratelimit"].to_str().unwrap().contains("\"user-read\";r=0;t="));
}
