//! One call over every protocol: the same answer, the same refusal, the same headers in and out.
#![expect(clippy::unwrap_used, reason = "a broken house is a failed test")]

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use serde_json::{Value as Json, json};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{
    house::{ACME, GLOBEX, House, OPERATOR, contract},
    patience::ends,
    speak::{ALL, Heard, Tongue, connect_get, frames, hear},
};

const GUARDED: (&str, &str) = ("GuardedService/Mine", "/v1/mine");

#[tokio::test]
async fn one_call_is_the_same_call_in_every_protocol() {
    let house = House::open(&[]).await;
    let admin = house.token(ACME, &["admin"]);
    for tongue in ALL {
        let colour = if tongue == Tongue::Json { "Grpc-Metadata-X-Colour" } else { "x-colour" };
        let timeout = match tongue {
            Tongue::Json => ("x-request-timeout", "7"),
            Tongue::Connect | Tongue::ConnectProto => ("connect-timeout-ms", "7000"),
            _ => ("grpc-timeout", "7S"),
        };
        let headers = [("authorization", admin.as_str()), (colour, "red"), timeout, ("x-request-id", "mine-1")];
        let sent = json!({ "text": "x", "int64": "5", "inner": { "countOfThings": 3 } });
        let heard = house.say(tongue, GUARDED.0, GUARDED.1, &headers, &sent).await;
        assert_eq!((heard.http, heard.code), (200, 0), "{tongue:?} {heard:?}");
        let message = &heard.message;
        assert_eq!((&message["text"], &message["int64"]), (&json!("x"), &json!("5")), "{tongue:?}");
        assert_eq!(message["inner"]["countOfThings"], 3, "{tongue:?}");
        assert_eq!(heard.seen("x-tenant-id").as_deref(), Some(ACME), "{tongue:?}");
        assert_eq!(heard.seen("authorization").as_deref(), Some(&*admin), "{tongue:?}");
        assert_eq!(heard.seen("x-colour").as_deref(), Some("red"), "{tongue:?}");
        assert_eq!(heard.seen("x-request-id").as_deref(), Some("mine-1"), "{tongue:?}");
        let left = left(&heard.seen("grpc-timeout").unwrap());
        assert!(left > Duration::ZERO && left <= Duration::from_secs(7), "{tongue:?} {left:?}");
        let (initial, last) = match tongue {
            Tongue::Json => ("grpc-metadata-x-initial", heard.headers.get("grpc-trailer-x-final")),
            Tongue::Connect | Tongue::ConnectProto => ("x-initial", heard.headers.get("trailer-x-final")),
            _ => ("x-initial", heard.trailers.get("x-final")),
        };
        assert_eq!(heard.headers[initial], "yes", "{tongue:?}");
        assert_eq!(last.unwrap(), "done", "{tongue:?}");
        assert_eq!(heard.headers["x-request-id"], "mine-1", "{tongue:?}");
        assert!(heard.headers.contains_key("ratelimit"), "{tongue:?}");
        for name in ["x-tenant-id", "strict-transport-security", "set-cookie", "access-control-allow-origin"] {
            assert!(heard.headers.get(name).is_none(), "{tongue:?} {name}");
            assert!(heard.headers.get(format!("grpc-metadata-{name}")).is_none(), "{tongue:?} {name}");
            assert!(heard.trailers.get(name).is_none(), "{tongue:?} {name}");
        }
    }
}

