//! Upstreams that fail, leave, stall and come back, under load.
#![expect(clippy::unwrap_used, reason = "what is written here is well-formed")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tonic::{Status, metadata::MetadataMap};

use crate::{
    house::House,
    shop::{Crowd, Folder, Reflection, Shop, crowd},
};

async fn house(shops: &[&Shop], more: &str, flags: &[&str]) -> (House, Folder) {
    let urls: Vec<_> = shops.iter().map(|shop| shop.url()).collect();
    let folder = Folder::of(&urls, more);
    let path = folder.upstreams();
    let fixed = ["--upstreams", path.as_str(), "--rate-ip-read", "100000000", "--rate-ip-write", "100000000"];
    let flags: Vec<_> = fixed.iter().chain(flags).copied().collect();
    (House::open(&flags).await, folder)
}

/// A load of calls that may be repeated, and one of calls that may not.
fn load(house: &House, size: usize, is_safe: bool) -> (CancellationToken, tokio::task::JoinHandle<Crowd>) {
    let stop = CancellationToken::new();
    let request = move || {
        let request = match is_safe {
            true => Request::get("http://localhost/v1/orders/1"),
            false => Request::post("http://localhost/v1/orders"),
        };
        request.body(Full::<Bytes>::default()).unwrap()
    };
    (stop.clone(), tokio::spawn(crowd(house.address, size, request, stop)))
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

fn unavailable(pushback: Option<&str>) -> Status {
    let mut metadata = MetadataMap::new();
    if let Some(pushback) = pushback {
        metadata.insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
    }
    Status::with_metadata(tonic::Code::Unavailable, "not now", metadata)
}

#[tokio::test]
async fn one_of_three_is_killed_under_load_and_nobody_sees_it() {
    let mut shops = [Shop::open("a"), Shop::open("b"), Shop::open("c")];
    let (house, _folder) = house(&[&shops[0], &shops[1], &shops[2]], "", &[]).await;
    let (stop, seen) = load(&house, 24, true);
    pause(500).await;
    shops[1].kill();
    pause(1500).await;
    let port = shops[1].address.port();
    let _back = Shop::with("b", port, Reflection::None, |_, _| Ok(Duration::ZERO));
    pause(500).await;
    stop.cancel();
    let seen = seen.await.unwrap();
    assert!(seen.failed.is_empty() && seen.ok > 50, "{} ok, failed {:?}", seen.ok, seen.failed.first());
}

#[tokio::test]
async fn connections_that_are_told_to_go_cost_no_call_even_of_those_sent_once() {
    let shop = Shop::with("a", 0, Reflection::None, |_, _| Ok(Duration::from_millis(5)));
    let (house, _folder) = house(&[&shop], "", &[]).await;
    let (stop, seen) = load(&house, 16, false);
    for _ in 0..10 {
        pause(100).await;
        shop.goaway();
    }
    stop.cancel();
    let seen = seen.await.unwrap();
    assert!(seen.failed.is_empty() && seen.ok > 50, "{} ok, failed {:?}", seen.ok, seen.failed.first());
    assert_eq!(shop.count(), seen.ok, "each call came once");
}

#[tokio::test]
async fn only_calls_that_may_be_repeated_are() {
    let shop = Shop::with("a", 0, Reflection::None, |count, _| match count % 2 {
        0 => Err(unavailable(None)),
        _ => Ok(Duration::ZERO),
    });
    let (house, _folder) = house(&[&shop], "", &[]).await;
    let read = house.get("/v1/orders/1").await;
    assert_eq!((read.status, shop.count()), (200, 2));
    assert!(read.json["seen"].to_string().contains("grpc-previous-rpc-attempts: 1"), "{}", read.json);
    let write = house.post("/v1/orders", &[], &json!({})).await;
    assert_eq!((write.status, shop.count()), (503, 3));
    let _even = house.post("/v1/orders", &[], &json!({})).await;
    let keyed = house.post("/v1/orders", &[("idempotency-key", "k1")], &json!({})).await;
    assert_eq!((keyed.status, shop.count()), (200, 6));
}

#[tokio::test]
async fn a_service_that_pushes_back_is_obeyed() {
    let shop = Shop::with("a", 0, Reflection::None, |count, _| match count {
        0 => Err(unavailable(Some("400"))),
        1 => Ok(Duration::ZERO),
        2 => Err(unavailable(Some("-1"))),
        3 => Err(unavailable(Some("60000"))),
        _ => Err(unavailable(Some("soon"))),
    });
    let (house, _folder) = house(&[&shop], "", &[]).await;
    let started = Instant::now();
    assert_eq!(house.get("/v1/orders/1").await.status, 200);
    assert!(started.elapsed() >= Duration::from_millis(400));
    assert_eq!((house.get("/v1/orders/1").await.status, shop.count()), (503, 3), "never again");
    assert_eq!((house.get("/v1/orders/1").await.status, shop.count()), (503, 4), "later than the deadline");
    assert_eq!((house.get("/v1/orders/1").await.status, shop.count()), (503, 5), "no number");
}

#[tokio::test]
async fn a_budget_bounds_what_is_sent_again() {
    let shop = Shop::with("a", 0, Reflection::None, |_, _| Err(unavailable(Some("0"))));
    let (house, _folder) = house(&[&shop], "retries = { ratio = 0.1, min_per_s = 2 }", &[]).await;
    let (stop, seen) = load(&house, 8, true);
    pause(1000).await;
    stop.cancel();
    let sent = seen.await.unwrap().failed.len();
    let most = sent + sent / 10 + 20;
    assert!(
        sent > 30 && (sent + 10..=most).contains(&shop.count()),
        "{sent} calls, {} seen, {most} at most",
        shop.count()
    );
}

#[tokio::test]
async fn who_fails_is_out_for_a_while_but_half_stay_in() {
    let good = Shop::open("good");
    let bad = Shop::with("bad", 0, Reflection::None, |_, _| Err(Status::unavailable("never")));
    let worse = Shop::with("worse", 0, Reflection::None, |_, _| Err(Status::unavailable("never")));
    let (house, _folder) = house(&[&good, &bad], "", &[]).await;
    let (stop, seen) = load(&house, 24, true);
    pause(700).await;
    let before = bad.count();
    pause(700).await;
    stop.cancel();
    let seen = seen.await.unwrap();
    assert!(seen.failed.is_empty() && seen.ok > 50, "{} ok, failed {:?}", seen.ok, seen.failed.first());
    assert!((1..=40).contains(&before) && bad.count() == before, "{before}, then {}", bad.count());
    // All of them fail: one is out, the other is still asked.
    let (house, _folder) = self::house(&[&bad, &worse], "", &[]).await;
    let started = (bad.count(), worse.count());
    for _ in 0..60 {
        assert_eq!(house.get("/v1/orders/1").await.status, 503);
    }
    let (bad, worse) = (bad.count() - started.0, worse.count() - started.1);
    assert!(bad + worse >= 60 && bad.max(worse) > 40, "{bad} and {worse}: calls still come through");
}

#[tokio::test]
async fn who_is_slow_gets_less() {
    let quick = Shop::with("quick", 0, Reflection::None, |_, _| Ok(Duration::from_millis(2)));
    let slow = Shop::with("slow", 0, Reflection::None, |_, _| Ok(Duration::from_millis(250)));
    let (house, _folder) = house(&[&quick, &slow], "", &[]).await;
    let (stop, seen) = load(&house, 8, true);
    pause(1500).await;
    stop.cancel();
    assert!(seen.await.unwrap().failed.is_empty());
    let (quick, slow) = (quick.count(), slow.count());
    assert!(slow > 0 && quick > slow * 4, "{quick} and {slow}");
}

#[tokio::test]
async fn what_is_too_much_is_refused_at_once() {
    let shop = Shop::with("a", 0, Reflection::None, |_, _| Ok(Duration::from_millis(300)));
    let (of_upstream, _one) = house(&[&shop], "max_requests = 4", &[]).await;
    let (of_edge, _two) = house(&[&shop], "", &["--edge-max-requests", "4"]).await;
    for house in [&of_upstream, &of_edge] {
        let started = Instant::now();
        let answers = futures::future::join_all((0..12).map(|_| house.get("/v1/orders/1"))).await;
        let (fine, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        assert_eq!((fine.len(), refused.len()), (4, 8));
        for answer in refused {
            assert_eq!((answer.status, answer.reason()), (503, "OVERLOADED"));
            assert_eq!(answer.headers["retry-after"], "1");
        }
        assert!(started.elapsed() < Duration::from_secs(2));
        assert_eq!(house.get("/v1/orders/1").await.status, 200, "the room is given back");
    }
}

#[tokio::test]
async fn the_upstreams_own_time_bounds_the_call() {
    let shop = Shop::with("a", 0, Reflection::None, |_, _| Ok(Duration::from_secs(20)));
    let (house, _folder) = house(&[&shop], "timeout_s = 0.2", &[]).await;
    let answer = house.get("/v1/orders/1").await;
    assert_eq!((answer.status, answer.reason()), (504, "DEADLINE_EXCEEDED"));
}

#[tokio::test]
async fn an_edge_that_is_told_to_stop_says_so_and_serves_on_for_a_while() {
    let shop = Shop::open("a");
    let (house, _folder) = house(&[&shop], "", &["--edge-drain-wait-s", "1"]).await;
    house.stop.cancel();
    pause(100).await;
    let started = Instant::now();
    let health = [("content-type", "application/grpc"), ("te", "trailers")];
    let health = house.exchange("POST", "/grpc.health.v1.Health/Check", &health, &b"\0\0\0\0\0"[..]).await;
    assert_eq!(health.body.last(), Some(&2), "NOT_SERVING");
    assert_eq!(house.get("/v1/orders/1").await.status, 200, "who has not noticed yet is served");
    house.edge.await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(700));
    assert!(tokio::net::TcpStream::connect(house.address).await.is_err());
}
