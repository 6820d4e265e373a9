//! Upstreams that fail, leave, stall and come back, under load.
#![expect(clippy::unwrap_used, reason = "what is written here is well-formed")]

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::Full;
use serde_json::json;
use tokio::net::TcpStream;
use tonic::{Status, metadata::MetadataMap};

use crate::{
    house::House,
    patience::{ends, reaches, until},
    ports::Ports,
    shop::{Folder, Load, Reflection, Shop},
};

async fn house(shops: &[&Shop], more: &str, flags: &[&str]) -> (House, Folder) {
    let urls: Vec<_> = shops.iter().map(|shop| shop.url()).collect();
    let folder = Folder::of(&urls, more);
    let path = folder.upstreams();
    let fixed = ["--upstreams", path.as_str(), "--rate-ip-read", "100000000", "--rate-ip-write", "100000000"];
    let flags: Vec<_> = fixed.iter().chain(flags).copied().collect();
    (House::open(&flags).await, folder)
}

/// A load of calls that may be repeated, or of calls that may not.
fn load(house: &House, size: usize, is_safe: bool) -> Load {
    Load::start(house.address, size, move || {
        let request = match is_safe {
            true => Request::get("http://localhost/v1/orders/1"),
            false => Request::post("http://localhost/v1/orders"),
        };
        request.body(Full::<Bytes>::default()).unwrap()
    })
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
    let ports = Ports::take();
    let mut killed = Shop::on("b", ports.next(), Reflection::None);
    let (a, c) = (Shop::open("a"), Shop::open("c"));
    let (house, _folder) = house(&[&a, &killed, &c], "", &[]).await;
    let load = load(&house, 24, true);
    for shop in [&a, &killed, &c] {
        until("each is called", async || shop.count() > 0).await;
    }
    load.goes_on(100).await;
    killed.kill();
    // Each of the crowd has called several times since.
    load.goes_on(200).await;
    let _back = Shop::on("b", killed.address.port(), Reflection::None);
    load.goes_on(100).await;
    load.end().await.is_served();
}

#[tokio::test]
async fn connections_that_are_told_to_go_cost_no_call_even_of_those_sent_once() {
    let shop = Shop::with("a", Reflection::None, |_, _| Ok(Duration::from_millis(5)));
    let (house, _folder) = house(&[&shop], "", &[]).await;
    let load = load(&house, 16, false);
    for _ in 0..10 {
        load.goes_on(32).await;
        shop.goaway();
    }
    let seen = load.end().await;
    seen.is_served();
    assert_eq!(shop.count(), seen.ok, "each call came once");
}

