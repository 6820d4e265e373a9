//! Tables of paths, queries and bodies, and round trips.

use std::sync::LazyLock;

use http::Method as Verb;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tonic_types::StatusExt;

use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};

use super::*;
use crate::{
    routes::{Found, Routes},
    testing::contract,
};

pub(super) fn routes() -> &'static Routes {
    static ROUTES: LazyLock<Routes> = LazyLock::new(|| Routes::load(&contract()).unwrap());
    &ROUTES
}

/// The request message as JSON, or `REASON field: why`.
fn request(routes: &Routes, verb: &str, uri: &str, body: &str) -> Result<Json, String> {
    let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
    let Found::Route(route) = routes.find(&Verb::from_bytes(verb.as_bytes()).unwrap(), path) else {
        panic!("{verb} {uri} has no route")
    };
    match route.binding.request(&route.template, path, query, json_media(body)) {
        Ok(frame) => Ok(serde_json::to_value(decoded(&route.method.descriptor.input(), &frame)).unwrap()),
        Err(refusal) => {
            let details = refusal.status.get_error_details();
            let violations = details.bad_request().unwrap().field_violations.iter();
            let fields = violations.map(|violation| format!("{}: {}", violation.field, violation.description));
            // A JSON object has no order that could be relied on.
            let mut fields: Vec<String> = fields.collect();
            fields.sort();
            Err(format!("{} {}", details.error_info().unwrap().reason, fields.join("; ")))
        }
    }
}

/// The message of a frame, by the library that this module does without.
fn decoded(descriptor: &MessageDescriptor, frame: &[u8]) -> DynamicMessage {
    assert_eq!(frame[..5], [&[0][..], &u32::try_from(frame.len() - 5).unwrap().to_be_bytes()].concat());
    DynamicMessage::decode(descriptor.clone(), &frame[5..]).unwrap()
}

pub(super) fn json_media(body: impl AsRef<[u8]>) -> Media {
    Media { kind: "application/json".to_owned(), data: Bytes::copy_from_slice(body.as_ref()) }
}

pub(super) fn check(verb: &str, uri: &str, body: &str, expected: Result<Json, &str>) {
    assert_eq!(request(routes(), verb, uri, body), expected.map_err(str::to_owned), "{verb} {uri} {body}");
}

#[test]
fn a_body_of_any_media_goes_through_as_it_is() {
    let Found::Route(route) = routes().find(&Verb::POST, "/v1/hooks/a") else { panic!("the route is there") };
    assert!(route.binding.takes_any_media() && route.binding.gives_any_media());
    let sent = Media { kind: "text/plain".to_owned(), data: Bytes::from_static(b"{not json\xff") };
    let message = route.binding.request(&route.template, "/v1/hooks/a", Some("inner.text=b"), sent).unwrap();
    let message = decoded(&route.method.descriptor.input(), &message);
    let body = message.get_field_by_name("body").unwrap().into_owned();
    let inner = message.get_field_by_name("inner").unwrap().into_owned();
    assert_eq!(inner.as_message().unwrap().get_field_by_name("text").unwrap().as_str(), Some("b"));
    let answer = route.binding.response(&body.as_message().unwrap().encode_to_vec().into()).unwrap();
    assert_eq!(answer, Media { kind: "text/plain".to_owned(), data: Bytes::from_static(b"{not json\xff") });
    assert!(!routes().iter().any(|route| route.label.starts_with("GET") && route.binding.takes_any_media()));
}

