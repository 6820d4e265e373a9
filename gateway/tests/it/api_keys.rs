//! API keys: exchanged at the edge in every protocol, once for many requests, and refused as soon as they are revoked.
#![expect(clippy::unwrap_used, reason = "what is written here is well-formed")]

use std::{sync::atomic::Ordering, time::Duration};

use futures::future::join_all;
use http::Request;
use serde_json::json;
use tenon_chassis::{ApiKeyId, api_key::ApiKey};

use crate::{
    house::{ACME, Answer, House},
    patience::until,
    speak::{ALL, Tongue},
};

/// A method that asks for a permission, and its route.
const GUARDED: (&str, &str) = ("GuardedService/Mine", "/v1/mine");

async fn call(house: &House, key: &str) -> Answer {
    house.post(GUARDED.1, &[("x-api-key", key)], &json!({})).await
}

/// A key of the tenant's that nobody has made.
fn made_up(house: &House) -> String {
    ApiKey::generate(ACME.parse().unwrap(), ApiKeyId::new(&house.clock)).to_text()
}

/// An edge that hears of revocations.
async fn house(flags: &[&str]) -> House {
    let house = House::open(flags).await;
    let key = house.keyring.key.to_text();
    until("a token is kept", async || {
        let before = house.keyring.asked();
        house.clock.advance(Duration::from_secs(6));
        assert_eq!(call(&house, &key).await.status, 200);
        before > 0 && house.keyring.asked() == before
    })
    .await;
    house.keyring.asked.store(0, Ordering::SeqCst);
    house
}

#[tokio::test]
async fn a_key_is_taken_in_every_protocol_and_goes_no_further() {
    let house = house(&[]).await;
    let key = house.keyring.key.to_text();
    let bearer = format!("Bearer {key}");
    let other = if key.as_bytes()[40] == b'A' { "B" } else { "A" };
    let typo = format!("{}{other}{}", &key[..40], &key[41..]);
    let (unknown, admin) = (made_up(&house), house.token(ACME, &["admin"]));
    for tongue in ALL {
        let before = house.keyring.asked();
        for credential in [("authorization", bearer.as_str()), ("x-api-key", &key), ("X-API-Key", &key)] {
            // The tenant's plan allows two calls a second.
            house.clock.advance(Duration::from_secs(1));
            let heard = house.say(tongue, GUARDED.0, GUARDED.1, &[credential], &json!({})).await;
            assert_eq!(heard.code, 0, "{tongue:?}: {heard:?}");
            assert!(heard.seen("authorization").is_some_and(|token| token.starts_with("Bearer eyJ")), "{heard:?}");
            assert_eq!((heard.seen("x-api-key"), heard.seen("x-tenant-id").as_deref()), (None, Some(ACME)));
            assert!(!heard.message.to_string().contains("tnk_"), "{heard:?}");
        }
        assert!(house.keyring.asked() <= before + 1, "{tongue:?}: {} exchanges", house.keyring.asked() - before);
        let mut told = Vec::new();
        for wrong in [&typo, &unknown, "tnk_", "x", ""] {
            house.clock.advance(Duration::from_secs(2));
            let heard = house.say(tongue, GUARDED.0, GUARDED.1, &[("x-api-key", wrong)], &json!({})).await;
            assert_eq!((heard.code, heard.reason.as_str()), (16, "API_KEY_INVALID"), "{tongue:?} {wrong}: {heard:?}");
            told.push(heard.text);
        }
        told.dedup();
        assert_eq!(told.len(), 1, "one answer for all that are none");
        for other in [&bearer, &admin] {
            let both = [("authorization", other.as_str()), ("x-api-key", &key)];
            let heard = house.say(tongue, GUARDED.0, GUARDED.1, &both, &json!({})).await;
            assert_eq!((heard.code, heard.reason.as_str()), (3, "AMBIGUOUS_CREDENTIALS"), "{tongue:?}: {heard:?}");
        }
    }
    // Nobody's methods take no notice of one.
    let heard = house.say(Tongue::Json, "EverythingService/Get", "/v1/things/a", &[], &json!({})).await;
    assert_ne!(heard.reason, "API_KEY_INVALID");
}