#[tokio::test]
async fn one_refusal_is_the_same_refusal_in_every_protocol() {
    let house = House::open(&["--rate-ip-login", "1"]).await;
    let (admin, viewer) = (house.token(ACME, &["admin"]), house.token(ACME, &["nobody"]));
    let suspended = house.token(GLOBEX, &["admin"]);
    let create = ("EverythingService/Create", "/v1/things");
    let text = |text: &str| json!({ "text": text });
    for _ in 0..20 {
        house.post("/v1/enter", &[], &json!({})).await;
    }
    let token = |token: &str| vec![("authorization".to_owned(), token.to_owned())];
    let with = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let cases = [
        (GUARDED, vec![], json!({}), 401, 16, "TOKEN_REQUIRED"),
        (GUARDED, token(&viewer), json!({}), 403, 7, "PERMISSION_DENIED"),
        (GUARDED, token(&suspended), json!({}), 403, 7, "TENANT_SUSPENDED"),
        (GUARDED, token("Bearer x"), json!({}), 401, 16, "INVALID_TOKEN"),
        (("GuardedService/Rule", "/v1/rule"), token(&admin), json!({}), 403, 7, "OPERATOR_ONLY"),
        (("GuardedService/Enter", "/v1/enter"), vec![], json!({}), 429, 8, "RATE_LIMITED"),
        (create, vec![], text("missing"), 404, 5, "THING_NOT_FOUND"),
        (create, vec![], text("crash"), 500, 13, "INTERNAL"),
        (create, with("x-request-timeout", "0.2"), text("slow"), 504, 4, "DEADLINE_EXCEEDED"),
        (create, vec![], text("cancelled"), 504, 4, "DEADLINE_EXCEEDED"),
        (create, with("x-request-timeout", "soon"), json!({}), 400, 3, "INVALID_TIMEOUT"),
        (create, with("idempotency-key", "two words"), json!({}), 400, 3, "INVALID_IDEMPOTENCY_KEY"),
        (create, with("authority-of", "x"), text("missing"), 404, 5, "THING_NOT_FOUND"),
    ];
    for ((method, route), headers, message, http, code, reason) in cases {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut first: Option<Heard> = None;
        for tongue in ALL {
            let heard = house.say(tongue, method, route, &headers, &message).await;
            assert_eq!((heard.code, heard.reason.as_str()), (code, reason), "{tongue:?} {heard:?}");
            match tongue {
                Tongue::Json => assert_eq!(heard.http, http, "{tongue:?} {reason}"),
                Tongue::Connect | Tongue::ConnectProto => assert_eq!(heard.http, http, "{tongue:?} {reason}"),
                _ => assert_eq!(heard.http, 200, "{tongue:?} {reason}"),
            }
            assert!(!heard.text.contains("secret.rs"), "{tongue:?}");
            if reason == "RATE_LIMITED" {
                let wait: u64 = heard.headers["retry-after"].to_str().unwrap().parse().unwrap();
                assert!((30..=60).contains(&wait), "{tongue:?} {wait}");
            }
            let first = first.get_or_insert_with(|| house_less(&heard));
            assert_eq!((&heard.text, &heard.details), (&first.text, &first.details), "{tongue:?} {reason}");
        }
    }
}

#[tokio::test]
async fn a_methods_own_timeout_holds_in_every_protocol() {
    let house = House::open(&[]).await;
    let hurry = ("GuardedService/Hurry", "/v1/hurry");
    // A slow machine does not come through in time each time.
    let in_time = async |tongue, headers: &[(&str, &str)]| {
        ends("a call that comes through in time", async {
            loop {
                let heard = house.say(tongue, hurry.0, hurry.1, headers, &json!({ "text": "x" })).await;
                if heard.code != 4 {
                    break heard;
                }
            }
        })
        .await
    };
    for tongue in ALL {
        let heard = in_time(tongue, &[]).await;
        let left = left(&heard.seen("grpc-timeout").unwrap());
        assert!(left > Duration::ZERO && left <= Duration::from_millis(200), "{tongue:?} {left:?}");
        let heard = house.say(tongue, hurry.0, hurry.1, &[("grpc-timeout", "9S")], &json!({ "text": "slow" })).await;
        assert_eq!((heard.code, heard.reason.as_str()), (4, "DEADLINE_EXCEEDED"), "{tongue:?}: the client's is longer");
    }
    let heard = in_time(Tongue::Grpc, &[("grpc-timeout", "90m")]).await;
    assert!(left(&heard.seen("grpc-timeout").unwrap()) <= Duration::from_millis(90), "the client's is shorter");
}

/// What the other protocols are compared with.
fn house_less(heard: &Heard) -> Heard {
    Heard {
        http: heard.http,
        code: heard.code,
        text: heard.text.clone(),
        details: heard.details.clone(),
        reason: heard.reason.clone(),
        message: Json::Null,
        headers: http::HeaderMap::new(),
        trailers: http::HeaderMap::new(),
    }
}

