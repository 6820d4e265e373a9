//! Streams of every kind in every protocol that has them.
#![expect(clippy::unwrap_used, reason = "a broken house is a failed test")]

use std::sync::atomic::Ordering;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use prost_reflect::DynamicMessage;
use serde_json::{Value as Json, json};

use crate::{
    house::{House, contract},
    patience::{ends, until},
    speak::{block, frames, of_connect, untext},
    talker::frame,
};

const DOWN: &str = "/everything.v1.StreamService/Down";

fn lines(body: &[u8]) -> Vec<Json> {
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn request(json: &Json) -> Bytes {
    let input = contract().method(DOWN).unwrap().descriptor.input();
    frame(&DynamicMessage::deserialize(input, json).unwrap())
}

fn piece(bytes: &[u8]) -> Json {
    let output = contract().method(DOWN).unwrap().descriptor.output();
    serde_json::to_value(DynamicMessage::decode(output, bytes).unwrap()).unwrap()
}

#[tokio::test]
async fn a_server_stream_has_three_forms_in_json() {
    let house = House::open(&[]).await;
    for accept in ["", "*/*", "application/x-ndjson"] {
        let headers = [("accept", accept), ("last-event-id", "7")];
        let raw = house
            .exchange("GET", "/v1/pieces/a?int32=3", if accept.is_empty() { &headers[1..] } else { &headers }, "")
            .await;
        assert_eq!((raw.http, &raw.headers["content-type"]), (200, &"application/x-ndjson".parse().unwrap()));
        let pieces = lines(&raw.body);
        assert_eq!(pieces.iter().map(|piece| &piece["text"]).collect::<Vec<_>>(), ["a0", "a1", "a2"]);
        assert!(pieces[0]["got"]["texts"].to_string().contains("last-event-id: 7"), "{}", pieces[0]);
        assert_eq!(raw.headers["grpc-metadata-x-initial"], "yes");
    }
    let raw = house.exchange("GET", "/v1/pieces/a?int32=2", &[("accept", "text/event-stream")], "").await;
    assert_eq!(raw.headers["content-type"], "text/event-stream");
    let text = String::from_utf8(raw.body.to_vec()).unwrap();
    let events: Vec<_> = text.trim_end().split("\n\n").collect();
    assert!(
        events[0].starts_with("id: 1\ndata: {\"text\":\"a0\"") && events[1].starts_with("id: 2\ndata: {"),
        "{text}"
    );
    let raw = house.exchange("GET", "/v1/pieces/a?int32=2", &[("accept", "application/json")], "").await;
    let array: Json = serde_json::from_slice(&raw.body).unwrap();
    assert_eq!(
        (&array[0]["text"], &array[1]["text"], array.as_array().unwrap().len()),
        (&json!("a0"), &json!("a1"), 2)
    );
    let raw = house.exchange("GET", "/v1/pieces/a", &[("accept", "application/json")], "").await;
    assert_eq!(raw.body, "[]");
    let raw = house.exchange("GET", "/v1/texts/a?int32=2", &[], "").await;
    assert_eq!(raw.body, "\"a0\"\n\"a1\"\n");
    let raw = house.exchange("GET", "/v1/downloads/three", &[], "").await;
    assert_eq!(
        (&raw.headers["content-type"], raw.body.as_ref()),
        (&"text/plain".parse().unwrap(), &b"one two three"[..])
    );
    assert_eq!(house.exchange("GET", "/v1/pieces/a", &[("accept", "text/html")], "").await.http, 406);
}

#[tokio::test]
async fn a_stream_that_fails_says_so_in_its_form() {
    let house = House::open(&[]).await;
    let raw = house.exchange("GET", "/v1/pieces/refused", &[], "").await;
    assert_eq!(raw.http, 404, "nothing was written yet, so HTTP can still say it");
    let error = |json: &Json| {
        let reason = json["details"].as_array().unwrap().iter().find_map(|detail| detail["reason"].as_str());
        (json["code"].as_i64().unwrap(), reason.unwrap().to_owned())
    };
    let not_found = (5, "THING_NOT_FOUND".to_owned());
    let raw = house.exchange("GET", "/v1/pieces/fails?int32=2", &[], "").await;
    let all = lines(&raw.body);
    assert_eq!((all.len(), error(&all[2]["error"])), (3, not_found.clone()));
    let raw = house.exchange("GET", "/v1/pieces/crashes?int32=1", &[], "").await;
    assert!(!String::from_utf8_lossy(&raw.body).contains("secret.rs"));
    let raw = house.exchange("GET", "/v1/pieces/fails?int32=1", &[("accept", "application/json")], "").await;
    let array: Json = serde_json::from_slice(&raw.body).unwrap();
    assert_eq!(error(&array[1]["error"]), not_found);
    let raw = house.exchange("GET", "/v1/pieces/fails?int32=1", &[("accept", "text/event-stream")], "").await;
    let text = String::from_utf8(raw.body.to_vec()).unwrap();
    let last = text.trim_end().split("\n\n").last().unwrap();
    let data = last.strip_prefix("event: error\ndata: ").unwrap();
    assert_eq!(error(&serde_json::from_str(data).unwrap()), not_found);

    let message = request(&json!({"text": "fails", "int32": 2}));
    let raw = house.exchange("POST", DOWN, &[("content-type", "application/grpc")], message.clone()).await;
    assert_eq!((frames(&raw.body).len(), &raw.trailers["grpc-status"]), (2, &"5".parse().unwrap()));
    assert_eq!(raw.trailers["x-final"], "done");
    assert!(!raw.trailers.contains_key("x-tenant-id"));
    let raw = house.exchange("POST", DOWN, &[("content-type", "application/grpc-web")], message).await;
    let all = frames(&raw.body);
    assert_eq!((all.len(), all[2].0, &block(&all[2].1)["grpc-status"]), (3, 0x80, &"5".parse().unwrap()));
}

#[tokio::test]
async fn a_server_stream_goes_through_every_protocol() {
    let house = House::open(&[]).await;
    let message = request(&json!({"text": "a", "int32": 3}));
    let texts = |all: &[(u8, Bytes)]| all.iter().map(|(_, data)| piece(data)["text"].clone()).collect::<Vec<_>>();
    let raw = house.exchange("POST", DOWN, &[("content-type", "application/grpc")], message.clone()).await;
    assert_eq!(texts(&frames(&raw.body)), ["a0", "a1", "a2"]);
    assert_eq!(
        (&raw.trailers["grpc-status"], &raw.trailers["x-final"]),
        (&"0".parse().unwrap(), &"done".parse().unwrap())
    );
    let raw = house.exchange("POST", DOWN, &[("content-type", "application/grpc-web")], message.clone()).await;
    let all = frames(&raw.body);
    assert_eq!((texts(&all[..3]), all[3].0), (vec![json!("a0"), json!("a1"), json!("a2")], 0x80));
    let text = BASE64_STANDARD.encode(&message);
    let raw = house.exchange("POST", DOWN, &[("content-type", "application/grpc-web-text")], text).await;
    let all = frames(&untext(&raw.body));
    assert_eq!(
        (texts(&all[..3]), &block(&all[3].1)["grpc-status"]),
        (vec![json!("a0"), json!("a1"), json!("a2")], &"0".parse().unwrap())
    );
    let raw = house.exchange("POST", DOWN, &[("content-type", "application/connect+proto")], message).await;
    let all = frames(&raw.body);
    assert_eq!((texts(&all[..3]), all[3].0), (vec![json!("a0"), json!("a1"), json!("a2")], 2));
    let end: Json = serde_json::from_slice(&all[3].1).unwrap();
    assert_eq!((&end["metadata"]["x-final"], end.get("error")), (&json!(["done"]), None));
    let connect = |json: &str| {
        let mut frame = vec![0, 0, 0, 0, u8::try_from(json.len()).unwrap()];
        frame.extend(json.as_bytes());
        house.exchange("POST", DOWN, &[("content-type", "application/connect+json")], frame)
    };
    let raw = connect(r#"{"text":"a","int32":2}"#).await;
    let all = frames(&raw.body);
    let first: Json = serde_json::from_slice(&all[0].1).unwrap();
    assert_eq!((all.len(), &first["text"], all[2].0), (3, &json!("a0"), 2));
    let raw = connect(r#"{"text":"refused"}"#).await;
    let all = frames(&raw.body);
    let end: Json = serde_json::from_slice(&all[0].1).unwrap();
    assert_eq!((raw.http, all.len(), all[0].0), (200, 1, 2));
    assert_eq!(of_connect(200, HeaderMap::new(), &end["error"]).reason, "THING_NOT_FOUND");
    let raw = connect(r#"{"nope":1}"#).await;
    let end: Json = serde_json::from_slice(&frames(&raw.body)[0].1).unwrap();
    assert_eq!(of_connect(200, HeaderMap::new(), &end["error"]).reason, "UNKNOWN_FIELD");
}

#[tokio::test]
async fn a_client_stream_is_lines_or_an_array_of_json() {
    let house = House::open(&[]).await;
    let up = "/v1/rooms/blue/things";
    for (kind, body) in [
        ("application/x-ndjson", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n"),
        ("application/x-ndjson", "{\"text\":\"a\"}{\"text\":\"b\"}"),
        ("application/json", "[{\"text\":\"a\"},{\"text\":\"b\"}]"),
        ("application/json", "{\"text\":\"a\"} {\"text\":\"b\"}"),
    ] {
        let raw = house.exchange("POST", up, &[("content-type", kind)], body).await;
        let json: Json = serde_json::from_slice(&raw.body).unwrap();
        assert_eq!((raw.http, &json["text"], &json["eventId"]), (200, &json!("a,b"), &json!("2")), "{body} {json}");
        assert_eq!(json["got"]["inner"]["text"], "blue", "the path counts for every message");
    }
    let raw = house.exchange("POST", up, &[("content-type", "application/x-ndjson")], "").await;
    assert_eq!(serde_json::from_slice::<Json>(&raw.body).unwrap()["eventId"], "0");
    for (kind, body, http, reason) in [
        ("application/x-ndjson", "{\"text\":\"a\"}\n{\"nope\":1}\n", 400, "UNKNOWN_FIELD"),
        ("application/x-ndjson", "{\"text\":", 400, "INVALID_BODY"),
        ("text/plain", "{}", 415, "UNSUPPORTED_MEDIA_TYPE"),
    ] {
        let raw = house.exchange("POST", up, &[("content-type", kind)], body).await;
        let text = String::from_utf8_lossy(&raw.body);
        assert!(raw.http == http && text.contains(reason), "{text}");
    }
    let path = "/everything.v1.StreamService/Up";
    let all = [request(&json!({"text": "a"})), request(&json!({"text": "b"}))].concat();
    let raw = house.exchange("POST", path, &[("content-type", "application/grpc")], all).await;
    assert_eq!(piece(&frames(&raw.body)[0].1)["text"], "a,b");
    let raw = house.exchange("POST", path, &[("content-type", "application/grpc")], vec![0, 0, 0x50, 0, 0]).await;
    let status = raw.headers.get("grpc-status").or(raw.trailers.get("grpc-status"));
    assert_eq!(status.unwrap(), "8", "a message of 5 MiB is refused by its prefix");
}

/// A request whose body is sent piece by piece, and its answer as it comes.
async fn talk(house: &House, path: &str, kind: &str) -> (tokio::sync::mpsc::Sender<Bytes>, http::Response<Incoming>) {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let pieces = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let body = StreamBody::new(Box::pin(pieces.map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece)))));
    let request = Request::post(house.uri(path)).header("content-type", kind).body(body).unwrap();
    let first = if kind == "application/grpc" { request_piece("a") } else { Bytes::from_static(b"{\"text\":\"a\"}\n") };
    sender.send(first).await.unwrap();
    (sender, house.answer(request).await)
}

fn request_piece(text: &str) -> Bytes {
    request(&json!({ "text": text }))
}

async fn data(body: &mut Incoming) -> Option<Bytes> {
    let frame = ends("the next frame", body.frame()).await?.unwrap();
    frame.into_data().ok().filter(|data| !data.is_empty())
}

#[tokio::test]
async fn both_sides_may_talk_at_once() {
    let house = House::open(&[]).await;
    let (sender, response) = talk(&house, "/v1/talk", "application/x-ndjson").await;
    let mut body = response.into_body();
    for text in ["a", "b", "c"] {
        let answer: Json = serde_json::from_slice(&data(&mut body).await.unwrap()).unwrap();
        assert_eq!(answer["text"], text, "each is answered before the next is sent");
        if text != "c" {
            let next = if text == "a" { "b" } else { "c" };
            sender.send(format!("{{\"text\":\"{next}\"}}").into()).await.unwrap();
        }
    }
    drop(sender);
    assert_eq!(data(&mut body).await, None);

    let (sender, response) = talk(&house, "/everything.v1.StreamService/Both", "application/grpc").await;
    let mut body = response.into_body();
    assert_eq!(piece(&data(&mut body).await.unwrap()[5..])["text"], "a");
    sender.send(request_piece("b")).await.unwrap();
    assert_eq!(piece(&data(&mut body).await.unwrap()[5..])["text"], "b");
    sender.send(Bytes::from_static(&[9, 9, 9, 9, 9])).await.unwrap();
    let end = ends("the end", body.frame()).await.unwrap().unwrap();
    let trailers = end.into_trailers().unwrap();
    assert!(["3", "8"].contains(&trailers["grpc-status"].to_str().unwrap()), "{trailers:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_call_behind() {
    let house = House::open(&[]).await;
    for accept in ["application/x-ndjson", "text/event-stream"] {
        let request = Request::get(house.uri("/v1/pieces/endless?int32=100000")).header("accept", accept);
        let response = house.answer(request.body(Full::<Bytes>::default()).unwrap()).await;
        let mut body = response.into_body();
        assert!(data(&mut body).await.is_some());
        let before = house.cut.load(Ordering::SeqCst);
        drop(body);
        until("the call behind is cut", async || house.cut.load(Ordering::SeqCst) > before).await;
    }
}

#[tokio::test]
async fn a_stream_ends_by_its_deadline_its_silence_and_a_drain() {
    let house = House::open(&["--edge-stream-idle-s", "1", "--edge-keep-alive-s", "1"]).await;
    // As long as the machine needs for the first piece.
    for timeout in ["0.3", "1", "4", "16"] {
        let raw = house.exchange("GET", "/v1/pieces/endless?int32=100000", &[("x-request-timeout", timeout)], "").await;
        if raw.http == 504 {
            continue;
        }
        let all = lines(&raw.body);
        assert_eq!((all.last().unwrap()["error"]["code"].as_i64(), all.len() > 1), (Some(4), true));
        break;
    }
    let raw = house.exchange("GET", "/v1/pieces/silent?int32=1", &[], "").await;
    let all = lines(&raw.body);
    assert!(all.len() == 2 && all[1]["error"].to_string().contains("STREAM_IDLE"), "{all:?}");

    let house = House::open(&["--edge-keep-alive-s", "1", "--edge-streams", "1"]).await;
    let request = Request::get(house.uri("/v1/pieces/silent?int32=1")).header("accept", "text/event-stream");
    let response = house.answer(request.body(Full::<Bytes>::default()).unwrap()).await;
    let mut body = response.into_body();
    assert!(data(&mut body).await.unwrap().starts_with(b"id: 1\n"));
    assert_eq!(data(&mut body).await.unwrap(), ": keep-alive\n\n");
    let second = house.exchange("GET", "/v1/pieces/a?int32=1", &[], "").await;
    assert!(second.http == 429 && String::from_utf8_lossy(&second.body).contains("TOO_MANY_STREAMS"));
    house.stop.cancel();
    let end = loop {
        let end = data(&mut body).await.unwrap();
        if !end.starts_with(b": keep") {
            break end;
        }
    };
    assert!(end.starts_with(b"event: error") && String::from_utf8_lossy(&end).contains("DRAINING"), "{end:?}");
    assert_eq!(data(&mut body).await, None);
}

#[tokio::test]
async fn an_event_stream_begins_though_its_service_says_nothing_yet() {
    let house = House::open(&["--edge-keep-alive-s", "1"]).await;
    let request = Request::get(house.uri("/v1/pieces/mute?int32=1")).header("accept", "text/event-stream");
    let response = house.answer(request.body(Full::<Bytes>::default()).unwrap()).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    let mut body = response.into_body();
    assert_eq!(data(&mut body).await.unwrap(), ": keep-alive\n\n");
    house.gate.notify_one();
    let first = loop {
        let said = data(&mut body).await.unwrap();
        if said != ": keep-alive\n\n" {
            break said;
        }
    };
    assert!(first.starts_with(b"id: 1\ndata: "), "{first:?}");
    assert_eq!(data(&mut body).await, None);
}
