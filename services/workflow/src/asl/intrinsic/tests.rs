//! Every intrinsic function by table.

use std::cell::Cell;

use proptest::prelude::*;
use serde_json::json;

use super::*;

struct Sample(Value, Cell<u64>);

impl Source for Sample {
    fn find(&self, path: &Path) -> Option<Value> {
        path.find(&self.0).ok().map(std::borrow::Cow::into_owned)
    }

    fn random(&self) -> u64 {
        self.1.set(self.1.get() + 1);
        functions::mix(self.1.get())
    }
}

fn evaluate(text: &str) -> Result<Value, String> {
    let source = Sample(
        json!({"name": "Ada", "n": 3, "list": [1, 2, 3, 2], "o": {"b": 1, "a": [true, null]}, "json": "{\"x\":1}"}),
        Cell::new(0),
    );
    Call::parse(text)?.evaluate(&source).map_err(|broken| match broken {
        Broken::Missing(path) => format!("missing {path}"),
        Broken::Refused(why) => why,
    })
}

#[test]
fn functions_give_what_step_functions_gives() {
    let cases = [
        ("States.Format('Hello, {}!', $.name)", json!("Hello, Ada!")),
        ("States.Format('{} {}', $.o, $.n)", json!("{\"b\":1,\"a\":[true,null]} 3")),
        (r"States.Format('\{\} it\'s {} \\', 1)", json!(r"{} it's 1 \")),
        ("States.Format('{}', States.Format('{}-{}', 1, true))", json!("1-true")),
        ("States.StringToJson($.json)", json!({"x": 1})),
        ("States.JsonToString($.o)", json!("{\"b\":1,\"a\":[true,null]}")),
        ("States.Array('a', 1, $.n, null)", json!(["a", 1, 3, null])),
        ("States.Array()", json!([])),
        ("States.ArrayPartition($.list, 3)", json!([[1, 2, 3], [2]])),
        ("States.ArrayContains($.list, 2.0)", json!(true)),
        ("States.ArrayContains($.list, 9)", json!(false)),
        ("States.ArrayRange(1, 9, 2)", json!([1, 3, 5, 7, 9])),
        ("States.ArrayRange(3, 1, -1)", json!([3, 2, 1])),
        ("States.ArrayGetItem($.list, 1)", json!(2)),
        ("States.ArrayLength($.list)", json!(4)),
        ("States.ArrayUnique($.list)", json!([1, 2, 3])),
        ("States.Base64Encode('Data to encode')", json!("RGF0YSB0byBlbmNvZGU=")),
        ("States.Base64Decode('RGVjb2RlZCBkYXRh')", json!("Decoded data")),
        ("States.Hash('input data', 'SHA-1')", json!("aaff4a450a104cd177d28d18d74485e8cae074b7")),
        ("States.Hash('a', 'MD5')", json!("0cc175b9c0f1b6a831c399e269772661")),
        ("States.JsonMerge($.o, States.StringToJson($.json), false)", json!({"b": 1, "a": [true, null], "x": 1})),
        ("States.MathAdd($.n, -1)", json!(2)),
        ("States.StringSplit('1,2,,3', ',')", json!(["1", "2", "3"])),
        ("States.StringSplit('This.is+a,test', '.+,')", json!(["This", "is", "a", "test"])),
        ("States.ArrayLength($.list[?(@ > 1)])", json!(3)),
    ];
    for (text, expected) in cases {
        assert_eq!(evaluate(text), Ok(expected), "{text}");
    }
    let random = evaluate("States.MathRandom(1, 5)").unwrap().as_i64().unwrap();
    assert!((1..5).contains(&random));
    assert_eq!(evaluate("States.MathRandom(1, 999, 7)"), evaluate("States.MathRandom(1, 999, 7)"));
    assert_eq!(evaluate("States.UUID()").unwrap().as_str().map(str::len), Some(36));
}

#[test]
fn bad_arguments_are_refused() {
    for text in [
        "States.Format('{}')",
        "States.Format('x', 1)",
        "States.Format('{x}', 1)",
        "States.StringToJson('{')",
        "States.ArrayPartition($.list, 0)",
        "States.ArrayRange(1, 5000, 1)",
        "States.ArrayRange(1, 5, 0)",
        "States.ArrayGetItem($.list, 9)",
        "States.ArrayLength('x')",
        "States.Base64Decode('%')",
        "States.Hash('a', 'CRC')",
        "States.JsonMerge($.o, $.o, true)",
        "States.MathAdd('a', 1)",
        "States.MathRandom(5, 5)",
    ] {
        assert!(Call::parse(text).is_ok(), "{text}");
        assert!(evaluate(text).is_err(), "{text}");
    }
    assert_eq!(evaluate("States.Format('{}', $.nope)"), Err("missing $.nope".to_owned()));
    for text in [
        "States.Nope()",
        "States.Format(",
        "States.UUID(1)",
        "States.Format(\"x\")",
        "States.Array(1,)",
        "States.Array(1) 2",
    ] {
        assert!(Call::parse(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "States\\.(Array|Format|MathAdd)\\([$.a-c'\\\\{}(),0-9 \\[\\]]{0,40}") {
        if let Ok(call) = Call::parse(&text) {
            let _ = call.evaluate(&Sample(json!({"a": 1}), Cell::new(0)));
        }
    }
}
