//! What goes out and comes in compressed with gzip, and large answers that are given on as they are.
#![expect(clippy::unwrap_used, reason = "a broken house is a failed test")]

use std::io::Read;

use bytes::Bytes;
use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::{Value as Json, json};

use crate::{
    house::{House, contract},
    protocols::gzip,
    speak::{ALL, Raw, Tongue, frames, hear},
};

const DOWN: &str = "/everything.v1.StreamService/Down";
const BOTH: &str = "/everything.v1.StreamService/Both";

fn plain(data: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(data).read_to_end(&mut plain).unwrap();
    plain
}

fn framed(flags: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![flags];
    frame.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    frame.extend(data);
    frame
}

fn is_packed(raw: &Raw) -> bool {
    raw.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip")
}

fn reason(raw: &Raw) -> String {
    let end: Json = serde_json::from_slice(&frames(&raw.body).last().unwrap().1).unwrap();
    let details = end["error"]["details"].as_array().cloned().unwrap_or_default();
    details.iter().find_map(|detail| detail["debug"]["reason"].as_str()).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn json_is_compressed_for_clients_that_take_it() {
    let house = House::open(&["--edge-gzip-from", "4096"]).await;
    let kind = ("content-type", "application/json");
    let takes = [kind, ("accept-encoding", "br, gzip")];
    let large = json!({ "text": "x".repeat(5_000) }).to_string();
    let raw = house.exchange("POST", "/v1/things", &takes, large.clone()).await;
    assert!(is_packed(&raw) && raw.body.len() < 2_000, "{:?}", raw.headers);
    assert_eq!(
        (&raw.headers["vary"], &raw.headers["content-type"]),
        (&"accept-encoding".parse().unwrap(), &"application/json".parse().unwrap())
    );
    let answer: Json = serde_json::from_slice(&plain(&raw.body)).unwrap();
    assert_eq!(answer["text"].as_str().unwrap().len(), 5_000);
    let raw = house.exchange("POST", "/v1/things", &[kind, ("accept-encoding", "gzip;q=0")], large.clone()).await;
    assert_eq!((is_packed(&raw), &raw.headers["vary"]), (false, &"accept-encoding".parse().unwrap()));
    let raw = house.exchange("POST", "/v1/things", &takes, "{\"text\":\"short\"}").await;
    assert!(!is_packed(&raw) && !raw.headers.contains_key("vary"));
    let raw = house.exchange("POST", "/everything.v1.EverythingService/Create", &takes, large).await;
    assert!(is_packed(&raw), "a unary Connect answer");
    let stream = [("accept", "text/event-stream"), ("accept-encoding", "gzip")];
    assert!(!is_packed(&house.exchange("GET", "/v1/pieces/a?int32=300", &stream, "").await), "a stream of events");

    let page = house.exchange("GET", "/openapi.json", &takes[1..], "").await;
    let tag = page.headers["etag"].to_str().unwrap();
    assert!(is_packed(&page) && tag.starts_with("W/\""), "{tag}");
    assert!(serde_json::from_slice::<Json>(&plain(&page.body)).unwrap()["paths"].is_object());
    assert_eq!(house.exchange("GET", "/openapi.json", &[takes[1], ("if-none-match", tag)], "").await.http, 304);
}

#[tokio::test]
async fn connects_streams_are_compressed_both_ways() {
    let house = House::open(&[]).await;
    let zipped = ("connect-content-encoding", "gzip");
    let takes = ("connect-accept-encoding", "br, gzip");
    let json = ("content-type", "application/connect+json");
    let sent = framed(1, &gzip(json!({ "text": "y".repeat(3_000), "int32": 2 }).to_string().as_bytes()));
    let raw = house.exchange("POST", DOWN, &[json, zipped, takes], sent.clone()).await;
    let all = frames(&raw.body);
    assert_eq!((&raw.headers["connect-content-encoding"], all.len()), (&"gzip".parse().unwrap(), 3));
    assert_eq!(all.iter().map(|(flags, _)| *flags).collect::<Vec<_>>(), [1, 1, 2]);
    let piece: Json = serde_json::from_slice(&plain(&all[1].1)).unwrap();
    assert!(piece["text"].as_str().unwrap().starts_with("yyy"));
    let raw = house.exchange("POST", DOWN, &[json, zipped], sent.clone()).await;
    assert!(!raw.headers.contains_key("connect-content-encoding") && frames(&raw.body)[0].0 == 0);

    // Both in one stream, compressed or not.
    let proto = ("content-type", "application/connect+proto");
    let mut both = framed(1, &gzip(b"\x0a\x01a"));
    both.extend(framed(0, b"\x0a\x01b"));
    let raw = house.exchange("POST", BOTH, &[proto, zipped], both).await;
    let output = contract().method(BOTH).unwrap().descriptor.output();
    let texts = frames(&raw.body).into_iter().take(2).map(|(_, data)| {
        let piece = prost_reflect::DynamicMessage::decode(output.clone(), data).unwrap();
        piece.get_field_by_name("text").unwrap().as_str().unwrap().to_owned()
    });
    assert_eq!(texts.collect::<Vec<_>>(), ["a", "b"]);

    let bomb = framed(1, &gzip(&vec![0; 5 << 20]));
    for path in [DOWN, BOTH] {
        let raw = house.exchange("POST", path, &[proto, zipped], bomb.clone()).await;
        assert_eq!(reason(&raw), "MESSAGE_TOO_LARGE", "{path}");
        let raw = house.exchange("POST", path, &[proto], framed(1, &gzip(b""))).await;
        assert_eq!(reason(&raw), "INVALID_BODY", "{path}: nobody announced gzip");
        let raw = house.exchange("POST", path, &[proto, zipped], framed(1, b"no gzip")).await;
        assert_eq!(reason(&raw), "INVALID_BODY", "{path}");
        let raw = house.exchange("POST", path, &[proto, ("connect-content-encoding", "br")], "").await;
        assert_eq!(reason(&raw), "UNSUPPORTED_ENCODING", "{path}");
    }
}

#[tokio::test]
async fn an_answer_of_any_size_comes_whole_in_every_protocol() {
    let house = House::open(&[]).await;
    for size in [0, 60_000, 70_000, 3_000_000] {
        let sent = json!({ "text": "z".repeat(size) });
        for tongue in ALL {
            let heard = house.say(tongue, "EverythingService/Create", "/v1/things", &[], &sent).await;
            assert_eq!((heard.http, heard.code), (200, 0), "{tongue:?} {size}");
            assert_eq!(heard.message["text"].as_str().unwrap_or_default().len(), size, "{tongue:?}");
            if matches!(tongue, Tongue::Grpc | Tongue::Web | Tongue::WebText) {
                assert_eq!(heard.trailers["x-final"], "done", "{tongue:?} {size}");
            }
        }
    }
    let compressed = Bytes::from(framed(1, &gzip(b"\x0a\x01a")));
    let headers = [("content-type", "application/grpc"), ("grpc-encoding", "snappy")];
    let raw = house.exchange("POST", "/everything.v1.EverythingService/Any", &headers, compressed).await;
    let heard = hear(Tongue::Grpc, raw, None);
    assert_ne!(heard.reason, "INVALID_BODY", "what is compressed is between the two ends");
}

#[tokio::test]
async fn compressed_messages_of_grpc_are_unpacked_for_services_that_take_none() {
    let house = House::open(&[]).await;
    let input = contract().method(DOWN).unwrap().descriptor.input();
    let message = |text: &str| {
        let message = DynamicMessage::deserialize(input.clone(), &json!({ "text": text, "int32": 1 })).unwrap();
        framed(1, &gzip(&message.encode_to_vec()))
    };
    let create = "/everything.v1.EverythingService/Create";
    for (kind, tongue) in [("application/grpc", Tongue::Grpc), ("application/grpc-web+proto", Tongue::Web)] {
        let headers = [("content-type", kind), ("grpc-encoding", "GZIP"), ("te", "trailers")];
        for (path, output) in [(create, &input), (DOWN, &contract().method(DOWN).unwrap().descriptor.output())] {
            let raw = house.exchange("POST", path, &headers, message("packed")).await;
            let heard = hear(tongue, raw, Some(output));
            let text = heard.message["text"].as_str().unwrap_or_default();
            assert!(heard.code == 0 && text.starts_with("packed"), "{kind} {path}: {text}");
            // One that says that it is not compressed is none the worse for it.
            let plain = DynamicMessage::deserialize(input.clone(), &json!({ "text": "plain", "int32": 1 })).unwrap();
            let raw = house.exchange("POST", path, &headers, framed(0, &plain.encode_to_vec())).await;
            let heard = hear(tongue, raw, Some(output));
            assert!(heard.message["text"].as_str().unwrap_or_default().starts_with("plain"), "{kind} {path}");
        }
        let bomb = framed(1, &gzip(&vec![0; 5 * 1024 * 1024]));
        for (body, code) in [(framed(1, b"no gzip"), 3), (bomb, 8), ([message("a"), message("b")].concat(), 3)] {
            assert_eq!(hear(tongue, house.exchange("POST", create, &headers, body).await, None).code, code, "{kind}");
        }
    }
    let headers = [("content-type", "application/grpc"), ("grpc-encoding", "gzip"), ("te", "trailers")];
    let up = "/everything.v1.StreamService/Up";
    let raw = house.exchange("POST", up, &headers, [message("a"), message("b")].concat()).await;
    let output = contract().method(up).unwrap().descriptor.output();
    assert_eq!(hear(Tongue::Grpc, raw, Some(&output)).message["text"], "a,b", "a stream of the client");
}
