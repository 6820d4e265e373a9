//! Sign-ups that lose a service half-way: afterwards each is whole, asked for again or left alone.

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Dice, Eyes, comes_again};
use crate::harness::{Backends, Mesh, answer, eventually};

/// Sign-ups that are under way when a process dies.
const AT_ONCE: usize = 4;
const PASSWORD: &str = "correct horse battery";

fn slug(round: usize, number: usize) -> String {
    format!("signup-{round}-{number}")
}

fn email(slug: &str) -> String {
    format!("ada@{slug}.test")
}

fn request(mesh: &Mesh, slug: &str) -> RequestBuilder {
    let body = json!({
        "tenant": { "displayName": slug, "slug": slug, "region": "eu" },
        "admin": { "email": email(slug), "password": PASSWORD },
    });
    mesh.request(Method::POST, "/v1/tenants:onboard").header("idempotency-key", slug).json(&body)
}

/// Sends the same request until it is answered with something else than to ask again.
async fn again(mesh: &Mesh, slug: &str) -> Value {
    let asked = eventually("the sign-up is answered", || async {
        let (status, body) = answer(request(mesh, slug)).await;
        (!comes_again(status, &body)).then_some((status, body))
    });
    let (status, body) = asked.await;
    assert_eq!(status, StatusCode::OK, "{slug}: {body}");
    body
}

/// The rows of a sign-up: [tenants, users, subscriptions, sign-ups that are done].
async fn rows(eyes: &Eyes, slug: &str) -> [i64; 4] {
    let tenant = format!("(select tenant_id from tenant.tenants where slug = '{slug}' and status = 'active')");
    let count = async |from: &str| eyes.count(&format!("select count(*) from {from} in {tenant}")).await;
    [
        count("tenant.tenants where tenant_id").await,
        count("auth.users where tenant_id").await,
        count("billing.subscriptions where tenant_id").await,
        count("tenant.onboardings where step = 'done' and tenant_id").await,
    ]
}

/// Its admin can log in and its subscription can be read.
async fn is_usable(mesh: &Mesh, slug: &str) {
    let (status, session) = mesh.login(slug, &email(slug), PASSWORD).await;
    assert_eq!(status, StatusCode::OK, "{slug}: {session}");
    let token = session["accessToken"].as_str().expect("a login has a token");
    let (status, subscription) = mesh.get("/v1/subscription", token).await;
    assert_eq!(status, StatusCode::OK, "{slug}: {subscription}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_that_loses_a_service_comes_out_whole_afterwards() {
    let mut mesh = Mesh::start_separately(Backends::Embedded).await;
    let eyes = Eyes::open(&mesh).await;
    let mut dice = Dice(4);
    let victims = ["tenant", "auth", "billing", "tenant"];
    let mut answered = Vec::new();
    for (round, victim) in victims.into_iter().enumerate() {
        let mut signups = JoinSet::new();
        for number in 0..AT_ONCE {
            let slug = slug(round, number);
            let request = request(&mesh, &slug);
            signups.spawn(async move { (slug, answer(request).await) });
        }
        // Somewhere within them: a look at the database takes as long as a part of a step.
        for _ in 0..dice.below(150) {
            eyes.count("select count(*) from tenant.onboardings").await;
        }
        mesh.kill_9(victim);
        mesh.restart(victim).await;
        while let Some(signup) = signups.join_next().await {
            let (slug, (status, body)) = signup.expect("a request ends");
            if status.is_success() {
                answered.push((slug, body["tenant"]["name"].clone()));
            }
        }
    }
    for (slug, name) in answered {
        assert_eq!(again(&mesh, &slug).await["tenant"]["name"], name, "a sign-up that was answered has another answer");
    }
    for round in 0..victims.len() {
        // Every other one is asked for again; those that are left are gone on with by themselves, if they had begun.
        for number in (0..AT_ONCE).step_by(2) {
            again(&mesh, &slug(round, number)).await;
        }
    }
    let left = "select count(*) from tenant.onboardings where step <> 'done'";
    eventually("no sign-up is left half-way", || async { (eyes.count(left).await == 0).then_some(()) }).await;
    for slug in (0..victims.len()).flat_map(|round| (0..AT_ONCE).map(move |number| slug(round, number))) {
        let begun = eyes.count(&format!("select count(*) from tenant.tenants where slug = '{slug}'")).await;
        assert_eq!(rows(&eyes, &slug).await, [begun; 4], "{slug} is neither whole nor absent");
        if begun == 1 {
            is_usable(&mesh, &slug).await;
        }
    }
    let orphans = "select count(*) from auth.users where tenant_id not in (select tenant_id from tenant.tenants)";
    assert_eq!(eyes.count(orphans).await, 0, "users of no tenant");
}
