//! The limits of each field: what is too long, too small, too early or no such thing is refused by the field's name.

use reqwest::Method as Verb;
use serde_json::{Value, json};
use tenon_proto::options::v1::policy::Access::{self, Operator, Public, Tenant};

use crate::{
    bad_input::{Expected, Ground, nobodys},
    harness::Endpoint,
};

/// Requests to one path, each with the field that is wrong.
type Cases = Vec<(Value, &'static str)>;

const GOOD: &str = "correct horse battery";
const NOWHERE: &str = "tenants/ten_0190000000007000800000000000ffff";
const NO_RUN: &str = "runs/run_0190000000007000800000000000ffff";

fn users() -> Cases {
    let user =
        |email: &str, password: &str, roles: Value| json!({ "email": email, "password": password, "roles": roles });
    let viewer = json!(["viewer"]);
    vec![
        (json!({}), "email"),
        (user("", GOOD, viewer.clone()), "email"),
        (user("ada", GOOD, viewer.clone()), "email"),
        (user("@acme.test", GOOD, viewer.clone()), "email"),
        (user("ada@", GOOD, viewer.clone()), "email"),
        (user("a da@acme.test", GOOD, viewer.clone()), "email"),
        (user("a\u{0}@acme.test", GOOD, viewer.clone()), "email"),
        (user(&format!("{}@acme.test", "a".repeat(250)), GOOD, viewer.clone()), "email"),
        (user("eve@acme.test", "", viewer.clone()), "password"),
        (user("eve@acme.test", "1234567", viewer.clone()), "password"),
        (user("eve@acme.test", &"x".repeat(1_025), viewer), "password"),
        (user("eve@acme.test", GOOD, json!([])), "roles"),
        (user("eve@acme.test", GOOD, json!(["root"])), "roles"),
        (user("eve@acme.test", GOOD, json!(["viewer", ""])), "roles"),
        (user("eve@acme.test", GOOD, json!(["viewer", "viewer", "viewer", "viewer"])), "roles"),
    ]
}

fn api_keys() -> Cases {
    let key = |name: &str, more: Value| {
        let mut key = json!({ "displayName": name, "roles": ["viewer"] });
        key.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        key
    };
    let with = |more: Value| key("ci", more);
    let permissions = |permission: &str| with(json!({ "permissions": ["workflow.runs.get", permission] }));
    let mut cases = vec![
        (json!({}), "display_name"),
        (key(" ", json!({})), "display_name"),
        (key("a\u{0}b", json!({})), "display_name"),
        (key(&"x".repeat(101), json!({})), "display_name"),
        (json!({ "displayName": "ci" }), "roles"),
        (with(json!({ "roles": ["root"] })), "roles[0]"),
        (with(json!({ "roles": ["viewer", "workflow.runs.get"] })), "roles[1]"),
        (with(json!({ "permissions": vec!["a.b"; 51] })), "permissions"),
        (with(json!({ "expireTime": "2001-01-01T00:00:00Z" })), "expire_time"),
        (with(json!({ "expireTime": "9999-12-31T23:59:59Z" })), "expire_time"),
    ];
    let long = format!("a.{}", "b".repeat(128));
    let wrong = ["", "*", "admin", "A.b", "a..b", "a.*.b", "workflow.runs.fly", "auth.key.*", "a.b\u{0}", &*long];
    cases.extend(wrong.map(|permission| (permissions(permission), "permissions[1]")));
    cases
}

fn domains() -> Cases {
    let long = format!("{}.test", "a".repeat(64));
    let hosts =
        ["", "acme", "localhost", "shop.localhost", "https://a.test", "a.test:80", "a.test/x", "*.a.test", "a_b.test"];
    let more = ["1.2.3.4", "[::1]", "-a.test", "a..test", "a b.test", "a\u{0}.test", &*long];
    let case = |host: &str| (json!({ "hostname": host }), "hostname");
    hosts.into_iter().chain(more).map(case).chain([(json!({}), "hostname")]).collect()
}

fn sign_ups() -> Cases {
    let sign_up = |tenant: Value, admin: Value| json!({ "tenant": tenant, "admin": admin });
    let tenant = |name: &str, slug: &str, region: &str| json!({ "displayName": name, "slug": slug, "region": region });
    let admin = |email: &str, password: &str| json!({ "email": email, "password": password });
    let (fine, ada) = (tenant("Globex", "globex", "eu"), admin("ada@globex.test", GOOD));
    let mut cases = vec![
        (json!({}), "tenant"),
        (json!({ "tenant": fine }), "admin"),
        (sign_up(fine.clone(), admin("ada", GOOD)), "admin.email"),
        (sign_up(fine.clone(), admin("a\u{0}@globex.test", GOOD)), "admin.email"),
        (sign_up(fine.clone(), admin("ada@globex.test", "short")), "admin.password"),
        (sign_up(fine, admin("ada@globex.test", &"x".repeat(1_025))), "admin.password"),
        (sign_up(tenant("", "globex", "eu"), ada.clone()), "tenant.display_name"),
        (sign_up(tenant(" ", "globex", "eu"), ada.clone()), "tenant.display_name"),
        (sign_up(tenant("Glo\u{0}bex", "globex", "eu"), ada.clone()), "tenant.display_name"),
        (sign_up(tenant(&"x".repeat(101), "globex", "eu"), ada.clone()), "tenant.display_name"),
        (sign_up(tenant("Globex", "globex", "mars"), ada.clone()), "tenant.region"),
    ];
    let slugs = ["", "ab", "-globex", "globex-", "Globex", "glo_bex", "glo.bex", "www", "glo bex", "glöbex", "a\u{0}b"];
    let long = "a".repeat(64);
    let slugs = slugs.into_iter().chain([&*long]);
    cases.extend(slugs.map(|slug| (sign_up(tenant("Globex", slug, "eu"), ada.clone()), "tenant.slug")));
    cases
}

fn logins() -> Cases {
    let login =
        |tenant: &str, email: &str, password: &str| json!({ "tenant": tenant, "email": email, "password": password });
    vec![
        (json!({}), "tenant"),
        (login(&"a".repeat(64), "ada@acme.test", GOOD), "tenant"),
        (login("acme", "", GOOD), "email"),
        (login("acme", "ada", GOOD), "email"),
        (login("acme", "ada@acme.test", ""), "password"),
        (login("acme", "ada@acme.test", &"x".repeat(1_025)), "password"),
    ]
}

fn usage() -> Cases {
    let one = |event: Value| json!({ "events": [event] });
    let many: Vec<Value> = (0..1_001).map(|n| json!({ "id": n.to_string(), "meter": "m" })).collect();
    let second = json!({ "events": [{ "id": "1", "meter": "m" }, { "id": "2", "meter": "M" }] });
    let mut cases = vec![
        (json!({}), "events"),
        (json!({ "events": [] }), "events"),
        (json!({ "events": many }), "events"),
        (second, "events[1].meter"),
        (one(json!({ "meter": "m" })), "events[0].id"),
        (one(json!({ "id": "x".repeat(129), "meter": "m" })), "events[0].id"),
        (one(json!({ "id": "a\u{0}b", "meter": "m" })), "events[0].id"),
    ];
    let long = "m".repeat(65);
    let meters = ["", "M", "a-b", "a b", "é", "a\u{0}b", &*long];
    cases.extend(meters.map(|meter| (one(json!({ "id": "1", "meter": meter })), "events[0].meter")));
    let quantities = ["-1", "1000000001", "9223372036854775807", "-9223372036854775808"];
    let with = |quantity: &str| one(json!({ "id": "1", "meter": "m", "quantity": quantity }));
    cases.extend(quantities.map(|quantity| (with(quantity), "events[0].quantity")));
    let times = ["2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"];
    let at = |time: &str| one(json!({ "id": "1", "meter": "m", "time": time }));
    cases.extend(times.map(|time| (at(time), "events[0].time")));
    cases
}

fn workflows() -> Cases {
    let fine = json!({ "StartAt": "A", "QueryLanguage": "JSONata", "States": { "A": { "Type": "Succeed" } } });
    let mut cases = vec![
        (json!({ "workflowId": "hello" }), "definition"),
        (json!({ "workflowId": "hello", "definition": { "Comment": "x".repeat(256 * 1024) } }), "definition"),
    ];
    let long = "a".repeat(64);
    let ids = ["", "Hello", "2x", "a_b", "a-", "-a", "a/b", "a b", "é", "a\u{0}b", &*long];
    cases.extend(ids.map(|id| (json!({ "workflowId": id, "definition": fine }), "workflow_id")));
    cases
}

fn runs() -> Cases {
    vec![
        (json!({ "workflow": "hello", "entityId": "x".repeat(129) }), "entity_id"),
        (json!({ "workflow": "hello", "entityId": "a\u{0}b" }), "entity_id"),
        (json!({ "workflow": "hello", "input": "x".repeat(256 * 1024) }), "input"),
    ]
}

/// Faults of definitions, each at its JSON pointer.
fn definitions() -> Vec<(Value, &'static str)> {
    let states = |states: Value| json!({ "QueryLanguage": "JSONata", "StartAt": "A", "States": states });
    let task = |resource: &str| states(json!({ "A": { "Type": "Task", "Resource": resource, "End": true } }));
    vec![
        (json!({ "StartAt": "A" }), "definition"),
        (states(json!({ "B": { "Type": "Succeed" } })), "definition/StartAt"),
        (states(json!({ "A": { "Type": "Dance", "End": true } })), "definition/States/A/Type"),
        (states(json!({ "A": { "Type": "Pass", "Next": "B" } })), "definition/States/A/Next"),
        (states(json!({ "A": { "Type": "Wait", "Seconds": -1, "End": true } })), "definition/States/A/Seconds"),
        (states(json!({ "A": { "Type": "Pass", "Output": "{% ( %}", "End": true } })), "definition/States/A/Output"),
        (task("grpc:tenon.billing.v1.UsageService/NoSuchMethod"), "definition/States/A/Resource"),
        (task("grpc:tenon.auth.v1.UserService/ProvisionAdmin"), "definition/States/A/Resource"),
        (task("ftp:example.com"), "definition/States/A/Resource"),
    ]
}

async fn check(ground: &Ground, path: &str, access: Access, cases: Cases, faults: &mut Vec<String>) {
    for (body, field) in cases {
        let expected = (400, "INVALID_FIELD", field);
        faults.extend(ground.send(access, (&Verb::POST, path), &[], body.to_string().as_bytes(), expected).await);
    }
}

/// Requests that are wrong in another way than by one field.
fn others() -> Vec<(Verb, String, Value, Expected<'static>)> {
    let long = "x".repeat(501);
    let (post, get) = (Verb::POST, Verb::GET);
    let none = Value::Null;
    let invalid = (400, "INVALID_FIELD", "reason");
    vec![
        (post.clone(), format!("/v1/{NO_RUN}:cancel"), json!({ "reason": long }), invalid),
        (post.clone(), format!("/v1/{NO_RUN}:cancel"), json!({ "reason": "a\u{0}b" }), invalid),
        (post.clone(), format!("/v1/{NO_RUN}:cancel"), json!({}), (404, "RUN_NOT_FOUND", "")),
        (post.clone(), "/v1/runs".into(), json!({}), (404, "WORKFLOW_NOT_FOUND", "")),
        (post.clone(), "/v1/runs".into(), json!({ "workflow": "a\u{0}b" }), (404, "WORKFLOW_NOT_FOUND", "")),
        (post.clone(), "/v1/runs".into(), json!({ "workflow": "nobodys" }), (404, "WORKFLOW_NOT_FOUND", "")),
        (get.clone(), "/v1/runs?entityId=a%00b".into(), none.clone(), (400, "INVALID_FIELD", "entity_id")),
        (get.clone(), "/v1/runs?state=7".into(), none.clone(), (400, "INVALID_FIELD", "state")),
        (
            get.clone(),
            "/v1/usage?startTime=2026-02-01T00:00:00Z&endTime=2026-01-01T00:00:00Z".into(),
            none.clone(),
            (400, "INVALID_FIELD", "end_time"),
        ),
        (get, "/.well-known/jwks.json?tenant=a%00b".into(), none, (404, "TENANT_NOT_FOUND", "")),
        (post.clone(), "/v1/auth/refresh".into(), json!({}), (401, "INVALID_REFRESH_TOKEN", "")),
        (
            post.clone(),
            "/v1/auth/refresh".into(),
            json!({ "refreshToken": "tnr_x" }),
            (401, "INVALID_REFRESH_TOKEN", ""),
        ),
        (
            post,
            "/v1/auth/login".into(),
            json!({ "tenant": "a\u{0}b", "email": "ada@acme.test", "password": GOOD }),
            (401, "INVALID_CREDENTIALS", ""),
        ),
    ]
}

/// Every list, found by its page_size.
async fn pages(ground: &Ground, faults: &mut Vec<String>) {
    // A token that reads as JSON and holds what Postgres takes in no text: `"\u0000"`, and one with a number before it.
    let tokens = ["x", "!", "bnVsbA", "IlxcdTAwMDAi", "Ilx1MDAwMCI", "WzAsIlx1MDAwMCJd", "e30"];
    for at in Endpoint::all() {
        let (Some(route), Some(_)) = (&at.route, at.method.descriptor.input().get_field_by_name("page_size")) else {
            continue;
        };
        let path = at.path(&nobodys());
        let (access, verb) = (at.method.access, &route.verb);
        for (query, field) in [("pageSize=-1", "page_size"), ("pageSize=-2147483648", "page_size")] {
            let expected = (400, "INVALID_FIELD", field);
            faults.extend(ground.send(access, (verb, &format!("{path}?{query}")), &[], b"", expected).await);
        }
        for token in tokens {
            let headers = ground.credentials(access);
            let path = format!("{path}?pageToken={token}");
            let answer = ground.wire.http(&ground.mesh, verb.clone(), &path, &headers, b"").await;
            let refused = answer.http == 400 && answer.fields == ["page_token"];
            // What reads as a key of this list is one, whoever wrote it.
            let harmless = answer.http == 200 && token.len() > 3 || answer.reason.ends_with("_NOT_FOUND");
            if !refused && !harmless {
                faults.push(format!("{path}: {} {}", answer.http, answer.text()));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_has_its_limits() {
    let ground = Ground::lay().await;
    let mut faults = Vec::new();
    check(&ground, "/v1/users", Tenant, users(), &mut faults).await;
    check(&ground, "/v1/api-keys", Tenant, api_keys(), &mut faults).await;
    check(&ground, "/v1/domains", Tenant, domains(), &mut faults).await;
    check(&ground, "/v1/tenants:onboard", Public, sign_ups(), &mut faults).await;
    check(&ground, "/v1/auth/login", Public, logins(), &mut faults).await;
    check(&ground, "/v1/usage:ingest", Tenant, usage(), &mut faults).await;
    check(&ground, "/v1/workflows", Tenant, workflows(), &mut faults).await;
    check(&ground, "/v1/runs", Tenant, runs(), &mut faults).await;
    for (definition, field) in definitions() {
        let body = json!({ "workflowId": "hello", "definition": definition }).to_string();
        let expected = (400, "INVALID_DEFINITION", field);
        faults.extend(ground.send(Tenant, (&Verb::POST, "/v1/workflows"), &[], body.as_bytes(), expected).await);
    }
    for (verb, path, body, expected) in others() {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        faults.extend(ground.send(Tenant, (&verb, &path), &[], body.as_bytes(), expected).await);
    }
    let suspend = |name: &str| format!("/v1/{name}:suspend");
    for (name, reason, expected) in [
        (NOWHERE, "x".repeat(501), (400, "INVALID_FIELD", "reason")),
        (&ground.tenant.name, "a\u{0}b".to_owned(), (400, "INVALID_FIELD", "reason")),
        (NOWHERE, "late".to_owned(), (404, "TENANT_NOT_FOUND", "")),
    ] {
        let body = json!({ "reason": reason }).to_string();
        faults.extend(ground.send(Operator, (&Verb::POST, &suspend(name)), &[], body.as_bytes(), expected).await);
    }
    pages(&ground, &mut faults).await;
    ground.is_as_before(&faults).await;
}
