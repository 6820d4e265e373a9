//! Idempotency keys before services that keep no answers themselves: a call that is sent again is made once.
#![expect(clippy::unwrap_used, reason = "what is written here is well-formed")]

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use prost::Message;
use serde_json::json;
use tenon_chassis::Fault;
use tonic::{Code, Status};

use crate::{
    house::{ACME, Answer, House},
    patience::until,
    redis::Redis,
    shop::{Folder, Order, Reflection, Shop},
};

async fn house(shop: &Shop, flags: &[&str]) -> House {
    let folder = Folder::of(&[shop.url()], "grants = { member = [\"shop.orders.*\"] }");
    let upstreams = folder.upstreams();
    House::open(&[&["--upstreams", upstreams.as_str()], flags].concat()).await
}

/// Places an order under a key.
async fn place(house: &House, key: &str, name: &str) -> Answer {
    let member = house.token(ACME, &["member"]);
    house
        .post("/v1/orders:place", &[("authorization", &member), ("idempotency-key", key)], &json!({ "name": name }))
        .await
}

fn is_replay(answer: &Answer) -> bool {
    answer.headers.get("idempotency-replayed").is_some_and(|replayed| replayed == "true")
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat().into()
}

#[tokio::test]
async fn the_same_request_under_the_same_key_is_made_once() {
    let shop = Shop::open("one");
    let house = house(&shop, &[]).await;
    let first = place(&house, "k1", "orders/1").await;
    assert_eq!((first.status, is_replay(&first), shop.count()), (200, false, 1), "{}", first.json);
    let again = place(&house, "k1", "orders/1").await;
    assert_eq!((again.status, is_replay(&again), shop.count()), (200, true, 1), "{}", again.json);
    assert_eq!(again.json, first.json);
    assert_eq!(again.headers.get("grpc-trailer-x-final"), first.headers.get("grpc-trailer-x-final"));
    let other = place(&house, "k1", "orders/2").await;
    assert_eq!((other.status, other.reason()), (422, "IDEMPOTENCY_KEY_REUSED"), "{}", other.json);
    assert_eq!(house.used().len(), 1, "a replay is not counted");
    // Another key, another method, another caller: another call.
    assert_eq!(place(&house, "k2", "orders/1").await.status, 200);
    let body = json!({ "name": "orders/1" });
    for host in ["acme.localhost", "localhost"] {
        let headers = [("idempotency-key", "k1"), ("host", host)];
        let made = house.post("/v1/orders", &headers, &body).await;
        assert_eq!((made.status, is_replay(&made)), (200, false), "{host}: {}", made.json);
        assert!(is_replay(&house.post("/v1/orders", &headers, &body).await), "{host}");
    }
    assert_eq!(shop.count(), 4);
    // A method without side effects has no use for a key, and a day later the key is new.
    let read = || Request::get("/v1/orders/1").header("idempotency-key", "k1");
    assert!(!is_replay(&house.send(read(), "").await) && !is_replay(&house.send(read(), "").await));
    house.clock.advance(Duration::from_secs(24 * 3_600 + 1));
    assert!(!is_replay(&place(&house, "k1", "orders/2").await));
}

#[tokio::test]
async fn a_refusal_is_kept_when_it_is_to_stay() {
    let shop = Shop::with("one", Reflection::None, |count, _| match count {
        0 | 1 => Err(Status::resource_exhausted("later")),
        2 => Err(Fault::new(Code::NotFound, "SHELF_NOT_FOUND", "no such shelf").into()),
        _ => Ok(Duration::ZERO),
    });
    let house = house(&shop, &[]).await;
    assert_eq!((place(&house, "k1", "a").await.status, place(&house, "k1", "a").await.status), (429, 429));
    assert_eq!(shop.count(), 2, "what passes with time is asked for again");
    let first = place(&house, "k1", "a").await;
    assert_eq!((first.status, first.reason(), is_replay(&first)), (404, "SHELF_NOT_FOUND", false));
    let again = place(&house, "k1", "a").await;
    assert_eq!((again.status, is_replay(&again), shop.count()), (404, true, 3), "{}", again.json);
    assert_eq!(again.json, first.json);
    assert!(house.used().is_empty());
}

