//! The pages of the edge itself: the OpenAPI document and its reference.

use http::Request;

use crate::house::House;

#[tokio::test]
async fn the_document_and_its_page_are_served_by_the_edge_itself() {
    let house = House::open(&[]).await;
    let document = house.get("/openapi.json").await;
    assert_eq!((document.status, &document.headers["content-type"]), (200, &"application/json".parse().unwrap()));
    assert_eq!(document.json["openapi"], "3.1.0");
    let operation = &document.json["paths"]["/v1/things/{thing}"]["get"];
    assert_eq!(operation["x-grpc-method"], "/everything.v1.EverythingService/Get");
    assert_eq!(document.json["paths"]["/v1/mine"]["post"]["security"][0]["bearer"], serde_json::json!([]));

    let etag = document.headers["etag"].to_str().unwrap().to_owned();
    let again = house.send(Request::get("/openapi.json").header("if-none-match", format!("W/{etag}, \"x\"")), "").await;
    assert_eq!((again.status, &again.headers["etag"]), (304, &document.headers["etag"]));
    let head = house.send(Request::head("/openapi.json"), "").await;
    assert_eq!((head.status, head.json), (200, serde_json::json!(null)));
    let unknown = house.send(Request::post("/openapi.json"), "").await;
    assert_eq!((unknown.status, unknown.reason()), (404, "ROUTE_NOT_FOUND"));

    for (path, kind) in [("/docs", "text/html"), ("/docs/page.js", "text/javascript"), ("/docs/page.css", "text/css")] {
        let page = house.get(path).await;
        assert!(page.headers["content-type"].to_str().unwrap().starts_with(kind), "{path}");
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(page.status == 200 && policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    }
}

#[tokio::test]
async fn the_pages_can_be_left_out() {
    let house = House::open(&["--edge-docs=false"]).await;
    for path in ["/openapi.json", "/docs"] {
        assert_eq!(house.get(path).await.status, 404, "{path}");
    }
}