#[tokio::test]
async fn what_nobody_serves_is_said_in_the_callers_protocol() {
    let house = House::open(&[]).await;
    for tongue in [Tongue::Grpc, Tongue::Web, Tongue::WebText] {
        for method in ["StreamService/None", "StreamService/Hidden", "NoService/X"] {
            let heard = house.say(tongue, method, "", &[], &json!({})).await;
            assert_eq!((heard.code, heard.reason.as_str()), (12, "METHOD_UNKNOWN"), "{tongue:?}");
        }
        let long = format!("/everything.v1.A/{}", "a".repeat(9_000));
        let kind = if tongue == Tongue::Grpc { "application/grpc" } else { "application/grpc-web" };
        if tongue != Tongue::WebText {
            let raw = house.exchange("POST", &long, &[("content-type", kind)], "").await;
            assert_eq!(hear(tongue, raw, None).reason, "URI_TOO_LONG", "{tongue:?}");
        }
    }
    let path = "/everything.v1.EverythingService/Create";
    let raw = house.exchange("POST", path, &[("content-type", "text/plain")], "x").await;
    assert_eq!((raw.http, raw.headers.contains_key("accept-post")), (415, true));
    let raw = house.exchange("GET", path, &[], "").await;
    assert_eq!((raw.http, &raw.headers["allow"]), (405, &"POST".parse().unwrap()));
    let raw = house.exchange("POST", path, &[("content-type", "application/grpc+json")], "").await;
    assert_eq!(raw.headers["grpc-status"], "12");
    let request = Request::post(path).header("content-type", "application/grpc");
    assert_eq!(house.send(request, "").await.status, 505);
    for (method, kind) in
        [("EverythingService/Create", "application/connect+json"), ("StreamService/Down", "application/json")]
    {
        let raw = house.exchange("POST", &format!("/everything.v1.{method}"), &[("content-type", kind)], "{}").await;
        let text = String::from_utf8_lossy(&raw.body).into_owned();
        assert!(text.contains("UNSUPPORTED_MEDIA_TYPE") && text.contains("unimplemented"), "{text}");
    }
    let headers = [("content-type", "application/json"), ("connect-protocol-version", "2")];
    let raw = house.exchange("POST", path, &headers, "{}").await;
    assert_eq!(hear(Tongue::Connect, raw, None).reason, "UNSUPPORTED_VERSION");
    let headers = [("content-type", "application/proto"), ("content-encoding", "br")];
    let raw = house.exchange("POST", path, &headers, "").await;
    let heard = hear(Tongue::ConnectProto, raw, None);
    assert_eq!((heard.http, heard.code, heard.reason.as_str()), (501, 12, "UNSUPPORTED_ENCODING"));
}

#[tokio::test]
async fn messages_that_are_too_large_or_cut_are_refused_in_every_protocol() {
    let house = House::open(&[]).await;
    let path = "/everything.v1.EverythingService/Create";
    let announced = Bytes::from_static(&[0, 0, 0x50, 0, 0]);
    for (tongue, kind) in [(Tongue::Grpc, "application/grpc"), (Tongue::Web, "application/grpc-web")] {
        let heard =
            hear(tongue, house.exchange("POST", path, &[("content-type", kind)], announced.clone()).await, None);
        assert_eq!((heard.code, heard.reason.as_str()), (8, "MESSAGE_TOO_LARGE"), "{tongue:?}");
        let cut = Bytes::from_static(&[0, 0, 0, 0, 9, 1]);
        let heard = hear(tongue, house.exchange("POST", path, &[("content-type", kind)], cut).await, None);
        assert_eq!((heard.code, heard.reason.as_str()), (3, "INVALID_BODY"), "{tongue:?}");
    }
    let raw = house.exchange("POST", path, &[("content-type", "application/grpc-web-text")], "!!!!").await;
    assert_eq!(hear(Tongue::WebText, raw, None).reason, "INVALID_BODY");
    let raw = house.exchange("POST", path, &[("content-type", "application/proto")], vec![0; 5 << 20]).await;
    assert_eq!(hear(Tongue::ConnectProto, raw, None).reason, "MESSAGE_TOO_LARGE");
    let raw = house.exchange("POST", path, &[("content-type", "application/json")], "{\"nope\":1}").await;
    let heard = hear(Tongue::Connect, raw, None);
    assert_eq!((heard.reason.as_str(), heard.text.as_str()), ("UNKNOWN_FIELD", "nope: is not a field"));
}

