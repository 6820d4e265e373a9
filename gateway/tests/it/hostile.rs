//! What is sent to break the edge: each with the right code, and with bounded memory and time.

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    house::{ACME, GLOBEX, House},
    patience::ends,
    protocols::{bomb, gzip},
};

#[tokio::test]
async fn a_compressed_body_is_read_up_to_what_a_message_may_have() {
    let house = House::open(&[]).await;
    let send = |encoding: &'static str, body: Vec<u8>| {
        let request = Request::post("/v1/things").header("content-type", "application/json");
        house.send(request.header("content-encoding", encoding), body)
    };
    let answer = send("gzip", gzip(br#"{"text":"x"}"#)).await;
    assert_eq!((answer.status, &answer.json["text"]), (200, &json!("x")), "{}", answer.json);
    // No machine has the room, and no test the time, for all that is in it.
    let bomb = bomb(3 << 20);
    let answer = ends("a refusal", send("gzip", bomb)).await;
    assert_eq!((answer.status, answer.reason()), (413, "MESSAGE_TOO_LARGE"));
    let answer = send("gzip", b"not gzip".to_vec()).await;
    assert_eq!((answer.status, answer.reason()), (400, "INVALID_BODY"));
    for encoding in ["br", "deflate", "zstd", "gzip, gzip"] {
        let answer = send(encoding, vec![]).await;
        assert_eq!(answer.status, 200, "there is no body to decode");
        let answer = send(encoding, b"{}".to_vec()).await;
        assert_eq!((answer.status, answer.reason()), (415, "UNSUPPORTED_ENCODING"), "{encoding}");
        assert_eq!(answer.headers["accept-encoding"], "gzip, identity");
    }
}

#[tokio::test]
async fn depth_and_growth_are_bounded() {
    let house = House::open(&[]).await;
    let post = |body: String| house.send(Request::post("/v1/things").header("content-type", "application/json"), body);
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for depth in [101, 100_000] {
            let body = format!("{{\"value\":{}1{}}}", open.repeat(depth), close.repeat(depth));
            let answer = post(body).await;
            assert_eq!((answer.status, answer.reason()), (400, "JSON_TOO_DEEP"), "{open} {depth}");
        }
    }
    let unknown = format!("{{\"nope\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    assert_eq!(post(unknown).await.reason(), "JSON_TOO_DEEP", "what is passed over counts too");
    let any = "{\"@type\":\"type.googleapis.com/google.protobuf.Any\",\"value\":";
    let body = format!("{{\"any\":{}{{}}{}}}", any.repeat(90), "}".repeat(90));
    let answer = ends("what would take for ever twice at each level", post(body)).await;
    assert_eq!(answer.reason(), "JSON_TOO_DEEP", "an Any in an Any is read once more at each level");
    // Two bytes each in JSON, eight on the wire.
    let zeros = format!("{{\"doubles\":[0{}]}}", ",0".repeat(1 << 20));
    let answer = post(zeros).await;
    assert_eq!((answer.status, answer.reason()), (413, "MESSAGE_TOO_LARGE"));
    let many = format!("/v1/things?{}", "numbers=1&".repeat(700));
    assert_eq!(house.get(&many).await.status, 200);
    let many = format!("/v1/things?{}", "flag&".repeat(1_500));
    assert_eq!(house.get(&many).await.status, 400);
}

#[tokio::test]
async fn what_connection_lists_ends_at_the_edge() {
    let house = House::open(&[]).await;
    let colour = ("grpc-metadata-x-colour", "red");
    assert_eq!(house.post("/v1/enter", &[colour], &json!({})).await.seen("x-colour").as_deref(), Some("red"));
    for listed in ["X-Colour", "close, Grpc-Metadata-X-Colour"] {
        let answer = house.post("/v1/enter", &[colour, ("connection", listed)], &json!({})).await;
        assert_eq!((answer.status, answer.seen("x-colour")), (200, None), "{listed}");
    }
    for conflict in [
        "content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        "content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        "transfer-encoding: gzip, chunked, identity\r\n\r\n{}",
        "content-length: +2\r\n\r\n{}",
        "content-length: 0x2\r\n\r\n{}",
        "content-length: 2, 3\r\n\r\n{}",
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: cow\r\n\r\n0\r\n\r\n",
        "transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding:\r\n chunked\r\ncontent-length: 2\r\n\r\n{}",
    ] {
        let answer = house.raw(&format!("POST /v1/things HTTP/1.1\r\nhost: localhost\r\n{conflict}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{conflict}: {answer}");
    }
}

#[tokio::test]
async fn the_client_is_who_the_trusted_proxies_say() {
    let house = House::open(&["--trusted-proxies", "127.0.0.0/8,10.0.0.0/8"]).await;
    for (sent, expected) in [
        ("9.9.9.9", "9.9.9.9"),
        ("6.6.6.6, 9.9.9.9, 10.0.0.1", "9.9.9.9"),
        ("9.9.9.9, nonsense", "127.0.0.1"),
        ("", "127.0.0.1"),
    ] {
        let answer = house.post("/v1/enter", &[("x-forwarded-for", sent)], &json!({})).await;
        assert_eq!(answer.seen("x-forwarded-for").as_deref(), Some(expected), "{sent}");
    }
}

#[tokio::test]
async fn a_token_in_the_wrong_place_and_a_tenant_twice_are_refused() {
    let house = House::open(&[]).await;
    let admin = house.token(ACME, &["admin"]);
    let both = [("authorization", admin.as_str()), ("authorization", admin.as_str())];
    assert_eq!(house.post("/v1/mine", &both, &json!({})).await.reason(), "INVALID_TOKEN");
    let twice = [("authorization", admin.as_str()), ("x-tenant-id", GLOBEX), ("x-tenant-id", GLOBEX)];
    assert_eq!(house.post("/v1/mine", &twice, &json!({})).await.seen("x-tenant-id").as_deref(), Some(ACME));
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_nothing_else() {
    let house = House::open(&[]).await;
    let stream = TcpStream::connect(house.address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    let connection = tokio::spawn(connection);
    let mut refused = false;
    for _ in 0..5_000 {
        if sender.ready().await.is_err() {
            refused = true;
            break;
        }
        let request = Request::get(house.uri("/v1/things/slow")).body(Full::<Bytes>::default()).unwrap();
        // Dropped at once: a reset right behind the headers.
        drop(sender.send_request(request));
        tokio::task::yield_now().await;
    }
    drop(sender);
    let ended = ends("the connection is sent away or comes to its end", connection).await;
    assert!(refused || ended.is_ok());
    assert_eq!(house.get("/v1/things/a").await.status, 200, "others do not notice");
}

/// Waits until a connection is closed that has sent this and nothing more.
async fn is_let_go(house: &House, what: &str, sent: &[u8]) {
    let mut slow = TcpStream::connect(house.address).await.expect("the edge listens");
    slow.write_all(sent).await.expect("the edge reads");
    let mut answer = Vec::new();
    // However it ends.
    let _read = ends(what, slow.read_to_end(&mut answer)).await;
}

#[tokio::test]
async fn strangers_have_little_time_and_kept_connections_much() {
    let house = House::open(&[]).await;
    let mut kept = TcpStream::connect(house.address).await.unwrap();
    let request = b"GET /v1/things/a HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut answer = vec![0; 16_384];
    kept.write_all(request).await.unwrap();
    assert!(kept.read(&mut answer).await.unwrap() > 0);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    tokio::join!(
        is_let_go(&house, "a silent stranger is let go", b""),
        is_let_go(&house, "a slow one is let go", b"GET /v1/things/a HTTP/1.1\r\nh"),
        is_let_go(&house, "one of HTTP/2 is let go", preface)
    );
    // A load balancer finds its connection open, more than the time for headers later.
    kept.write_all(request).await.unwrap();
    assert!(kept.read(&mut answer).await.unwrap() > 0 && answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_header_list_that_is_too_long_is_refused_over_http2() {
    let house = House::open(&[]).await;
    let mut request = Request::get(house.uri("/v1/things/a")).body(Full::<Bytes>::default()).unwrap();
    let value = HeaderValue::try_from("a".repeat(40_000)).unwrap();
    request.headers_mut().insert("x-long", value);
    let stream = TcpStream::connect(house.address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    match sender.send_request(request).await {
        Ok(response) => {
            assert_eq!(response.status(), 431);
            drop(response.into_body().collect().await);
        }
        Err(error) => assert!(error.is_user() || !error.is_timeout(), "{error}"),
    }
}

/// Over HTTP/1.1 a client writes on while it is refused. A connection that is closed under it loses the answer.
#[tokio::test]
async fn a_client_that_is_refused_early_may_send_its_body_to_the_end() {
    let house = House::open(&[]).await;
    for (path, status) in [("/v1/mine", "401"), ("/v1/nothing/here", "404")] {
        let mut stream = TcpStream::connect(house.address).await.unwrap();
        for _ in 0..2 {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 20000\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..4 {
                // In pieces, between which it may be answered.
                tokio::task::yield_now().await;
                stream.write_all(&[b' '; 5_000]).await.unwrap();
            }
            let mut answer = vec![0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"));
            // The rest of the answer; the connection is good for another request.
            let mut rest = Vec::new();
            while !String::from_utf8_lossy(&rest).contains("\r\n\r\n{") || !rest.ends_with(b"}") {
                assert_ne!(stream.read_buf(&mut rest).await.unwrap(), 0, "{}", String::from_utf8_lossy(&rest));
            }
        }
    }
}
