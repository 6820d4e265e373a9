//! Services of others behind the edge: how they join, how they change, what they get to see.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::json;

use crate::{
    house::{ACME, House, OPERATOR, counted},
    patience::until,
    ports::Ports,
    shop::{Folder, Load, Reflection, Shop, entry, set, with_route},
};

#[tokio::test]
async fn a_service_joins_by_its_descriptors_and_sees_who_calls() {
    let shop = Shop::open("one");
    let folder =
        Folder::of(&[shop.url()], "headers = { x-shop = \"ours\" }\ngrants = { member = [\"shop.orders.*\"] }");
    let house = House::open(&["--upstreams", &folder.upstreams()]).await;
    let answer = house.get("/v1/orders/1").await;
    assert_eq!((answer.status, &answer.json["server"]), (200, &json!("one")), "{}", answer.json);
    // The mesh's own is served as before.
    assert_eq!(house.get("/v1/things/a").await.status, 200);

    // PUBLIC: nobody's token goes on. TENANT: the user's own, and the tenant.
    let member = house.token(ACME, &["member"]);
    let seen = |answer: &crate::house::Answer, name: &str| {
        let lines = answer.json["seen"].as_array().cloned().unwrap_or_default();
        let lines: Vec<_> = lines.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect();
        lines.iter().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))
    };
    let headers = [("authorization", member.as_str()), ("x-shop", "theirs"), ("host", "acme.localhost")];
    let public = house.post("/v1/orders", &headers, &json!({})).await;
    assert_eq!((seen(&public, "authorization"), seen(&public, "x-shop").as_deref()), (None, Some("ours")));
    assert_eq!(seen(&public, "x-tenant-id").as_deref(), Some(ACME));
    let placed = house.post("/v1/orders:place", &headers, &json!({})).await;
    assert_eq!(placed.status, 200, "{}", placed.json);
    assert_eq!(seen(&placed, "authorization").as_deref(), Some(member.as_str()));
    assert_eq!(seen(&placed, "x-tenant-id").as_deref(), Some(ACME));
    let viewer = house.token(ACME, &["viewer"]);
    let refused = house.post("/v1/orders:place", &[("authorization", &viewer)], &json!({})).await;
    assert_eq!((refused.status, refused.reason()), (403, "PERMISSION_DENIED"));
    let grpc = [("content-type", "application/grpc"), ("te", "trailers"), ("x-shop", "theirs"), ("x-other", "theirs")];
    let native = house.exchange("POST", "/shop.v1.OrderService/CreateOrder", &grpc, &b"\0\0\0\0\0"[..]).await;
    let native = String::from_utf8_lossy(&native.body).into_owned();
    assert!(native.contains("x-shop: ours") && !native.contains("x-shop: theirs"), "{native}");
    assert!(native.contains("x-other: theirs"), "other metadata passes: {native}");
    // The operator's credential stays with the mesh.
    let audited = house.post("/v1/orders:audit", &[("x-operator-key", OPERATOR)], &json!({})).await;
    assert_eq!((audited.status, seen(&audited, "x-operator-key")), (200, None));
}