#[test]
fn paths_fill_their_fields() {
    check("GET", "/v1/things/a%20b", "", Ok(json!({"text": "things/a b"})));
    check("GET", "/v1/things/a%2Fb", "", Ok(json!({"text": "things/a%2Fb"})));
    check("GET", "/v1/things/a%2Fb/by/7", "", Ok(json!({"inner": {"text": "a/b"}, "int32": 7})));
    check("GET", "/v1/files/a/b.txt:read", "", Ok(json!({"text": "a/b.txt"})));
    check("GET", "/v1/things/a:b", "", Ok(json!({"text": "things/a:b"})));
    check("POST", "/v1/things/a:stop", "{}", Ok(json!({"text": "things/a"})));
    check("POST", "/v1/things/a:stop", "", Ok(json!({"text": "things/a"})));
    check("POST", "/v1/things/a:stop", r#"{"text":"things/b"}"#, Ok(json!({"text": "things/a"})));
    check(
        "PATCH",
        "/v1/things/a",
        r#"{"text":"b","countOfThings":2}"#,
        Ok(json!({"inner": {"text": "things/a", "countOfThings": 2}})),
    );
    check("GET", "/v1/things/a/by/x", "", Err("INVALID_PATH int32: must be a 32-bit integer"));
    check("GET", "/v1/things/%ff/by/7", "", Err("INVALID_PATH inner.text: is not percent-encoded UTF-8"));
}

#[test]
fn queries_fill_their_fields() {
    for (query, expected) in [
        ("text=a+b%2Bc", Ok(json!({"text": "a b+c"}))),
        ("text=", Ok(json!({}))),
        ("text", Ok(json!({}))),
        ("&&flag=true&", Ok(json!({"flag": true}))),
        ("inner.text=x&inner.countOfThings=3", Ok(json!({"inner": {"text": "x", "countOfThings": 3}}))),
        ("inner.count_of_things=3", Ok(json!({"inner": {"countOfThings": 3}}))),
        ("texts=a&texts=b", Ok(json!({"texts": ["a", "b"]}))),
        ("numbers=1&numbers=-2", Ok(json!({"numbers": ["1", "-2"]}))),
        ("colour=RED&colours=2&colours=GREEN", Ok(json!({"colour": "RED", "colours": ["GREEN", "GREEN"]}))),
        ("colour=77", Ok(json!({"colour": 77}))),
        (
            "int64=-9223372036854775808&uint64=18446744073709551615",
            Ok(json!({"int64": "-9223372036854775808", "uint64": "18446744073709551615"})),
        ),
        ("double=1e3&float=-Infinity", Ok(json!({"double": 1000.0, "float": "-Infinity"}))),
        ("bytes=-_8", Ok(json!({"bytes": "+/8="}))),
        ("bytes=%2B/8=", Ok(json!({"bytes": "+/8="}))),
        (
            "wrappedText=&wrappedInt=5&wrappedFlag=false",
            Ok(json!({"wrappedText": "", "wrappedInt": "5", "wrappedFlag": false})),
        ),
        ("at=2026-01-31T12:00:00.5Z&took=1.5s", Ok(json!({"at": "2026-01-31T12:00:00.500Z", "took": "1.500s"}))),
        ("updateMask=text,inner.countOfThings", Ok(json!({"updateMask": "text,inner.countOfThings"}))),
        ("maybeNumber=0", Ok(json!({"maybeNumber": 0}))),
        ("left=x", Ok(json!({"left": "x"}))),
        ("nope=1", Err("UNKNOWN_FIELD nope: is not a field")),
        ("inner.nope=1", Err("UNKNOWN_FIELD inner.nope: is not a field")),
        ("text.x=1", Err("UNKNOWN_FIELD text.x: is not a field")),
        ("texts.x=1", Err("UNKNOWN_FIELD texts.x: is not a field")),
        ("inners.text=1", Err("UNKNOWN_FIELD inners.text: is not a field")),
        ("inner=x", Err("INVALID_FIELD inner: cannot stand in a query as a whole")),
        ("counts=1", Err("INVALID_FIELD counts: cannot stand in a query as a whole")),
        ("details=1", Err("INVALID_FIELD details: cannot stand in a query as a whole")),
        ("int32=1.5", Err("INVALID_FIELD int32: must be a 32-bit integer")),
        ("int32=2147483648", Err("INVALID_FIELD int32: must be a 32-bit integer")),
        ("uint32=-1", Err("INVALID_FIELD uint32: must be a 32-bit integer that is not negative")),
        ("flag=1", Err("INVALID_FIELD flag: must be true or false")),
        ("double=inf", Err("INVALID_FIELD double: must be a number, NaN, Infinity or -Infinity")),
        ("float=1e39", Err("INVALID_FIELD float: must be a 32-bit number, NaN, Infinity or -Infinity")),
        ("colour=BLUE", Err("INVALID_FIELD colour: must be one of COLOUR_UNSPECIFIED, RED, GREEN")),
        ("at=yesterday", Err("INVALID_FIELD at: must be an RFC 3339 time like 2026-01-31T12:00:00Z")),
        ("took=5", Err("INVALID_FIELD took: must be seconds like 1.5s")),
        ("bytes=*", Err("INVALID_FIELD bytes: must be base64")),
        ("int32=1&int32=2", Err("INVALID_FIELD int32: is given more than once")),
        ("left=x&right=1", Err("INVALID_FIELD right: left is set already")),
        ("left=x&third.text=1", Err("INVALID_FIELD third.text: left is set already")),
        ("text=%ff", Err("INVALID_QUERY text=%ff: is not percent-encoded UTF-8")),
    ] {
        check("GET", &format!("/v1/things?{query}"), "", expected);
    }
    check("GET", "/v1/things/a?text=b", "", Err("UNKNOWN_FIELD text: is taken from the path"));
    check("POST", "/v1/things?text=b", "{}", Err("UNKNOWN_FIELD text: this route takes its fields from the body"));
    check("PATCH", "/v1/things/a?flag=true", "{}", Ok(json!({"inner": {"text": "things/a"}, "flag": true})));
    check(
        "PATCH",
        "/v1/things/a?inner.countOfThings=1",
        "{}",
        Err("UNKNOWN_FIELD inner.countOfThings: is taken from the body"),
    );
    let deep = vec!["inner"; 40].join(".");
    check(
        "GET",
        &format!("/v1/things?{deep}.text=x"),
        "",
        Err(&format!("UNKNOWN_FIELD {}: is nested too deeply", &format!("{deep}.text")[..100])),
    );
}

#[test]
fn bodies_follow_the_proto3_mapping() {
    for (body, expected) in [
        (r#"{"int64":"5","uint64":7}"#, Ok(json!({"int64": "5", "uint64": "7"}))),
        (r#"{"wrapped_text":"a","maybe_number":0}"#, Ok(json!({"wrappedText": "a", "maybeNumber": 0}))),
        (r#"{"text":null,"wrappedInt":null,"inners":null}"#, Ok(json!({}))),
        (r#"{"value":null}"#, Ok(json!({"value": null}))),
        (r#"{"double":"NaN","float":1.5,"int32":1e2}"#, Ok(json!({"double": "NaN", "float": 1.5, "int32": 100}))),
        (
            r#"{"counts":{"a":"1"},"byNumber":{"7":{"text":"x"}}}"#,
            Ok(json!({"counts": {"a": "1"}, "byNumber": {"7": {"text": "x"}}})),
        ),
        (
            r#"{"details":{"a":[1,{"b":null}]},"list":[1,"x"]}"#,
            Ok(json!({"details": {"a": [1.0, {"b": null}]}, "list": [1.0, "x"]})),
        ),
        (
            r#"{"any":{"@type":"type.googleapis.com/everything.v1.Inner","text":"x"}}"#,
            Ok(json!({"any": {"@type": "type.googleapis.com/everything.v1.Inner", "text": "x"}})),
        ),
        (
            r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"1s"}}"#,
            Ok(json!({"any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}})),
        ),
        ("", Ok(json!({}))),
        ("{", Err("INVALID_JSON : the body is not JSON, see line 1 column 1")),
        ("{} x", Err("INVALID_JSON : the body is not JSON, see line 1 column 4")),
        (r#"{"text":"a",}"#, Err("INVALID_JSON : the body is not JSON, see line 1 column 13")),
        ("[]", Err("INVALID_FIELD : must be an object")),
        ("null", Err("INVALID_FIELD : must be an object")),
        (r#"{"nope":1}"#, Err("UNKNOWN_FIELD nope: is not a field")),
        (r#"{"inner":{"inner":{"nope":1}}}"#, Err("UNKNOWN_FIELD inner.inner.nope: is not a field")),
        (
            r#"{"int32":"x","flag":1,"text":5}"#,
            Err("INVALID_FIELD flag: must be true or false; int32: must be a 32-bit integer; text: must be a string"),
        ),
        (
            r#"{"inners":[{},{"count_of_things":"x"}]}"#,
            Err("INVALID_FIELD inners[1].count_of_things: must be a 32-bit integer"),
        ),
        (r#"{"texts":["a",1]}"#, Err("INVALID_FIELD texts[1]: must be a string")),
        (r#"{"texts":"a"}"#, Err("INVALID_FIELD texts: must be an array")),
        (r#"{"counts":{"a":"x"}}"#, Err("INVALID_FIELD counts.a: must be a 64-bit integer")),
        (r#"{"byNumber":{"x":{}}}"#, Err("INVALID_FIELD byNumber.x: as a key must be a 32-bit integer")),
        (r#"{"colour":"BLUE"}"#, Err("INVALID_FIELD colour: must be one of COLOUR_UNSPECIFIED, RED, GREEN")),
        (r#"{"at":"noon"}"#, Err("INVALID_FIELD at: must be an RFC 3339 time like 2026-01-31T12:00:00Z")),
        (r#"{"inner":5}"#, Err("INVALID_FIELD inner: must be an object")),
        (r#"{"left":"a","right":1}"#, Err("INVALID_FIELD right: left is set already")),
        (r#"{"any":{"@type":"x/none.Such"}}"#, Err("INVALID_FIELD any: must be an object with a known @type")),
        (r#"{"bytes":"*"}"#, Err("INVALID_FIELD bytes: must be base64")),
    ] {
        check("POST", "/v1/things", body, expected);
    }
    check("PUT", "/v1/texts", r#"["a","b"]"#, Ok(json!({"texts": ["a", "b"]})));
    check("PUT", "/v1/texts", r#"["a"],"text":"b""#, Err("INVALID_JSON : the body is not JSON, see line 1 column 6"));
    check("PUT", "/v1/texts", r#"[1]"#, Err("INVALID_FIELD texts[0]: must be a string"));
    check("GET", "/v1/things", "{}", Err("UNEXPECTED_BODY : this route takes no body"));
}

#[test]
fn depth_is_bounded_in_json_and_on_the_wire() {
    let nest = |depth: usize| format!(r#"{{"value":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let refused = Err("JSON_TOO_DEEP : the body is nested too deeply");
    check("POST", "/v1/things", &nest(100), refused.clone());
    check("POST", "/v1/things", &nest(99), refused.clone());
    check("POST", "/v1/things", &nest(60), refused.clone());
    check("POST", "/v1/things", &nest(5000), refused);
    assert!(request(routes(), "POST", "/v1/things", &nest(20)).is_ok());
    check("POST", "/v1/things", r#"{"text":"[[[[\"[[[["}"#, Ok(json!({"text": "[[[[\"[[[["})));
}

#[test]
fn responses_write_defaults_and_can_be_one_field() {
    let routes = routes();
    let answer = |verb: &str, path: &str, json: Json| {
        let Found::Route(route) = routes.find(&verb.parse().unwrap(), path) else { panic!("{path}") };
        let input = route.method.descriptor.output();
        let bytes = DynamicMessage::deserialize(input, json).unwrap().encode_to_vec();
        String::from_utf8(route.binding.response(&bytes.into()).unwrap().data.into()).unwrap()
    };
    let full =
        json!({"text": "", "int64": 5, "flag": false, "colour": 1, "inner": {"text": "x"}, "inners": [{"text": "y"}]});
    let written = |json: Json| serde_json::from_str::<Json>(&answer("GET", "/v1/things/x", json)).unwrap();
    let whole = written(full.clone());
    assert_eq!((&whole["int64"], &whole["colour"], &whole["inner"]["text"]), (&json!("5"), &json!("RED"), &json!("x")));
    assert_eq!((&whole["text"], &whole["flag"], &whole["texts"]), (&json!(""), &json!(false), &json!([])));
    assert!(whole.get("at").is_none(), "a message that is not set has no value to write: {whole}");
    let value = answer("GET", "/v1/things/x", json!({ "value": { "one": 1, "half": 0.5, "big": 1e300 } }));
    for part in [r#""big":1e+300"#, r#""half":0.5"#, r#""one":1"#] {
        assert!(value.contains(part), "{value}");
    }
    let inners: Json = serde_json::from_str(&answer("GET", "/v1/things", full.clone())).unwrap();
    assert_eq!(inners[0]["text"], "y");
    let inner: Json = serde_json::from_str(&answer("PATCH", "/v1/things/x", full.clone())).unwrap();
    assert_eq!(inner["text"], "x");
    assert_eq!(answer("PUT", "/v1/texts", full), r#""5""#);
    assert_eq!(answer("GET", "/v1/things", json!({})), "[]");
    assert_eq!(answer("PUT", "/v1/texts", json!({})), r#""0""#);
    let Found::Route(route) = routes.find(&Verb::GET, "/v1/things/x") else { panic!() };
    assert_eq!(route.binding.response(&Bytes::from_static(b"\xff")).unwrap_err().status.code(), Code::Internal);
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

proptest! {
    #[test]
    fn any_text_survives_path_query_and_body(text in "\\PC{1,40}", number: i64, real in proptest::num::f64::ANY) {
        let routes = routes();
        let path = request(routes, "GET", &format!("/v1/things/{}/by/1", encode(&text)), "").unwrap();
        prop_assert_eq!(&path["inner"]["text"], &json!(text));
        let query = request(routes, "GET", &format!("/v1/things?text={}&numbers={number}", encode(&text)), "").unwrap();
        prop_assert_eq!(&query["text"], &json!(text));
        prop_assert_eq!(&query["numbers"][0], &json!(number.to_string()));
        let sent = json!({"text": text, "int64": number.to_string(), "numbers": [number.to_string()]});
        let body = request(routes, "POST", "/v1/things", &sent.to_string()).unwrap();
        prop_assert_eq!(&body["text"], &json!(text));
        prop_assert_eq!(&body["numbers"][0], &json!(number.to_string()));
        if real.is_finite() {
            let query = request(routes, "GET", &format!("/v1/things?double={}", encode(&format!("{real:e}"))), "").unwrap();
            prop_assert_eq!(query.get("double").and_then(Json::as_f64).unwrap_or_default(), real);
        }
    }

    #[test]
    fn nothing_that_is_sent_panics(path in "/v1/[ -~]{0,30}", query in "[ -~]{0,40}", body in proptest::collection::vec(any::<u8>(), 0..60)) {
        let routes = routes();
        for verb in [Verb::GET, Verb::POST, Verb::PATCH, Verb::PUT] {
            if let Found::Route(route) = routes.find(&verb, &path) {
                let _answer = route.binding.request(&route.template, &path, Some(&query), json_media(&body));
            }
        }
    }

    #[test]
    fn bytes_and_json_are_the_same_message(int32: i32, flag: bool, texts in proptest::collection::vec("\\PC{0,9}", 0..4), seconds in 0_i64..4_000_000_000, nanos in 0_i32..1_000_000_000) {
        let routes = routes();
        let Found::Route(route) = routes.find(&Verb::POST, "/v1/things") else { panic!() };
        let mut message = DynamicMessage::new(route.method.descriptor.input());
        message.set_field_by_name("int32", prost_reflect::Value::I32(int32));
        message.set_field_by_name("flag", prost_reflect::Value::Bool(flag));
        message.set_field_by_name("texts", prost_reflect::Value::List(texts.into_iter().map(prost_reflect::Value::String).collect()));
        let at = message.get_field_by_name_mut("at").unwrap().as_message_mut().unwrap();
        at.set_field_by_name("seconds", prost_reflect::Value::I64(seconds));
        at.set_field_by_name("nanos", prost_reflect::Value::I32(nanos));
        let bytes = Bytes::from(message.encode_to_vec());
        let json = route.binding.response(&bytes).unwrap();
        let back = route.binding.request(&route.template, "/v1/things", None, json).unwrap();
        let back = decoded(&route.method.descriptor.input(), &back);
        prop_assert!(back.encode_to_vec() == message.encode_to_vec(), "{}", serde_json::to_string(&back).unwrap());
    }
}
