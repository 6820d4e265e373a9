//! Sign-in, what the token says, how a session goes on and ends, and who a tenant's status shuts out.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::{Method as Verb, StatusCode};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tenon_proto::options::v1::policy::Access;
use tonic::Code;

use crate::{
    bad_input::nobodys,
    harness::{
        Answer, Asked, Backends, Endpoint, Headers, Mesh, Second, Tenant, Wire, answer, claims, eventually, header,
        reason, text,
    },
};

async fn whoami(mesh: &Mesh, token: &str) -> (u16, String) {
    let (status, answer) = mesh.get("/v1/auth/whoami", token).await;
    (status.as_u16(), reason(&answer))
}

async fn refresh(mesh: &Mesh, token: &Value) -> (u16, Value) {
    let (status, answer) = mesh.post("/v1/auth/refresh", "", &json!({ "refreshToken": token })).await;
    (status.as_u16(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_signs_in_and_out() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let (acme, globex) = (mesh.onboard("acme").await, mesh.onboard("globex").await);
    sign_in_tells_nothing(&mesh, &acme).await;
    the_host_names_the_tenant(&mesh, &acme, &globex).await;
    the_token_says_who(&mesh, &acme).await;
    refresh_tokens_rotate(&mesh, &acme).await;
    logout_ends_the_session(&mesh, &acme).await;
}

/// A wrong password, an unknown user and an unknown tenant are one and the same.
async fn sign_in_tells_nothing(mesh: &Mesh, acme: &Tenant) {
    let (status, wrong) = mesh.login("acme", &acme.email, "wrong horse battery").await;
    assert_eq!((status, reason(&wrong)), (StatusCode::UNAUTHORIZED, "INVALID_CREDENTIALS".to_owned()), "{wrong}");
    for (slug, email, password) in [
        ("acme", "eve@acme.test", acme.password.as_str()),
        ("acme", "ada@globex.test", &acme.password),
        ("globex", &acme.email, &acme.password),
        ("nobody", &acme.email, &acme.password),
        ("ACME", "eve@acme.test", &acme.password),
    ] {
        let (status, other) = mesh.login(slug, email, password).await;
        assert_eq!((status, &other), (StatusCode::UNAUTHORIZED, &wrong), "{slug} {email}");
    }
    let (status, session) = mesh.login("acme", "ADA@Acme.TEST", &acme.password).await;
    assert_eq!(status, StatusCode::OK, "an e-mail is compared without regard to case: {session}");
    assert_eq!((&session["tokenType"], &session["expiresIn"]), (&json!("Bearer"), &json!(900)));
}

async fn the_host_names_the_tenant(mesh: &Mesh, acme: &Tenant, globex: &Tenant) {
    let on = |host: &str, verb: Verb, path: &str| mesh.request(verb, path).header("host", host);
    let body = json!({ "email": acme.email, "password": acme.password });
    let (status, session) = answer(on("acme.localhost", Verb::POST, "/v1/auth/login").json(&body)).await;
    assert_eq!(status, StatusCode::OK, "{session}");
    assert_eq!(claims(&text(&session["accessToken"]))["tid"], claims(&acme.token)["tid"]);
    for (host, expected) in [("globex.localhost", "INVALID_CREDENTIALS"), ("nobody.localhost", "TENANT_UNKNOWN")] {
        let (status, refused) = answer(on(host, Verb::POST, "/v1/auth/login").json(&body)).await;
        assert_eq!((status.as_u16(), &*reason(&refused)), (401, expected), "{host}: {refused}");
    }
    let (status, refused) = answer(on("localhost", Verb::POST, "/v1/auth/login").json(&body)).await;
    assert_eq!((status.as_u16(), &*reason(&refused)), (400, "INVALID_FIELD"), "{refused}");
    // On another tenant's host, a login that names its own tenant gets no session of either.
    let named = json!({ "tenant": "acme", "email": acme.email, "password": acme.password });
    let (status, crossed) = answer(on("globex.localhost", Verb::POST, "/v1/auth/login").json(&named)).await;
    assert!(status.is_client_error() && crossed.get("accessToken").is_none(), "{status} {crossed}");
    for (host, token, expected) in [
        ("acme.localhost", &acme.token, (200, "")),
        ("ACME.localhost:8080", &acme.token, (200, "")),
        ("globex.localhost", &acme.token, (403, "TENANT_HOST_MISMATCH")),
        ("acme.localhost", &globex.token, (403, "TENANT_HOST_MISMATCH")),
        ("nobody.localhost", &acme.token, (401, "TENANT_UNKNOWN")),
    ] {
        let (status, got) = answer(on(host, Verb::GET, "/v1/auth/whoami").bearer_auth(token)).await;
        assert_eq!((status.as_u16(), &*reason(&got)), expected, "{host}: {got}");
    }
}

/// RFC 7519, RFC 9068: and anyone can check it with the keys on the tenant's host.
async fn the_token_says_who(mesh: &Mesh, acme: &Tenant) {
    let claims = claims(&acme.token);
    let (_, me) = mesh.get("/v1/auth/whoami", &acme.token).await;
    let name = |claim: &str, prefix: &str| format!("{prefix}{}", claims[claim].as_str().expect("a text"));
    assert_eq!((&me["user"], &me["tenant"]), (&json!(name("sub", "users/")), &json!(name("tid", "tenants/"))));
    assert_eq!((&me["tenant"], &me["session"]), (&json!(acme.name), &claims["sid"]));
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("https://acme.localhost"), &json!("tenon")));
    assert_eq!((&claims["roles"], &claims["amr"]), (&json!(["admin"]), &json!(["pwd"])));
    let seconds = |claim: &str| claims[claim].as_i64().expect("seconds since 1970");
    assert_eq!(seconds("exp") - seconds("iat"), 900);
    assert!((0..5).contains(&(seconds("iat") - seconds("auth_time"))));
    let header = header(&acme.token);
    assert_eq!(header["alg"], "EdDSA");
    let jwks = mesh.request(Verb::GET, "/.well-known/jwks.json").header("host", "acme.localhost");
    let (status, jwks) = answer(jwks).await;
    assert_eq!(status, StatusCode::OK, "{jwks}");
    let keys = jwks["keys"].as_array().expect("an array");
    assert!(keys.iter().all(|key| key.get("d").is_none()), "private halves stay inside: {jwks}");
    let key = keys.iter().find(|key| key["kid"] == header["kid"]).expect("the signing key is published");
    assert_eq!((&key["kty"], &key["crv"], &key["use"]), (&json!("OKP"), &json!("Ed25519"), &json!("sig")));
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&["tenon"]);
    let key = DecodingKey::from_ed_components(key["x"].as_str().expect("base64url")).expect("an Ed25519 key");
    let verified = jsonwebtoken::decode::<Value>(&acme.token, &key, &validation).expect("the signature is good");
    assert_eq!(verified.claims, claims);
}

