//! Domains of tenants' own: claimed, proved by a TXT record, served, and lost when the record goes; over real DNS.

use reqwest::{Method as Verb, StatusCode};
use serde_json::{Value, json};
use tenon_proto::auth::v1::{ListUsersRequest, user_service_client::UserServiceClient};
use tonic::{Code, Request, transport::Endpoint};

use crate::harness::{Backends, Dns, Mesh, Second, Tenant, answer, eventually, reason, text};

async fn claim(mesh: &Mesh, tenant: &Tenant, host: &str) -> Value {
    let (status, domain) = mesh.post("/v1/domains", &tenant.token, &json!({ "hostname": host })).await;
    assert_eq!(status, StatusCode::OK, "{domain}");
    domain
}

async fn verify(mesh: &Mesh, tenant: &Tenant, host: &str) -> (u16, String, Value) {
    let (status, got) = mesh.post(&format!("/v1/domains/{host}:verify"), &tenant.token, &json!({})).await;
    (status.as_u16(), reason(&got), got)
}

/// Asks who one is under a host: status and reason.
async fn whoami(mesh: &Mesh, host: &str, token: &str) -> (u16, String) {
    let request = mesh.request(Verb::GET, "/v1/auth/whoami").header("host", host).bearer_auth(token);
    let (status, got) = answer(request).await;
    (status.as_u16(), reason(&got))
}

/// Signs in without naming a tenant: the host does.
async fn login(mesh: &Mesh, host: &str, tenant: &Tenant) -> (u16, String) {
    let body = json!({ "email": tenant.email, "password": tenant.password });
    let (status, got) = answer(mesh.request(Verb::POST, "/v1/auth/login").header("host", host).json(&body)).await;
    (status.as_u16(), reason(&got))
}

/// The code of a native gRPC call to a host.
async fn by_grpc(mesh: &Mesh, host: &str, token: &str) -> Code {
    let origin = format!("http://{host}").parse().expect("a URL");
    let channel = Endpoint::from_shared(mesh.url.clone()).expect("a URL").origin(origin).connect_lazy();
    let mut request = Request::new(ListUsersRequest::default());
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a token is a header"));
    UserServiceClient::new(channel).list_users(request).await.map_or_else(|refused| refused.code(), |_| Code::Ok)
}