#[tokio::test]
async fn what_cannot_be_served_refuses_with_what_to_write() {
    let folder = Folder::of(&["http://127.0.0.1:1".to_owned()], "");
    folder.write("bare.binpb", set(&["bare.proto"], true));
    folder.write("thin.binpb", set(&["shop.proto"], false));
    folder.write("own.binpb", set(&["everything.proto"], true));
    folder.write("junk.binpb", "not a set");
    let endpoint = ["http://127.0.0.1:1".to_owned()];
    for (more, expected) in [
        ("descriptors = \"bare.binpb\"", "bare.v1.BareService.Ping. Write in the proto"),
        (
            "descriptors = \"own.binpb\"",
            "everything.v1.EverythingService is claimed by upstream shop and by the mesh itself",
        ),
        ("descriptors = \"junk.binpb\"", "no FileDescriptorSet"),
        ("descriptors = \"none.binpb\"", "none.binpb cannot be read: No such file"),
        ("descriptors = \"shop.binpb\"\nreflection = true", "not both"),
        ("", "give descriptors = \"file.binpb\" or reflection = true"),
        ("descriptors = \"shop.binpb\"\ncolour = 1", "unknown field `colour`"),
        ("descriptors = \"shop.binpb\"\ntls = { cart = \"x\" }", "unknown field `cart`"),
        ("descriptors = \"shop.binpb\"\ndefault_access = \"ANYONE\"", "default_access is \"TENANT\" or \"PUBLIC\""),
        ("descriptors = \"shop.binpb\"\naudience = \"billing\"", "is a part of the mesh itself"),
        ("descriptors = \"shop.binpb\"\nservices = [\"shop.v1.Nope\"]", "they have: shop.v1.OrderService"),
        ("descriptors = \"shop.binpb\"\nheaders = { authorization = \"x\" }", "set by the edge alone"),
        ("descriptors = \"shop.binpb\"\ntimeout_s = 0", "timeout_s"),
        ("descriptors = \"shop.binpb\"\ngrants = { owner = [\"*\"] }", "roles are admin, member, viewer"),
    ] {
        folder.write("upstreams.toml", entry(&endpoint, more));
        let why = House::refused(&["--upstreams", &folder.upstreams()]).await;
        assert!(why.contains(expected), "{more}\n{why}");
    }
    let twice = entry(&endpoint, "descriptors = \"shop.binpb\"");
    folder.write("upstreams.toml", format!("{twice}{}", twice.replace("\"shop\"", "\"other\"")));
    let why = House::refused(&["--upstreams", &folder.upstreams()]).await;
    assert!(why.contains("claimed by upstream other and by shop"), "{why}");
    // A set without imports that we know is completed; a default opens what says nothing.
    folder.write("upstreams.toml", entry(&endpoint, "descriptors = \"thin.binpb\""));
    assert_eq!(House::open(&["--upstreams", &folder.upstreams()]).await.get("/v1/orders/1").await.status, 503);
    folder.write("upstreams.toml", entry(&endpoint, "descriptors = \"bare.binpb\"\ndefault_access = \"PUBLIC\""));
    House::open(&["--upstreams", &folder.upstreams()]).await;
}

#[tokio::test]
async fn a_service_that_is_down_is_503_and_back_when_it_is_up() {
    let folder = Folder::of(&["http://127.0.0.1:1".to_owned()], "");
    let house = House::open(&["--upstreams", &folder.upstreams()]).await;
    let down = house.get("/v1/orders/1").await;
    assert_eq!((down.status, down.reason()), (503, "UPSTREAM_UNAVAILABLE"));
    assert_eq!(down.headers["retry-after"], "1");
    let shop = Shop::open("up");
    folder.write("upstreams.toml", entry(&[shop.url()], "descriptors = \"shop.binpb\""));
    until("the new endpoint is used", async || house.get("/v1/orders/1").await.status == 200).await;
}

#[tokio::test]
async fn a_service_tells_its_methods_by_reflection_when_it_is_there() {
    for version in [Reflection::V1, Reflection::V1Alpha] {
        let shop = Shop::with("told", version, |_, _| Ok(Duration::ZERO));
        let folder = Folder::of(&[], "");
        folder.write("upstreams.toml", entry(&[shop.url()], "reflection = true"));
        let house = House::open(&["--upstreams", &folder.upstreams()]).await;
        let answer = house.get("/v1/orders/1").await;
        assert_eq!(answer.status, 200, "{}", answer.json);
    }
    // The edge starts without it, and asks until it answers.
    let ports = Ports::take();
    let port = ports.next();
    let folder = Folder::of(&[], "");
    folder.write("upstreams.toml", entry(&[format!("http://localhost:{port}")], "reflection = true"));
    let house = House::open(&["--upstreams", &folder.upstreams()]).await;
    assert_eq!(house.get("/v1/orders/1").await.reason(), "ROUTE_NOT_FOUND");
    let _late = Shop::on("late", port, Reflection::V1);
    until("the late service is served", async || house.get("/v1/orders/1").await.status == 200).await;
}

