//! Paths by table.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn find(path: &str) -> Result<Value, Miss> {
    let value = json!({
        "a": {"b": [1, 2, 3], "x y": true, "n": null},
        "books": [
            {"title": "A", "price": 5, "tags": ["x"]},
            {"title": "B", "price": 12.5},
            {"title": "C", "price": 20, "isbn": "1"}
        ]
    });
    Path::parse(path).unwrap().find(&value).map(Cow::into_owned)
}

#[test]
fn paths_find_what_jayway_finds() {
    let cases = [
        ("$.a.b[0]", json!(1)),
        ("$.a.b[-1]", json!(3)),
        ("$['a']['x y']", json!(true)),
        ("$.a.n", json!(null)),
        ("$.a.b[*]", json!([1, 2, 3])),
        ("$.a.b[1:]", json!([2, 3])),
        ("$.a.b[:-1]", json!([1, 2])),
        ("$.a.b[-2:]", json!([2, 3])),
        ("$.a.b[0,2]", json!([1, 3])),
        ("$.books[*].title", json!(["A", "B", "C"])),
        ("$.books.*.isbn", json!(["1"])),
        ("$..title", json!(["A", "B", "C"])),
        ("$..nothing", json!([])),
        ("$.books[?(@.price > 10)].title", json!(["B", "C"])),
        ("$.books[?(@.isbn)].title", json!(["C"])),
        ("$.books[?(!@.isbn && @.price <= 5)].title", json!(["A"])),
        ("$.books[?(@.title == 'A' || @.title=='C')].price", json!([5, 20])),
        ("$.books[?(@.title =~ /[ab]/i)].title", json!(["A", "B"])),
        ("$.books[?(@.title in ['B', 'Z'])].price", json!([12.5])),
        ("$.books[?(@.price > $.a.b[2])].title", json!(["A", "B", "C"])),
        ("$.books[0]['title','price']", json!({"title": "A", "price": 5})),
        ("$.a.b[5:9]", json!([])),
    ];
    for (path, expected) in cases {
        assert_eq!(find(path), Ok(expected), "{path}");
    }
    for path in ["$.nope", "$.a.b.c", "$.a[0]", "$.nope[*]", "$.a.b[9].x"] {
        assert_eq!(find(path), Err(Miss::Absent), "{path}");
    }
    assert_eq!(find("$.a.b[9]"), Err(Miss::PastTheEnd));
}

#[test]
fn bad_paths_are_refused() {
    for path in
        ["", "a", "$.", "$.a[", "$.a]", "$[?(@.a)", "$.a[x]", "$.a b", "$['a", "$[?(@ == bad)]", "$[?(@ =~ /(/)]"]
    {
        assert!(Path::parse(path).is_err(), "{path}");
    }
    assert_eq!(Path::parse("$x.y").unwrap().root, Root::Variable("x".to_owned()));
    assert_eq!(Path::parse("$$.State.Name").unwrap().root, Root::Context);
    assert!(Place::parse("$.a[*]").is_err() && Place::parse("$$.a").is_err());
}

#[test]
fn results_are_put_in_their_place() {
    let put = |path: &str, input: Value| Place::parse(path).unwrap().put(&input, json!(9));
    assert_eq!(put("$", json!({"a": 1})), Ok(json!(9)));
    assert_eq!(put("$.a", json!({"b": 1})), Ok(json!({"b": 1, "a": 9})));
    assert_eq!(put("$.a.b.c", json!({})), Ok(json!({"a": {"b": {"c": 9}}})));
    assert_eq!(put("$['x y'][1]", json!({"x y": [1, 2]})), Ok(json!({"x y": [1, 9]})));
    assert_eq!(
        put("$.a.b", json!({"a": "s"})).unwrap_err(),
        r#"Unable to apply ReferencePath $.a.b to input {"a":"s"}"#
    );
    assert!(put("$.a", json!([1])).is_err() && put("$.a[3]", json!({"a": []})).is_err());
    assert_eq!(Place::Nowhere.put(&json!(1), json!(2)), Ok(json!(1)));
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "[$@.\\[\\]?()a-c'\"*:,0-9 &|=!<>~/\\\\-]{0,40}") {
        if let Ok(path) = Path::parse(&text) {
            let _ = path.find(&json!({"a": [{"b": 1}, {"c": [1, "2"]}]}));
        }
    }
}