fn proof(domain: &Value) -> (String, String) {
    (text(&domain["challengeRecord"]), text(&domain["challengeValue"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_is_served_once_it_is_proved() {
    let dns = Dns::start();
    let mesh = Mesh::start_separately_with(Backends::Embedded, &[("TENON_DNS_SERVERS", &dns.address)]).await;
    let (acme, globex) = (mesh.onboard("acme").await, mesh.onboard("globex").await);
    let host = "shop.acme.test";
    let domain = claim(&mesh, &acme, "Shop.ACME.test.").await;
    let (record, value) = proof(&domain);
    assert_eq!((&domain["hostname"], &domain["state"]), (&json!(host), &json!("PENDING")), "{domain}");
    assert_eq!((record.as_str(), value.starts_with("tenon-verify=")), ("_tenon-challenge.shop.acme.test", true));
    let (status, again) = mesh.post("/v1/domains", &acme.token, &json!({ "hostname": host })).await;
    assert_eq!((status.as_u16(), &*reason(&again)), (409, "DOMAIN_EXISTS"));

    // Until it is proved, the host is nobody's: no login by it, and no agreement is asked for.
    assert_eq!(login(&mesh, host, &acme).await, (400, "INVALID_FIELD".to_owned()));
    assert_eq!(whoami(&mesh, host, &globex.token).await, (200, String::new()));
    let (status, why, refused) = verify(&mesh, &acme, host).await;
    assert_eq!((status, why.as_str()), (400, "DOMAIN_NOT_PROVED"), "{refused}");
    assert!(refused.to_string().contains(&value) && refused.to_string().contains(&record), "{refused}");
    dns.set(&record, &["tenon-verify=else", "v=spf1 -all"]);
    let (_, why, refused) = verify(&mesh, &acme, host).await;
    assert!(why == "DOMAIN_NOT_PROVED" && refused.to_string().contains("2 others"), "{refused}");
    dns.fail(true);
    let (status, why, refused) = verify(&mesh, &acme, host).await;
    assert_eq!((status, why.as_str()), (503, "DNS_UNAVAILABLE"), "{refused}");
    dns.fail(false);

    dns.set(&record, &["v=spf1 -all", &value]);
    let (status, _, verified) = verify(&mesh, &acme, host).await;
    assert_eq!((status, &verified["state"]), (200, &json!("VERIFIED")), "{verified}");
    let second = Second::begins();
    eventually("the edge serves acme under it", || async {
        let asked = second.ask();
        let served = whoami(&mesh, host, &globex.token).await;
        if served == (403, "TENANT_HOST_MISMATCH".to_owned()) {
            return Some(());
        }
        asked.may_be_old(&format!("{served:?}"));
        None
    })
    .await;
    for (host, expected) in [(host, 200), ("SHOP.acme.test:8443", 200), ("shop.acme.test.", 200)] {
        assert_eq!(login(&mesh, host, &acme).await.0, expected, "{host}");
        assert_eq!(whoami(&mesh, host, &acme.token).await.0, expected, "{host}");
    }
    assert_eq!(login(&mesh, host, &globex).await, (401, "INVALID_CREDENTIALS".to_owned()));
    assert_eq!(whoami(&mesh, "www.shop.acme.test", &globex.token).await.0, 200, "a name below it is another name");
    for (token, expected) in [(&acme.token, Code::Ok), (&globex.token, Code::PermissionDenied)] {
        assert_eq!(by_grpc(&mesh, host, token).await, expected);
    }
    another_tenant_takes_it_by_proof(&mesh, &dns, [&acme, &globex], (host, &record, &value)).await;
}

/// Both may claim; who has the record has the name, and while both records stand the first keeps it.
async fn another_tenant_takes_it_by_proof(
    mesh: &Mesh,
    dns: &Dns,
    [acme, globex]: [&Tenant; 2],
    (host, record, value): (&str, &str, &str),
) {
    let (_, other) = proof(&claim(mesh, globex, host).await);
    assert_ne!(other, value);
    assert_eq!(verify(mesh, globex, host).await.1, "DOMAIN_NOT_PROVED");
    dns.set(record, &[value, &other]);
    let (status, why, _) = verify(mesh, globex, host).await;
    assert_eq!((status, why.as_str()), (409, "DOMAIN_TAKEN"));
    dns.set(record, &[&other]);
    assert_eq!(verify(mesh, globex, host).await.0, 200);
    eventually("the edge serves globex under it", || async {
        let (acmes, globexs) = tokio::join!(whoami(mesh, host, &acme.token), whoami(mesh, host, &globex.token));
        (acmes == (403, "TENANT_HOST_MISMATCH".to_owned()) && globexs.0 == 200).then_some(())
    })
    .await;
    let (_, lost) = mesh.get(&format!("/v1/domains/{host}"), &acme.token).await;
    assert_eq!(lost["state"], "PENDING", "{lost}");

    let (status, _) = mesh.delete(&format!("/v1/domains/{host}"), &globex.token).await;
    assert_eq!(status, StatusCode::OK);
    let second = Second::begins();
    eventually("it is nobody's again", || async {
        let asked = second.ask();
        let (acmes, globexs) = (whoami(mesh, host, &acme.token).await, login(mesh, host, globex).await);
        if (acmes.0, globexs.0) == (200, 400) {
            return Some(());
        }
        asked.may_be_old(&format!("{acmes:?} {globexs:?}"));
        None
    })
    .await;
    let (_, list) = mesh.get("/v1/domains", &globex.token).await;
    assert_eq!(list["domains"], json!([]));
    let (status, gone) = mesh.get(&format!("/v1/domains/{host}"), &globex.token).await;
    assert_eq!((status.as_u16(), &*reason(&gone)), (404, "DOMAIN_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_whose_record_goes_is_lost_after_its_grace() {
    let dns = Dns::start();
    let settings = [
        ("TENON_DNS_SERVERS", dns.address.as_str()),
        ("TENON_DOMAIN_CHECK_S", "1"),
        ("TENON_DOMAIN_GRACE_S", "2"),
        ("TENON_DOMAINS", "1"),
    ];
    let mesh = Mesh::start_with(Backends::Embedded, &settings).await;
    let acme = mesh.onboard("acme").await;
    let (record, value) = proof(&claim(&mesh, &acme, "acme.test").await);
    let (status, refused) = mesh.post("/v1/domains", &acme.token, &json!({ "hostname": "b.acme.test" })).await;
    assert_eq!((status.as_u16(), &*reason(&refused)), (429, "TOO_MANY_DOMAINS"), "{refused}");
    dns.set(&record, &[&value]);
    let (status, _, verified) = verify(&mesh, &acme, "acme.test").await;
    assert_eq!(status, 200, "{verified}");
    let state = || async {
        let (_, domain) = mesh.get("/v1/domains/acme.test", &acme.token).await;
        text(&domain["state"])
    };
    let until =
        |wanted: &'static str| eventually(wanted, move || async move { (state().await == wanted).then_some(()) });

    // A server that cannot tell proves nothing: it is looked at, and stays.
    dns.fail(true);
    eventually("it was looked at again", || async {
        let (_, domain) = mesh.get("/v1/domains/acme.test", &acme.token).await;
        (domain["checkTime"] != verified["checkTime"]).then_some(())
    })
    .await;
    assert_eq!(state().await, "VERIFIED");
    dns.fail(false);
    dns.set(&record, &[]);
    until("FAILING").await;
    assert_eq!(login(&mesh, "acme.test", &acme).await.0, 200, "it is served still");
    dns.set(&record, &[&value]);
    until("VERIFIED").await;
    dns.set(&record, &[]);
    until("PENDING").await;
    eventually("it is not served any more", || async {
        (login(&mesh, "acme.test", &acme).await.0 == 400).then_some(())
    })
    .await;
}