#[tokio::test]
async fn descriptors_are_swapped_under_load_and_errors_change_nothing() {
    let (shop, other) = (Shop::open("one"), Shop::open("two"));
    let folder = Folder::of(&[shop.url()], "");
    let house = House::open(&["--upstreams", &folder.upstreams(), "--rate-ip-read", "100000000"]).await;
    let request = || Request::get("http://localhost/v1/orders/1").body(Full::<Bytes>::default()).unwrap();
    let load = Load::start(house.address, 8, request);
    load.goes_on(20).await;

    // A new route with a new set.
    let more = with_route("/v1/{name=purchases/*}");
    folder.write("shop.binpb", more);
    until("the new route is served", async || house.get("/v1/purchases/1").await.status == 200).await;
    // A broken file changes nothing.
    let refused = || counted("tenon_edge_reloads_total", "refused");
    let before = refused();
    folder.write("upstreams.toml", "[[upstream]]\nname = 1\n");
    until("the broken file was read", async || refused() > before).await;
    assert_eq!(house.get("/v1/purchases/1").await.status, 200);
    // Another endpoint.
    folder.write("upstreams.toml", entry(&[other.url()], "descriptors = \"shop.binpb\""));
    until("the other endpoint is used", async || house.get("/v1/orders/1").await.json["server"] == "two").await;
    load.goes_on(20).await;
    // And away.
    load.end().await.is_served();
    folder.write("upstreams.toml", "");
    until("nothing is left of it", async || house.get("/v1/orders/1").await.status == 404).await;
}

#[tokio::test]
async fn each_call_that_succeeds_counts_once_in_every_protocol() {
    let shop = Shop::with("one", Reflection::None, |_, headers| match headers.contains_key("idempotency-key") {
        true => Err(tonic::Status::not_found("as it was asked")),
        false => Ok(Duration::ZERO),
    });
    let folder = Folder::of(&[shop.url()], "");
    let house = House::open(&["--upstreams", &folder.upstreams()]).await;
    let admin = house.token(ACME, &["admin"]);
    let token = ("authorization", admin.as_str());
    let place = "/shop.v1.OrderService/PlaceOrder";
    let counted = |what: &str, times: usize| {
        let used = house.used();
        assert_eq!(used.len(), times, "{what}: {used:?}");
        assert!(
            used.iter().all(|used| used.meter == "orders" && used.tenant.to_string() == ACME && used.id.len() > 30)
        );
    };
    assert_eq!(house.post("/v1/orders:place", &[token, ("x-request-id", "mine")], &json!({})).await.status, 200);
    counted("JSON", 1);
    let kinds = [
        ("application/grpc", &b"\0\0\0\0\0"[..]),
        ("application/grpc-web", b"\0\0\0\0\0"),
        ("application/json", b"{}"),
    ];
    for (kind, body) in kinds {
        let answer = house.exchange("POST", place, &[token, ("content-type", kind), ("te", "trailers")], body).await;
        assert_eq!(answer.http, 200, "{kind}");
        counted(kind, 1);
    }
    // What fails, what has no meter, and who may not, count nothing.
    assert_eq!(house.post("/v1/orders:place", &[token, ("idempotency-key", "k")], &json!({})).await.status, 404);
    let failed = [token, ("content-type", "application/grpc"), ("te", "trailers"), ("idempotency-key", "k")];
    house.exchange("POST", place, &failed, &b"\0\0\0\0\0"[..]).await;
    assert_eq!(house.post("/v1/orders", &[token], &json!({})).await.status, 200);
    assert_eq!(house.post("/v1/orders:place", &[], &json!({})).await.status, 401);
    counted("nothing", 0);
}

#[test]
fn the_inventorys_descriptors_are_those_of_its_proto() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let folder = format!("{root}/examples/inventory");
    let mut compiler = protox::Compiler::new([folder.clone(), format!("{root}/proto")]).expect("both are there");
    compiler.include_imports(true).open_file("inventory.proto").expect("it compiles");
    let load = |set: &[u8]| tenon_proto::foreign::load(set, &tenon_proto::foreign::Rules::default());
    let proto = load(&compiler.encode_file_descriptor_set()).expect("it can be served");
    let file =
        load(&std::fs::read(format!("{folder}/inventory.binpb")).expect("it is there")).expect("it can be served");
    let changes = [tenon_gateway::compare(&file, &proto), tenon_gateway::compare(&proto, &file)].concat();
    assert!(changes.is_empty(), "make examples/inventory/inventory.binpb anew (its README says how): {changes:?}");
}