#[tokio::test]
async fn a_connect_get_is_for_methods_without_side_effects() {
    let house = House::open(&[]).await;
    let output = contract().method("/everything.v1.EverythingService/Get").unwrap().descriptor.output();
    let get = |method: &str, query: String| {
        let path = format!("/everything.v1.EverythingService/{method}?{query}");
        let house = &house;
        async move { house.exchange("GET", &path, &[], "").await }
    };
    let heard = hear(Tongue::Connect, get("Get", connect_get(br#"{"text":"x"}"#, "json")).await, Some(&output));
    assert_eq!(heard.message["text"], "x");
    let heard = hear(Tongue::ConnectProto, get("Get", connect_get(b"\x0a\x01x", "proto")).await, Some(&output));
    assert_eq!(heard.message["text"], "x");
    let plain = "encoding=json&message=%7B%22text%22%3A%22x%20y%22%7D".to_owned();
    assert_eq!(hear(Tongue::Connect, get("Get", plain).await, Some(&output)).message["text"], "x y");
    let zipped = format!("{}&compression=gzip", connect_get(&gzip(br#"{"text":"z"}"#), "json"));
    assert_eq!(hear(Tongue::Connect, get("Get", zipped).await, Some(&output)).message["text"], "z");
    for (query, reason) in [
        ("encoding=json&base64=1&message=*", "INVALID_QUERY"),
        ("encoding=json&connect=v2&message=%7B%7D", "INVALID_QUERY"),
        ("encoding=json&message=%7B", "INVALID_JSON"),
        ("encoding=json&compression=br&message=%7B%7D", "UNSUPPORTED_ENCODING"),
    ] {
        assert_eq!(hear(Tongue::Connect, get("Get", query.to_owned()).await, None).reason, reason, "{query}");
    }
    let raw = get("Create", connect_get(b"{}", "json")).await;
    let heard = hear(Tongue::Connect, raw, None);
    assert_eq!((heard.code, heard.reason.as_str()), (12, "METHOD_NOT_ALLOWED"));
    assert_eq!(heard.headers["allow"], "POST");
}

/// What a `grpc-timeout` that the edge passes on leaves.
pub(crate) fn left(timeout: &str) -> Duration {
    Duration::from_micros(timeout.strip_suffix('u').unwrap().parse().unwrap())
}

/// So many bytes of gzip, in which each has hundreds of spaces, without an end.
pub(crate) fn bomb(size: usize) -> Vec<u8> {
    let mut compress = flate2::Compress::new(flate2::Compression::fast(), false);
    let mut block = Vec::with_capacity(64 * 1024);
    compress.compress_vec(&[b' '; 1 << 20], &mut block, flate2::FlushCompress::Full).unwrap();
    assert!(compress.total_in() == 1 << 20 && block.len() < 10_000, "{} bytes", block.len());
    let mut bomb = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    while bomb.len() < size {
        bomb.extend(&block);
    }
    bomb
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn twenty_spellings_of_internal_headers_stay_outside() {
    let house = House::open(&[]).await;
    let admin = house.token(ACME, &["admin"]);
    let spoofed = [
        ("x-tenant-id", GLOBEX),
        ("x_tenant_id", GLOBEX),
        ("x-tenant_id", GLOBEX),
        ("x_tenant-id", GLOBEX),
        ("x-tenant-name", "globex"),
        ("x-tenon-roles", "admin"),
        ("x_tenon_roles", "admin"),
        ("x-tenon-tenant", GLOBEX),
        ("x-operator_key", OPERATOR),
        ("x_operator_key", OPERATOR),
        ("x-forwarded-for", "6.6.6.6"),
        ("x_forwarded_for", "6.6.6.6"),
        ("x-forwarded-host", "evil"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("x_real_ip", "6.6.6.6"),
        ("grpc-encoding-x", "gzip"),
        ("grpc_status", "0"),
        ("cookie", "a=b"),
        ("x_api_key", "k"),
        ("proxy-authorization", "x"),
        ("content_type", "x"),
        ("traceparent_", "x"),
        ("idempotency_key", "k"),
        ("grpc-metadata-x-tenant-id", GLOBEX),
        ("grpc-metadata-x_tenon_roles", "admin"),
    ];
    for tongue in ALL {
        for (name, value) in spoofed {
            // The tenant's plan allows two calls a second.
            house.clock.advance(Duration::from_secs(1));
            let headers = [("authorization", admin.as_str()), (name, value), (name, value)];
            let heard = house.say(tongue, GUARDED.0, GUARDED.1, &headers, &json!({})).await;
            assert_eq!(heard.code, 0, "{tongue:?} {name}: {heard:?}");
            assert_eq!(heard.seen("x-tenant-id").as_deref(), Some(ACME), "{tongue:?} {name}");
            assert_eq!(heard.seen("x-forwarded-for").as_deref(), Some("127.0.0.1"), "{tongue:?} {name}");
            let ours = ["x-tenant-id", "x-forwarded-for", "traceparent_"];
            assert!(ours.contains(&name) || heard.seen(name).is_none(), "{tongue:?} {name}");
            assert!(!heard.message.to_string().contains("6.6.6.6"), "{tongue:?} {name}");
        }
    }
}

#[tokio::test]
async fn real_grpc_clients_find_health_and_the_contract() {
    let house = House::open(&[]).await;
    let channel = tonic::transport::Endpoint::from_shared(house.uri("")).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    assert_eq!(health.check(ask("")).await.unwrap().into_inner().status, 1);
    assert_eq!(health.check(ask("everything.v1.StreamService")).await.unwrap().into_inner().status, 1);
    assert_eq!(health.check(ask("none")).await.unwrap_err().code(), tonic::Code::NotFound);
    let mut watch = health.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);

    let mut reflection = ServerReflectionClient::new(channel);
    let asked = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("everything.v1.StreamService.Down".to_owned()),
        MessageRequest::FileByFilename("google/protobuf/any.proto".to_owned()),
        MessageRequest::FileContainingSymbol("nothing.Here".to_owned()),
        MessageRequest::AllExtensionNumbersOfType("google.protobuf.MethodOptions".to_owned()),
    ];
    let asked = asked.map(|asked| ServerReflectionRequest { host: String::new(), message_request: Some(asked) });
    let answers = reflection.server_reflection_info(futures::stream::iter(asked)).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(|answer| answer.unwrap().message_response.unwrap()).collect().await;
    let MessageResponse::ListServicesResponse(services) = &answers[0] else { panic!("{answers:?}") };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"everything.v1.StreamService") && names.contains(&"grpc.health.v1.Health"), "{names:?}");
    let MessageResponse::FileDescriptorResponse(files) = &answers[1] else { panic!("{answers:?}") };
    let everything = files
        .file_descriptor_proto
        .iter()
        .map(|file| String::from_utf8_lossy(file))
        .find(|file| file.contains("StreamService"));
    let everything = everything.unwrap();
    assert!(everything.contains("Down") && !everything.contains("Hidden"), "what only the mesh may call is not shown");
    assert!(matches!(answers[2], MessageResponse::FileDescriptorResponse(_)));
    assert!(matches!(answers[3], MessageResponse::ErrorResponse(_)));
    assert!(matches!(answers[4], MessageResponse::AllExtensionNumbersResponse(_)));

    house.stop.cancel();
    let told = ends("the watch is told", watch.message()).await.unwrap().unwrap();
    assert_eq!(told.status, 2, "a drain is told before the stream ends");
}

#[tokio::test]
async fn a_browser_may_read_what_a_grpc_web_answer_says() {
    let house = House::open(&["--cors-origins", "https://app.example.com"]).await;
    let origin = ("origin", "https://app.example.com");
    let path = "/everything.v1.EverythingService/Create";
    let asks = [
        origin,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "x-grpc-web, x-colour, x-tenant-id"),
    ];
    let raw = house.exchange("OPTIONS", path, &asks, "").await;
    assert_eq!(raw.http, 204);
    let allowed = raw.headers["access-control-allow-headers"].to_str().unwrap();
    assert!(
        allowed.contains("x-grpc-web") && allowed.contains("x-colour") && !allowed.contains("x-tenant-id"),
        "{allowed}"
    );
    let headers = [origin, ("content-type", "application/grpc-web+proto")];
    let raw = house.exchange("POST", path, &headers, Bytes::from_static(&[0; 5])).await;
    assert_eq!(frames(&raw.body).last().unwrap().0, 0x80);
    let exposed = raw.headers["access-control-expose-headers"].to_str().unwrap();
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-initial"] {
        assert!(exposed.contains(name), "{exposed}");
    }
}