#[tokio::test]
async fn only_calls_that_may_be_repeated_are() {
    let shop = Shop::with("a", Reflection::None, |count, _| match count % 2 {
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
    let shop = Shop::with("a", Reflection::None, |count, _| match count {
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
    let shop = Shop::with("a", Reflection::None, |_, _| Err(unavailable(Some("0"))));
    let (house, _folder) = house(&[&shop], "retries = { ratio = 0.1, min_per_s = 2 }", &[]).await;
    let started = Instant::now();
    let load = load(&house, 8, true);
    load.goes_on(200).await;
    let sent = load.end().await.failed.len();
    // It looks back on ten seconds: what came before them has a budget of its own, and is counted in the next one too.
    let spans = usize::try_from(started.elapsed().as_secs() / 10).unwrap() + 1;
    let most = sent + sent / 10 * spans.min(2) + 20 * spans;
    assert!((sent + 20..=most).contains(&shop.count()), "{sent} calls, {} seen, {most} at most", shop.count());
}

#[tokio::test]
async fn who_fails_is_out_for_a_while_but_half_stay_in() {
    const CROWD: usize = 24;
    let good = Shop::open("good");
    let bad = Shop::with("bad", Reflection::None, |_, _| Err(Status::unavailable("never")));
    let worse = Shop::with("worse", Reflection::None, |_, _| Err(Status::unavailable("never")));
    let (house, _folder) = house(&[&good, &bad], "", &[]).await;
    let started = Instant::now();
    let load = load(&house, CROWD, true);
    until("the bad one is tried", async || bad.count() > 0).await;
    load.goes_on(500).await;
    load.end().await.is_served();
    // Five failures put it out, for ten seconds and then longer; calls that were on their way to it come still.
    let times = 1 + usize::try_from(started.elapsed().as_secs() / 10).unwrap();
    assert!(bad.count() <= times * (5 + CROWD), "{} calls of the bad one", bad.count());
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
    // For one answer of the slow one the quick one gives 200: if they were asked in turn, soon all would wait for the slow one,
    // and nobody would ask the quick one for what it waits for.
    let quick = Shop::with("quick", Reflection::None, |_, _| Ok(Duration::from_millis(1)));
    let answered = quick.calls.clone();
    let slow = Shop::after("slow", move || {
        let answered = answered.clone();
        async move {
            let enough = answered.load(Ordering::SeqCst) + 200;
            reaches("the answers of the quick one", &answered, enough).await;
        }
    });
    let (house, _folder) = house(&[&quick, &slow], "", &[]).await;
    let load = load(&house, 8, true);
    until("the slow one is tried", async || slow.count() > 0).await;
    load.goes_on(2_000).await;
    let (quick, slow) = (quick.count(), slow.count());
    assert!(quick > slow * 4, "{quick} and {slow}");
}

#[tokio::test]
async fn what_is_too_much_is_refused_at_once() {
    let (shop, gate) = Shop::held("a");
    let (of_upstream, _one) = house(&[&shop], "max_requests = 4", &[]).await;
    let (of_edge, _two) = house(&[&shop], "", &["--edge-max-requests", "4"]).await;
    for house in [&of_upstream, &of_edge] {
        let (before, refused) = (shop.count(), AtomicUsize::new(0));
        let calls = join_all((0..12).map(async |_| {
            let answer = house.get("/v1/orders/1").await;
            refused.fetch_add(usize::from(answer.status != 200), Ordering::SeqCst);
            answer
        }));
        // Those that are in get their answers only when the others have been told.
        let told = async {
            until("eight are refused", async || refused.load(Ordering::SeqCst) == 8).await;
            until("four are in", async || shop.count() == before + 4).await;
            gate.add_permits(4);
        };
        let (answers, ()) = ends("twelve answers", async { tokio::join!(calls, told) }).await;
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            assert_eq!((answer.status, answer.reason()), (503, "OVERLOADED"));
            assert_eq!(answer.headers["retry-after"], "1");
        }
        gate.add_permits(1);
        assert_eq!(house.get("/v1/orders/1").await.status, 200, "the room is given back");
    }
}

#[tokio::test]
async fn the_upstreams_own_time_bounds_the_call() {
    let shop = Shop::with("a", Reflection::None, |_, _| Ok(Duration::from_secs(20)));
    let (house, _folder) = house(&[&shop], "timeout_s = 0.2", &[]).await;
    let answer = house.get("/v1/orders/1").await;
    assert_eq!((answer.status, answer.reason()), (504, "DEADLINE_EXCEEDED"));
}

#[tokio::test]
async fn an_edge_that_is_told_to_stop_says_so_and_serves_on_for_a_while() {
    let shop = Shop::open("a");
    let health = async |house: &House| {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let answer = house.exchange("POST", "/grpc.health.v1.Health/Check", &headers, &b"\0\0\0\0\0"[..]).await;
        answer.body.last().copied()
    };
    // Longer than any test lasts.
    let (house, _one) = house(&[&shop], "", &["--edge-drain-wait-s", "600"]).await;
    assert_eq!(health(&house).await, Some(1), "SERVING");
    house.stop.cancel();
    until("it says NOT_SERVING", async || health(&house).await == Some(2)).await;
    assert_eq!(house.get("/v1/orders/1").await.status, 200, "who has not noticed yet is served");
    assert!(!house.edge.is_finished());

    let (house, _two) = self::house(&[&shop], "", &["--edge-drain-wait-s", "1"]).await;
    let load = load(&house, 8, false);
    load.goes_on(50).await;
    house.stop.cancel();
    ends("the edge drains", house.edge).await.unwrap();
    assert!(TcpStream::connect(house.address).await.is_err(), "nobody listens");
    // All are told to go away, and no call is cut.
    load.end().await.is_served();
}