async fn refresh_tokens_rotate(mesh: &Mesh, acme: &Tenant) {
    let (_, first) = mesh.login("acme", &acme.email, &acme.password).await;
    let (status, second) = refresh(mesh, &first["refreshToken"]).await;
    assert_eq!(status, 200, "{second}");
    assert_ne!(first["refreshToken"], second["refreshToken"]);
    let sid = |session: &Value| claims(&text(&session["accessToken"]))["sid"].clone();
    assert_eq!(sid(&first), sid(&second));
    let (status, third) = refresh(mesh, &second["refreshToken"]).await;
    assert_eq!(status, 200, "{third}");
    // The spent one is shown again: two hold this session, so it ends for both (RFC 9700 section 4.14.2).
    for token in [&second["refreshToken"], &third["refreshToken"], &first["refreshToken"]] {
        let (status, refused) = refresh(mesh, token).await;
        assert_eq!((status, &*reason(&refused)), (401, "INVALID_REFRESH_TOKEN"), "{refused}");
    }
    assert_eq!(whoami(mesh, &text(&third["accessToken"])).await, (401, "SESSION_ENDED".to_owned()));
    // Shown twice at once, one of the two is the thief's as well.
    let (_, session) = mesh.login("acme", &acme.email, &acme.password).await;
    let token = &session["refreshToken"];
    let (one, other) = tokio::join!(refresh(mesh, token), refresh(mesh, token));
    assert_eq!([one.0, other.0].iter().filter(|status| **status == 200).count(), 1, "{one:?} {other:?}");
}