#[tokio::test]
async fn many_requests_at_once_are_one_exchange() {
    let house = house(&[]).await;
    house.clock.advance(Duration::from_secs(61));
    let key = house.keyring.key.to_text();
    let answers = join_all((0..15).map(|_| call(&house, &key))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!((1..=2).contains(&house.keyring.asked()), "{} exchanges", house.keyring.asked());
}

#[tokio::test]
async fn a_key_that_is_revoked_is_refused_at_once_and_one_that_expires_in_time() {
    let house = house(&[]).await;
    let key = house.keyring.key.to_text();
    house.keyring.expires_at.store(house.clock.unix() + 40, Ordering::SeqCst);
    house.clock.advance(Duration::from_secs(61));
    let refused = call(&house, &key).await;
    assert_eq!((refused.status, refused.reason()), (401, "API_KEY_INVALID"), "{}", refused.json);

    house.keyring.expires_at.store(house.clock.unix() + 20, Ordering::SeqCst);
    assert_eq!(call(&house, &key).await.status, 200);
    let asked = house.keyring.asked();
    house.clock.advance(Duration::from_secs(21));
    let refused = call(&house, &key).await;
    assert_eq!(
        (refused.status, refused.reason()),
        (401, "API_KEY_INVALID"),
        "its token is kept no longer than it lives"
    );
    assert_eq!(house.keyring.asked(), asked + 1);

    house.keyring.expires_at.store(house.clock.unix() + 3_600, Ordering::SeqCst);
    assert_eq!(call(&house, &key).await.status, 200);
    house.keyring.revoke();
    until("it is refused", async || {
        house.clock.advance(Duration::from_millis(500));
        call(&house, &key).await.reason() == "API_KEY_INVALID"
    })
    .await;
}

#[tokio::test]
async fn who_knows_the_keys_may_be_away_for_a_moment() {
    let house = house(&[]).await;
    let key = house.keyring.key.to_text();
    house.clock.advance(Duration::from_secs(61));
    assert_eq!(call(&house, &key).await.status, 200);
    house.keyring.is_away.store(true, Ordering::SeqCst);
    house.clock.advance(Duration::from_secs(25));
    assert_eq!(call(&house, &key).await.status, 200);
    house.clock.advance(Duration::from_secs(61));
    let away = call(&house, &key).await;
    assert_eq!((away.status, away.reason()), (503, "KEYS_UNAVAILABLE"), "{}", away.json);
    assert!(away.headers.contains_key("retry-after"));
    house.keyring.is_away.store(false, Ordering::SeqCst);
    assert_eq!(call(&house, &key).await.status, 200);
}

#[tokio::test]
async fn whoever_guesses_is_slowed_down_before_anyone_is_asked() {
    let house = house(&["--rate-ip-login", "60", "--trusted-proxies", "127.0.0.1"]).await;
    let guess = async |address: &str, key: &str| {
        let request = Request::post(GUARDED.1).header("content-type", "application/json").header("x-api-key", key);
        house.send(request.header("x-forwarded-for", address), "{}").await
    };
    let mut statuses = Vec::new();
    for _ in 0..30 {
        statuses.push(guess("198.51.100.1", &made_up(&house)).await.status);
    }
    assert_eq!((statuses[0], statuses[29]), (401, 429), "{statuses:?}");
    assert!(house.keyring.asked() <= 25, "{} exchanges for 30 guesses", house.keyring.asked());
    let key = house.keyring.key.to_text();
    assert_eq!(guess("198.51.100.1", &key).await.status, 200, "what is known already is not asked about");
    assert_eq!(guess("198.51.100.2", &made_up(&house)).await.status, 401, "others guess for themselves");
}
