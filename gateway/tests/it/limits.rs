//! Limits that several edges share: none waits for Redis, and together they let through little more than one would.

use std::time::{Duration, Instant};

use http::Request;
use serde_json::json;

use crate::{
    house::{ACME, House},
    patience::until,
    redis::Redis,
};

const PER_MINUTE: usize = 120;
const BURST: usize = 20;

/// The status of a read of an address.
async fn read(house: &House, address: &str) -> u16 {
    house.send(Request::get("/v1/things/a").header("x-forwarded-for", address), "").await.status
}

async fn open(redis: &Redis) -> House {
    let (url, rate) = (redis.url(), PER_MINUTE.to_string());
    House::open(&["--redis-url", &url, "--rate-ip-read", &rate, "--trusted-proxies", "127.0.0.1"]).await
}

/// Calls that are let through before the first that is not.
async fn spend(house: &House, address: &str) -> usize {
    let mut through = 0;
    loop {
        match read(house, address).await {
            200 => through += 1,
            status => {
                assert_eq!(status, 429, "no call fails for what others are told");
                return through;
            }
        }
    }
}

/// Spends bursts at one edge until another knows of one.
async fn until_told(one: &House, two: &House, net: usize) {
    let mut host = 0;
    until("the other edge is told", async || {
        host += 1;
        let address = format!("198.{net}.{}.{}", host / 250, host % 250);
        assert_eq!(spend(one, &address).await, BURST);
        spend(two, &address).await < BURST
    })
    .await;
}

/// The time of the edges stands still unless it is moved, so what they let through is counted to the call.
#[tokio::test(flavor = "multi_thread")]
async fn edges_share_limits_within_the_stated_bound() {
    let mut redis = Redis::open().await;
    let (one, two) = (open(&redis).await, open(&redis).await);
    let (address, started) = ("192.0.2.1", Instant::now());
    // Both at once, from nothing: each has its burst before it hears of the other, or less when it hears in between.
    let (left, right) = tokio::join!(spend(&one, address), spend(&two, address));
    assert!((BURST..=2 * BURST).contains(&(left + right)), "{left} and {right}");
    // What one edge has seen spent, the other knows: it needs no burst of its own to find out.
    until_told(&one, &two, 18).await;
    // What was too much is paid back: over all of the time they let through what one alone would have, and once a burst more.
    let (first, rate, span_s) = (left + right, PER_MINUTE / 60, 11);
    for edge in [&one, &two] {
        edge.clock.advance(Duration::from_secs(11));
    }
    let (left, right) = tokio::join!(spend(&one, address), spend(&two, address));
    // The clock of Redis does not stand still: so long it has been forgetting.
    let forgetting_s = usize::try_from(started.elapsed().as_secs()).unwrap() + 1;
    let most = BURST + rate * span_s + BURST + rate * forgetting_s + 1;
    let all = first + left + right;
    assert!(left + right > 0 && all <= most, "{first}, then {left} and {right}; {most} at most");

    // Redis gone: limits of each edge's own, and no call fails.
    redis.kill();
    for edge in [&one, &two] {
        assert_eq!(spend(edge, "192.0.2.3").await, BURST);
    }
    redis.restart().await;
    until_told(&one, &two, 19).await;
}

#[tokio::test]
async fn a_user_has_a_share_of_what_the_tenant_may() {
    let house = House::open(&["--rate-user-read", "6"]).await;
    let member = house.token(ACME, &["admin"]);
    let headers = [("authorization", member.as_str())];
    let mut through = 0;
    let refused = loop {
        let answer = house.post("/v1/mine", &headers, &json!({})).await;
        if answer.status == 429 {
            break answer;
        }
        through += 1;
        if through == 15 {
            // The tenant earns ten calls meanwhile, the user half a one.
            house.clock.advance(Duration::from_secs(5));
        }
    };
    // A burst, and the half that it earned is none.
    assert_eq!(through, 20);
    assert_eq!(refused.reason(), "RATE_LIMITED");
    let policies = refused.headers["ratelimit-policy"].to_str().unwrap();
    assert!(policies.ends_with("\"tenant-read\";q=120;w=60, \"user-read\";q=6;w=60"), "{policies}");
    assert!(refused.headers["ratelimit"].to_str().unwrap().contains("\"user-read\";r=0;t="));
}