async fn logout_ends_the_session(mesh: &Mesh, acme: &Tenant) {
    let (_, session) = mesh.login("acme", &acme.email, &acme.password).await;
    let token = text(&session["accessToken"]);
    assert_eq!(whoami(mesh, &token).await, (200, String::new()));
    let (status, out) = mesh.post("/v1/auth/logout", &token, &json!({})).await;
    assert_eq!(status, StatusCode::OK, "{out}");
    assert_eq!(whoami(mesh, &token).await, (401, "SESSION_ENDED".to_owned()));
    let (status, refused) = refresh(mesh, &session["refreshToken"]).await;
    assert_eq!((status, &*reason(&refused)), (401, "INVALID_REFRESH_TOKEN"));
    assert_eq!(whoami(mesh, &acme.token).await, (200, String::new()), "other sessions of the user go on");
}

/// POST with an idempotency key: status, whether it is a replay, body.
async fn keyed(mesh: &Mesh, tenant: &Tenant, path: &str, key: &str, body: &Value) -> (u16, bool, Value) {
    let request = mesh.request(Verb::POST, path).bearer_auth(&tenant.token).header("idempotency-key", key).json(body);
    let response = request.send().await.expect("the edge answers");
    let (status, replayed) = (response.status().as_u16(), response.headers().contains_key("idempotency-replayed"));
    (status, replayed, response.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_makes_a_repeat_harmless() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let (acme, globex) = (mesh.onboard("acme").await, mesh.onboard("globex").await);
    let states = json!({ "A": { "Type": "Succeed" } });
    let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "A", "States": states });
    for tenant in [&acme, &globex] {
        let body = json!({ "workflowId": "hello", "definition": definition });
        assert_eq!(mesh.post("/v1/workflows", &tenant.token, &body).await.0, StatusCode::OK);
    }
    let user = |n: &str| json!({ "email": format!("{n}@x.test"), "password": "correct horse", "roles": ["viewer"] });
    let run = |n: &str| json!({ "workflow": "hello", "entityId": n });
    for (path, one, other, two) in
        [("/v1/users", user("a"), user("b"), user("c")), ("/v1/runs", run("a"), run("b"), run("c"))]
    {
        let (status, replayed, first) = keyed(&mesh, &acme, path, "k1", &one).await;
        // Users and runs are of two services, so the key is new to each.
        assert_eq!((status, replayed), (200, false), "{path}: {first}");
        assert_eq!(keyed(&mesh, &acme, path, "k1", &one).await, (200, true, first.clone()));
        let (status, _, refused) = keyed(&mesh, &acme, path, "k1", &other).await;
        assert_eq!((status, &*reason(&refused)), (422, "IDEMPOTENCY_KEY_REUSED"), "{path}: {refused}");
        let (status, replayed, own) = keyed(&mesh, &globex, path, "k1", &one).await;
        assert_eq!((status, replayed), (200, false), "{path}: another tenant's key is another key");
        assert_ne!(own["name"], first["name"]);
        // What still waits for the first after a moment is told to ask again.
        let twice = || {
            eventually("the repeated request is answered", || async {
                let (status, replayed, body) = keyed(&mesh, &acme, path, "k2", &two).await;
                (reason(&body) != "IDEMPOTENCY_IN_FLIGHT").then_some((status, replayed, body))
            })
        };
        let answers = tokio::join!(twice(), twice(), twice(), twice());
        let answers = [answers.0, answers.1, answers.2, answers.3];
        let made = answers.iter().filter(|(status, replayed, _)| *status == 200 && !replayed).count();
        assert_eq!(made, 1, "{path}: {answers:?}");
        assert!(answers.iter().all(|(status, _, body)| *status == 200 && *body == answers[0].2), "{path}: {answers:?}");
        let (_, list) = mesh.get(path, &acme.token).await;
        let rows = list[&path[4..]].as_array().map_or(0, Vec::len);
        assert_eq!(rows, if path == "/v1/users" { 3 } else { 2 }, "{path}: {list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_a_key_that_is_being_served_is_refused() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let acme = mesh.onboard("acme").await;
    let definition = json!({ "StartAt": "A", "States": { "A": { "Type": "Succeed" } } });
    let published = json!({ "workflowId": "hello", "definition": definition });
    assert_eq!(mesh.post("/v1/workflows", &acme.token, &published).await.0, StatusCode::OK);
    let user = json!({ "email": "a@x.test", "password": "correct horse", "roles": ["viewer"] });
    let other = json!({ "email": "b@x.test", "password": "correct horse", "roles": ["viewer"] });
    let (run, another) = (json!({ "workflow": "hello" }), json!({ "workflow": "hello", "entityId": "b" }));
    for (path, table, body, other) in
        [("/v1/users", "auth.users", user, other), ("/v1/runs", "workflow.runs", run, another)]
    {
        // Nothing can be added as long as this transaction is open.
        let mut holder = mesh.database.owner().await;
        sqlx::raw_sql(AssertSqlSafe(format!("begin; lock table {table} in share mode")))
            .execute(&mut holder)
            .await
            .unwrap();
        let first = keyed(&mesh, &acme, path, "k1", &body);
        let meanwhile = async {
            let waiting = "select count(*) from pg_locks where locktype = 'advisory' and granted
                           and database = (select oid from pg_database where datname = current_database())
                           and pid in (select pid from pg_locks where not granted)";
            eventually("the first request waits under its key", || async {
                let mut eyes = mesh.database.owner().await;
                let held: i64 = sqlx::query_scalar(waiting).fetch_one(&mut eyes).await.unwrap();
                (held > 0).then_some(())
            })
            .await;
            for sent in [&body, &other] {
                let asked = mesh.request(Verb::POST, path).bearer_auth(&acme.token).header("idempotency-key", "k1");
                // While the first waits still.
                let refused = asked.json(sent).send().await.unwrap();
                assert_eq!(refused.status(), StatusCode::CONFLICT);
                assert_eq!(refused.headers()["retry-after"], "1");
                let refused: Value = refused.json().await.unwrap();
                assert_eq!((&*reason(&refused), &refused["code"]), ("IDEMPOTENCY_IN_FLIGHT", &json!(10)), "{refused}");
            }
            sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
        };
        let ((status, replayed, made), ()) = tokio::join!(first, meanwhile);
        assert_eq!((status, replayed), (200, false), "{path}: {made}");
        assert_eq!(keyed(&mesh, &acme, path, "k1", &body).await, (200, true, made));
        let (status, _, refused) = keyed(&mesh, &acme, path, "k1", &other).await;
        assert_eq!((status, &*reason(&refused)), (422, "IDEMPOTENCY_KEY_REUSED"), "{path}: {refused}");
    }
}

/// A call of each service, by its own port and by the edge: what its answer must become is asked of every method.
struct Doors {
    mesh: Mesh,
    wire: Wire,
    acme: Tenant,
}

impl Doors {
    /// Asks each door; when, and what it said.
    async fn all(&self, is_asked: impl Fn(&Endpoint) -> bool) -> Vec<(String, Answer)> {
        let asked = self.since(&Second::begins(), is_asked).await;
        asked.into_iter().map(|(door, _, answer)| (door, answer)).collect()
    }

    async fn since(&self, second: &Second, is_asked: impl Fn(&Endpoint) -> bool) -> Vec<(String, Asked, Answer)> {
        let headers: Headers = vec![("authorization", format!("Bearer {}", self.acme.token))];
        let mut nobodys = nobodys();
        nobodys.insert("tenants/*", self.acme.name.clone());
        let mut answers = Vec::new();
        let of_tenants = |at: &Endpoint| at.method.access == Access::Tenant && !at.method.path.ends_with("/Logout");
        for at in Endpoint::all().into_iter().filter(|at| of_tenants(at) && is_asked(at)) {
            // Streams have no route.
            let Some(route) = &at.route else { continue };
            let body: &[u8] = if route.takes_body { b"{}" } else { b"" };
            let asked = second.ask();
            let port = self.wire.grpc(&self.mesh, &at, &headers, &at.request(&nobodys)).await;
            answers.push((format!("{} on its port", at.method.path), asked, port));
            let (asked, path) = (second.ask(), at.path(&nobodys));
            let edge = self.wire.http(&self.mesh, route.verb.clone(), &path, &headers, body).await;
            answers.push((format!("{path} at the edge"), asked, edge));
        }
        answers
    }

    /// An operator moves the tenant, and within the second all doors say so.
    async fn become_(&self, verb: &str, code: Code, http: u16, wanted: &str, is_asked: impl Fn(&Endpoint) -> bool) {
        let path = format!("/v1/{}{verb}", self.acme.name);
        if verb.is_empty() {
            let delete = self.mesh.request(Verb::DELETE, &path).header("x-operator-key", &self.mesh.operator_key);
            assert_eq!(answer(delete).await.0, StatusCode::OK);
        } else {
            let (status, answer) = self.mesh.operate(&path, &json!({})).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
        }
        let (second, is_asked) = (&Second::begins(), &is_asked);
        eventually(&format!("every door answers {http} {wanted}"), || async move {
            let mut all_right = true;
            let answers = self.since(second, is_asked).await;
            assert!(answers.len() >= 8, "{verb}: {} doors were asked", answers.len());
            for (door, asked, answer) in answers {
                let is_at_port = door.ends_with("port");
                if answer.code != code || answer.reason != wanted || (!is_at_port && answer.http != http) {
                    asked.may_be_old(&format!("{verb}: {door}: {} {}", answer.http, answer.reason));
                    all_right = false;
                }
            }
            all_right.then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_status_shuts_every_door_within_a_second() {
    let mesh = Mesh::start_separately(Backends::Embedded).await;
    mesh.lift_limits().await;
    let acme = mesh.onboard("acme").await;
    let globex = mesh.onboard("globex").await;
    let doors = Doors { mesh, wire: Wire::new(), acme };
    let everything = |_: &Endpoint| true;
    let paid = |at: &Endpoint| !at.method.allow_unpaid;
    // Warm: what is known of the tenant must be forgotten, not merely looked up.
    assert!(doors.all(everything).await.iter().all(|(_, answer)| !answer.reason.starts_with("TENANT_")));
    doors.become_(":suspend", Code::PermissionDenied, 403, "TENANT_SUSPENDED", everything).await;
    let (status, refused) = doors.mesh.login("acme", &doors.acme.email, &doors.acme.password).await;
    assert_eq!((status.as_u16(), &*reason(&refused)), (403, "TENANT_SUSPENDED"));
    assert_eq!(whoami(&doors.mesh, &globex.token).await, (200, String::new()), "nobody else is shut out");

    doors.become_(":requirePayment", Code::FailedPrecondition, 402, "TENANT_PENDING_PAYMENT", paid).await;
    for (door, answer) in doors.all(|at| at.method.allow_unpaid).await {
        assert!(!answer.reason.starts_with("TENANT_PENDING"), "{door} is allow_unpaid: {}", answer.reason);
    }
    let (status, _) = doors.mesh.login("acme", &doors.acme.email, &doors.acme.password).await;
    assert_eq!(status, StatusCode::OK, "who owes money must be able to sign in and pay");

    let (status, active) = doors.mesh.operate(&format!("/v1/{}:activate", doors.acme.name), &json!({})).await;
    assert_eq!((status, &active["status"]), (StatusCode::OK, &json!("ACTIVE")));
    eventually("every door is open again", || async {
        doors.all(everything).await.iter().all(|(_, answer)| !answer.reason.starts_with("TENANT_")).then_some(())
    })
    .await;

    doors.become_("", Code::Unauthenticated, 401, "TENANT_UNKNOWN", everything).await;
    let (status, refused) = doors.mesh.login("acme", &doors.acme.email, &doors.acme.password).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{refused}");
    let (status, refused) = doors.mesh.operate(&format!("/v1/{}:activate", doors.acme.name), &json!({})).await;
    assert_eq!((status.as_u16(), &*reason(&refused)), (400, "TENANT_STATUS"), "the dead stay dead");
}