#[tokio::test]
async fn a_request_in_flight_is_not_sent_again_and_ends_without_its_client() {
    let (shop, gate) = Shop::held("one");
    let house = house(&shop, &[]).await;
    tokio::select! {
        _ = place(&house, "k1", "orders/1") => panic!("nobody has answered"),
        // The client goes away.
        () = until("the call is under way", async || shop.count() == 1) => {}
    }
    let refused = place(&house, "k1", "orders/1").await;
    assert_eq!((refused.status, refused.reason()), (409, "IDEMPOTENCY_IN_FLIGHT"), "{}", refused.json);
    assert_eq!(refused.headers["retry-after"], "1");
    gate.add_permits(1);
    until("the answer is there", async || place(&house, "k1", "orders/1").await.status == 200).await;
    assert!(is_replay(&place(&house, "k1", "orders/1").await));
    assert_eq!((shop.count(), house.used().len()), (1, 1), "made once, and counted");
}

#[tokio::test]
async fn every_protocol_replays() {
    let shop = Shop::open("one");
    let house = house(&shop, &[]).await;
    let order = Order { name: "orders/1".to_owned(), ..Order::default() }.encode_to_vec();
    let method = house.uri("/shop.v1.OrderService/CreateOrder");
    for (kind, body) in [("application/grpc", framed(&order)), ("application/proto", Bytes::from(order.clone()))] {
        let send = async |key: &str, body: &Bytes| {
            let request = Request::post(&method).header("content-type", kind).header("te", "trailers");
            let request = request.header("idempotency-key", key).body(Full::new(body.clone())).unwrap();
            let (parts, body) = house.answer(request).await.into_parts();
            let body = body.collect().await.unwrap();
            let status = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
            let status = status.or_else(|| parts.headers.get("grpc-status").cloned());
            (parts.headers.contains_key("idempotency-replayed"), status, body.to_bytes())
        };
        let before = shop.calls.load(Ordering::SeqCst);
        let (first, again) = (send(kind, &body).await, send(kind, &body).await);
        assert_eq!((first.0, again.0), (false, true), "{kind}");
        assert_eq!((&first.1, &first.2), (&again.1, &again.2), "{kind}");
        assert_eq!(shop.count(), before + 1, "{kind}");
    }
    // gRPC has a code for a key that stands for another request.
    let other = Order { name: "orders/2".to_owned(), ..Order::default() }.encode_to_vec();
    let request = Request::post(&method).header("content-type", "application/grpc");
    let request = request.header("idempotency-key", "application/grpc").body(Full::new(framed(&other))).unwrap();
    let refused = house.answer(request).await;
    assert_eq!(refused.headers()["grpc-status"], "6");
}

#[tokio::test]
async fn edges_know_each_others_answers_and_go_on_without_redis() {
    let mut redis = Redis::open().await;
    let url = redis.url();
    let (shop, gate) = Shop::held("one");
    let flags = ["--redis-url", url.as_str()];
    let (one, two) = (house(&shop, &flags).await, house(&shop, &flags).await);
    let first = place(&one, "k1", "orders/1");
    let meanwhile = async {
        until("the first call is under way", async || shop.count() == 1).await;
        let meanwhile = place(&two, "k1", "orders/1").await;
        // From here on it answers at once.
        gate.add_permits(10_000);
        meanwhile
    };
    let (first, meanwhile) = tokio::join!(first, meanwhile);
    assert_eq!((first.status, is_replay(&first)), (200, false), "{}", first.json);
    assert_eq!((meanwhile.status, meanwhile.reason()), (409, "IDEMPOTENCY_IN_FLIGHT"));
    let again = place(&two, "k1", "orders/1").await;
    assert_eq!((again.status, is_replay(&again), again.json), (200, true, first.json));
    assert_eq!(place(&two, "k1", "orders/2").await.status, 422);
    assert_eq!(shop.count(), 1);
    // Without Redis each knows its own.
    redis.kill();
    for (key, replay) in [("k2", false), ("k2", true)] {
        let answer = place(&one, key, "orders/3").await;
        assert_eq!((answer.status, is_replay(&answer)), (200, replay), "{}", answer.json);
    }
    redis.restart().await;
    until("they share again", async || {
        let key = format!("k{}", shop.count() + 10);
        place(&one, &key, "orders/4").await;
        is_replay(&place(&two, &key, "orders/4").await)
    })
    .await;
}
