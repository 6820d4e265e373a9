//! The JSON mapping of proto3, to the letter (protobuf.dev/programming-guides/json).

use http::Method as Verb;
use serde_json::{Value as Json, json};

use super::tests::{check, json_media, routes};
use crate::routes::Found;

const ANY: &str = "type.googleapis.com/google.protobuf";
const INNER: &str = "type.googleapis.com/everything.v1.Inner";

/// Bodies, with the message as the library writes it or with the refusal.
fn hold<const N: usize>(table: [(&str, Result<Json, &str>); N]) {
    for (body, expected) in table {
        check("POST", "/v1/things", &body.replace("ANY", ANY).replace("INNER", INNER), expected);
    }
}

#[test]
fn numbers_are_exact_in_every_notation() {
    hold([
        // Integers in every notation, exact to the last digit.
        (
            r#"{"int64":9007199254740993,"uint64":"18446744073709551615"}"#,
            Ok(json!({"int64": "9007199254740993", "uint64": "18446744073709551615"})),
        ),
        (
            r#"{"int64":"1e3","int32":1.0,"uint32":"5.0","sint32":-1.5e1}"#,
            Ok(json!({"int64": "1000", "int32": 1, "uint32": 5, "sint32": -15})),
        ),
        (r#"{"int32":2147483648}"#, Err("INVALID_FIELD int32: must be a 32-bit integer")),
        (r#"{"int32":0.5}"#, Err("INVALID_FIELD int32: must be a 32-bit integer")),
        (r#"{"int32":""}"#, Err("INVALID_FIELD int32: must be a 32-bit integer")),
        (r#"{"int32":" 1"}"#, Err("INVALID_FIELD int32: must be a 32-bit integer")),
        (r#"{"int32":true}"#, Err("INVALID_FIELD int32: must be a 32-bit integer")),
        // Reals.
        (r#"{"double":"Infinity","float":"-Infinity"}"#, Ok(json!({"double": "Infinity", "float": "-Infinity"}))),
        (r#"{"double":"1.5","float":"2e0"}"#, Ok(json!({"double": 1.5, "float": 2.0}))),
        (r#"{"double":1e999}"#, Err("INVALID_FIELD double: must be a number, NaN, Infinity or -Infinity")),
        (r#"{"double":"inf"}"#, Err("INVALID_FIELD double: must be a number, NaN, Infinity or -Infinity")),
        (r#"{"float":3.5e38}"#, Err("INVALID_FIELD float: must be a 32-bit number, NaN, Infinity or -Infinity")),
        (r#"{"double":NaN}"#, Err("INVALID_JSON : the body is not JSON, see line 1 column 11")),
        // Enums by name, by number, and by a number that has no name.
        (r#"{"colour":1,"colours":["GREEN",2,9]}"#, Ok(json!({"colour": "RED", "colours": ["GREEN", "GREEN", 9]}))),
        (r#"{"colour":"red"}"#, Err("INVALID_FIELD colour: must be one of COLOUR_UNSPECIFIED, RED, GREEN")),
        (r#"{"colour":"1"}"#, Err("INVALID_FIELD colour: must be one of COLOUR_UNSPECIFIED, RED, GREEN")),
    ]);
}

#[test]
fn a_field_is_given_once_and_null_is_its_absence() {
    hold([
        // A field in both spellings is a field twice.
        (r#"{"maybeNumber":1,"maybe_number":2}"#, Err("INVALID_FIELD maybe_number: is given more than once")),
        (r#"{"text":"a","text":"a"}"#, Err("INVALID_FIELD text: is given more than once")),
        (r#"{"@odd name":"a"}"#, Ok(json!({"@odd name": "a"}))),
        (r#"{"odd_name":"a"}"#, Ok(json!({"@odd name": "a"}))),
        (r#"{"oddName":"a"}"#, Err("UNKNOWN_FIELD oddName: is not a field")),
        // Null is absence, but where it is a value.
        (r#"{"left":null,"right":1}"#, Ok(json!({"right": 1}))),
        (r#"{"left":"a","right":null}"#, Ok(json!({"left": "a"}))),
        (r#"{"nothing":null}"#, Ok(json!({"nothing": null}))),
        (r#"{"nothing":null,"something":1}"#, Err("INVALID_FIELD something: nothing is set already")),
        (r#"{"something":null}"#, Ok(json!({"something": null}))),
        (r#"{"texts":null,"counts":null,"details":null}"#, Ok(json!({}))),
        (r#"{"texts":["a",null]}"#, Err("INVALID_FIELD texts[1]: must be a string")),
        (r#"{"inners":[null]}"#, Err("INVALID_FIELD inners[0]: must be an object")),
        (r#"{"counts":{"a":null}}"#, Err("INVALID_FIELD counts.a: must be a 64-bit integer")),
        (r#"{"values":[null,1,"a",[],{}]}"#, Ok(json!({"values": [null, 1.0, "a", [], {}]}))),
        (r#"{"wrappedText":null,"at":null,"any":null}"#, Ok(json!({}))),
    ]);
}

#[test]
fn maps_bytes_and_times_have_their_own_forms() {
    hold([
        // Maps with every kind of key, each once.
        (
            r#"{"byFlag":{"true":"a","false":""},"byBig":{"18446744073709551615":"AQ"},"bySigned":{"-5":"1970-01-01T00:00:00Z"}}"#,
            Ok(json!({
                "byFlag": {"true": "a", "false": ""}, "byBig": {"18446744073709551615": "AQ=="},
                "bySigned": {"-5": "1970-01-01T00:00:00Z"},
            })),
        ),
        (
            r#"{"byFixed":{"7":1.5},"byName":{"a":"RED","b":2}}"#,
            Ok(json!({"byFixed": {"7": 1.5}, "byName": {"a": "RED", "b": "GREEN"}})),
        ),
        (r#"{"byFlag":{"1":"a"}}"#, Err("INVALID_FIELD byFlag.1: as a key must be true or false")),
        (r#"{"counts":{"a":1,"a":2}}"#, Err("INVALID_FIELD counts.a: is given more than once")),
        (r#"{"counts":{"a":1,"\u0061":2}}"#, Err("INVALID_FIELD counts.a: is given more than once")),
        (r#"{"counts":[]}"#, Err("INVALID_FIELD counts: must be an object")),
        // Bytes in both alphabets, with padding and without.
        (r#"{"bytes":"-_8"}"#, Ok(json!({"bytes": "+/8="}))),
        (r#"{"bytes":"+/8="}"#, Ok(json!({"bytes": "+/8="}))),
        (r#"{"bytes":"a"}"#, Err("INVALID_FIELD bytes: must be base64")),
        // Times, spans, masks.
        (r#"{"at":"2026-01-31T13:00:00.000000001+01:00"}"#, Ok(json!({"at": "2026-01-31T12:00:00.000000001Z"}))),
        (
            r#"{"at":"10000-01-01T00:00:00Z"}"#,
            Err("INVALID_FIELD at: must be an RFC 3339 time like 2026-01-31T12:00:00Z"),
        ),
        (r#"{"took":"-0.5s"}"#, Ok(json!({"took": "-0.500s"}))),
        (r#"{"took":"315576000001s"}"#, Err("INVALID_FIELD took: must be seconds like 1.5s")),
        (r#"{"updateMask":"inner.countOfThings,text"}"#, Ok(json!({"updateMask": "inner.countOfThings,text"}))),
        (
            r#"{"updateMask":"count_of"}"#,
            Err("INVALID_FIELD updateMask: must be field paths in lowerCamelCase, separated by commas"),
        ),
    ]);
}

#[test]
fn any_and_structs_hold_what_they_say() {
    hold([
        // Any: known types have `value`; the type may come last.
        (
            r#"{"any":{"value":"1.5s","@type":"ANY.Duration"}}"#,
            Ok(json!({"any": {"@type": format!("{ANY}.Duration"), "value": "1.500s"}})),
        ),
        (
            r#"{"any":{"@type":"ANY.Int64Value","value":"5"}}"#,
            Ok(json!({"any": {"@type": format!("{ANY}.Int64Value"), "value": "5"}})),
        ),
        (
            r#"{"any":{"@type":"ANY.Struct","value":{"a":1}}}"#,
            Ok(json!({"any": {"@type": format!("{ANY}.Struct"), "value": {"a": 1.0}}})),
        ),
        (
            r#"{"any":{"@type":"ANY.Any","value":{"@type":"ANY.BoolValue","value":true}}}"#,
            Ok(json!({"any": {
                "@type": format!("{ANY}.Any"), "value": {"@type": format!("{ANY}.BoolValue"), "value": true},
            }})),
        ),
        (r#"{"any":{"text":"x","@type":"INNER"}}"#, Ok(json!({"any": {"@type": INNER, "text": "x"}}))),
        (r#"{"any":{"nope":"x","@type":"INNER"}}"#, Err("UNKNOWN_FIELD any.nope: is not a field")),
        (r#"{"any":{"text":"x"}}"#, Err("INVALID_FIELD any: must be an object with a known @type")),
        (
            r#"{"any":{"@type":"INNER","@type":"INNER"}}"#,
            Err("INVALID_FIELD any: must be an object with a known @type"),
        ),
        (r#"{"any":{"@type":"ANY.Duration","value":"1s","more":1}}"#, Err("UNKNOWN_FIELD any.more: is not a field")),
        (r#"{"any":5}"#, Err("INVALID_FIELD any: must be an object with a known @type")),
        // Structs.
        (r#"{"details":{"a":1,"a":2}}"#, Err("INVALID_FIELD details.a: is given more than once")),
        (r#"{"details":5,"list":{}}"#, Err("INVALID_FIELD details: must be an object; list: must be an array")),
        (r#"{"value":1e999}"#, Err("INVALID_FIELD value: must be a number that 64 bits can hold")),
        (r#"{"empty":{}}"#, Ok(json!({"empty": {}}))),
        (r#"{"empty":{"a":1}}"#, Err("UNKNOWN_FIELD empty.a: is not a field")),
    ]);
}

#[test]
fn texts_are_json_and_old_messages_are_whole() {
    hold([
        (r#"{"text":"\ud83d\ude00\u00e9\/"}"#, Ok(json!({"text": "\u{1f600}\u{e9}/"}))),
        (r#"{"text":"\ud83d"}"#, Err("INVALID_JSON : the body is not JSON, see line 1 column 16")),
        (r#"{"text":"\ude00"}"#, Err("INVALID_JSON : the body is not JSON, see line 1 column 16")),
        ("{\"text\":\"a\nb\"}", Err("INVALID_JSON : the body is not JSON, see line 1 column 11")),
        (r#"{"text":"\x"}"#, Err("INVALID_JSON : the body is not JSON, see line 1 column 11")),
        (r#"{"int32":01}"#, Err("INVALID_JSON : the body is not JSON, see line 1 column 12")),
        (r#"{"flag":truee}"#, Err("INVALID_JSON : the body is not JSON, see line 1 column 13")),
        (r#"{"text":"a"}{}"#, Err("INVALID_JSON : the body is not JSON, see line 1 column 13")),
        ("\u{feff}{}", Err("INVALID_JSON : the body is not JSON, see line 1 column 1")),
        // What proto2 has more of.
        (
            r#"{"old":{"name":"a","part":{"text":"x","bit":[{"on":true},{}]},"shade":"DARK","[old.v1.nick_name]":"al"}}"#,
            Ok(json!({"old": {
                "name": "a", "part": {"text": "x", "bit": [{"on": true}, {}]}, "shade": "DARK", "[old.v1.nick_name]": "al",
            }})),
        ),
    ]);
    let Found::Route(route) = routes().find(&Verb::POST, "/v1/things") else { panic!("the route is there") };
    let bad = json_media(b"{\"text\":\"\xff\"}");
    assert!(route.binding.request(&route.template, "/v1/things", None, bad).is_err(), "not UTF-8");
}
