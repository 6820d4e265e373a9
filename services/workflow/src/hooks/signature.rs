//! Signatures of webhooks: how each scheme signs, compared in constant time.

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tenon_chassis::Fault;
use tonic::Code;

/// How deliveries are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    StandardWebhooks,
    Meta,
    Stripe,
    Github,
    Slack,
    HmacSha256,
}

/// Every scheme with its name in the database.
const NAMES: [(Scheme, &str); 6] = [
    (Scheme::StandardWebhooks, "STANDARD_WEBHOOKS"),
    (Scheme::Meta, "META"),
    (Scheme::Stripe, "STRIPE"),
    (Scheme::Github, "GITHUB"),
    (Scheme::Slack, "SLACK"),
    (Scheme::HmacSha256, "HMAC_SHA256"),
];
/// What a secret of Standard Webhooks begins with; base64 follows.
pub const STANDARD_PREFIX: &str = "whsec_";
/// Signatures that one request may carry.
const SIGNATURES_MAX: usize = 10;
/// Characters of a delivery's id.
const ID_MAX: usize = 128;

impl Scheme {
    /// As the database keeps it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        NAMES.iter().find(|(scheme, _)| *scheme == self).map_or("", |(_, name)| name)
    }
}

impl From<String> for Scheme {
    fn from(text: String) -> Self {
        // The column's CHECK leaves nothing else.
        NAMES.iter().find(|(_, name)| *name == text).map_or(Self::HmacSha256, |(scheme, _)| *scheme)
    }
}

/// A delivery as it came.
pub struct Delivery<'d> {
    /// The value of a header, by its lower-case name.
    pub header: &'d dyn Fn(&str) -> Option<&'d str>,
    pub body: &'d [u8],
}

/// How a hook is signed.
pub struct Keys<'k> {
    pub scheme: Scheme,
    /// The secret, and the one before while it verifies yet.
    pub secrets: Vec<&'k str>,
    /// HMAC_SHA256: the headers of signature and id.
    pub header: &'k str,
    pub id_header: &'k str,
    pub tolerance_s: i64,
}

/// Checks the signature and its time, and gives the id that the delivery is known by from then on.
///
/// # Errors
/// UNAUTHENTICATED SIGNATURE_INVALID or SIGNATURE_EXPIRED.
pub fn verify(keys: &Keys<'_>, delivery: &Delivery<'_>, now: DateTime<Utc>) -> Result<String, Fault> {
    let header = |name: &str| (delivery.header)(name).ok_or_else(|| invalid(format!("the header {name} is missing")));
    let recent = |time: &str| {
        let time: i64 = time.parse().map_err(|_| invalid("the signed time is no number of seconds".to_owned()))?;
        let apart = now.timestamp().abs_diff(time);
        if apart <= keys.tolerance_s.unsigned_abs() { Ok(()) } else { Err(expired()) }
    };
    let body = delivery.body;
    match keys.scheme {
        Scheme::StandardWebhooks => {
            let (id, time) = (header("webhook-id")?, header("webhook-timestamp")?);
            let given = header("webhook-signature")?.split(' ').filter_map(|part| part.strip_prefix("v1,"));
            matches(keys, &[id.as_bytes(), b".", time.as_bytes(), b".", body], given.filter_map(from_base64))?;
            recent(time)?;
            Ok(bounded(id))
        }
        Scheme::Meta | Scheme::Github => {
            let given = header("x-hub-signature-256")?.strip_prefix("sha256=").and_then(from_hex);
            matches(keys, &[body], given.into_iter())?;
            let id = (delivery.header)("x-github-delivery").filter(|_| keys.scheme == Scheme::Github);
            Ok(id.map_or_else(|| digest(&[body]), bounded))
        }
        Scheme::Stripe => {
            let parts = || {
                header("stripe-signature").map(|value| value.split(',').filter_map(|part| part.trim().split_once('=')))
            };
            let time = parts()?.find(|(key, _)| *key == "t").map(|(_, time)| time);
            let time = time.ok_or_else(|| invalid("stripe-signature has no t".to_owned()))?;
            let given = parts()?.filter(|(key, _)| *key == "v1").filter_map(|(_, value)| from_hex(value));
            matches(keys, &[time.as_bytes(), b".", body], given)?;
            recent(time)?;
            Ok(json_id(body, "id").unwrap_or_else(|| digest(&[time.as_bytes(), body])))
        }
        Scheme::Slack => {
            let time = header("x-slack-request-timestamp")?;
            let given = header("x-slack-signature")?.strip_prefix("v0=").and_then(from_hex);
            matches(keys, &[b"v0:", time.as_bytes(), b":", body], given.into_iter())?;
            recent(time)?;
            Ok(json_id(body, "event_id").unwrap_or_else(|| digest(&[time.as_bytes(), body])))
        }
        Scheme::HmacSha256 => {
            let given = header(keys.header)?;
            let given = given.strip_prefix("sha256=").unwrap_or(given);
            matches(keys, &[body], from_hex(given).into_iter().chain(from_base64(given)))?;
            let id = Some(keys.id_header).filter(|name| !name.is_empty()).and_then(|name| (delivery.header)(name));
            Ok(id.map_or_else(|| digest(&[body]), bounded))
        }
    }
}

/// A Standard Webhooks signature of a message of ours.
#[must_use]
pub fn sign(secret: &str, id: &str, time: i64, body: &[u8]) -> String {
    let time = time.to_string();
    let mac = mac_of(Scheme::StandardWebhooks, secret, &[id.as_bytes(), b".", time.as_bytes(), b".", body]);
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

/// Tries every secret with every signature: which of them fits is not told by the time it takes.
fn matches(keys: &Keys<'_>, signed: &[&[u8]], given: impl Iterator<Item = Vec<u8>>) -> Result<(), Fault> {
    let mut fits = false;
    for signature in given.take(SIGNATURES_MAX) {
        for secret in &keys.secrets {
            fits |= mac_of(keys.scheme, secret, signed).verify_slice(&signature).is_ok();
        }
    }
    if fits { Ok(()) } else { Err(invalid("the signature is not of this hook's secret".to_owned())) }
}

fn mac_of(scheme: Scheme, secret: &str, signed: &[&[u8]]) -> Hmac<Sha256> {
    let decoded = secret.strip_prefix(STANDARD_PREFIX).filter(|_| scheme == Scheme::StandardWebhooks);
    let decoded = decoded.and_then(from_base64);
    let key = decoded.as_deref().unwrap_or(secret.as_bytes());
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes a key of any length");
    signed.iter().for_each(|part| mac.update(part));
    mac
}

fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    BASE64_STANDARD.encode(hash.finalize())
}

/// A longer id is known by its hash.
fn bounded(id: &str) -> String {
    if id.len() <= ID_MAX { id.to_owned() } else { digest(&[id.as_bytes()]) }
}

fn json_id(body: &[u8], field: &str) -> Option<String> {
    let json: Value = serde_json::from_slice(body).ok()?;
    Some(bounded(json.get(field)?.as_str()?))
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(text.trim()).ok()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.trim().chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn invalid(why: String) -> Fault {
    Fault::new(Code::Unauthenticated, "SIGNATURE_INVALID", why)
}

fn expired() -> Fault {
    Fault::new(Code::Unauthenticated, "SIGNATURE_EXPIRED", "the signed time is too far from now; send it again")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn check(
        scheme: Scheme,
        secret: &str,
        headers: &[(&str, &str)],
        body: &str,
        now: i64,
    ) -> Result<String, &'static str> {
        let headers: HashMap<&str, &str> = headers.iter().copied().collect();
        let keys = Keys {
            scheme,
            secrets: vec!["the-one-before", secret],
            header: "x-signature",
            id_header: "x-event-id",
            tolerance_s: 300,
        };
        let header = |name: &str| headers.get(name).copied();
        let delivery = Delivery { header: &header, body: body.as_bytes() };
        verify(&keys, &delivery, DateTime::from_timestamp(now, 0).unwrap()).map_err(|fault| fault.reason)
    }

    fn hex(secret: &str, signed: &str) -> String {
        let mac = mac_of(Scheme::HmacSha256, secret, &[signed.as_bytes()]).finalize().into_bytes();
        mac.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn published_examples_verify() {
        // https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries
        let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let headers = [("x-hub-signature-256", signature), ("x-github-delivery", "72d3162e")];
        let secret = "It's a Secret to Everybody";
        assert_eq!(check(Scheme::Github, secret, &headers, "Hello, World!", NOW).as_deref(), Ok("72d3162e"));
        assert_eq!(check(Scheme::Github, secret, &headers, "Hello, World?", NOW), Err("SIGNATURE_INVALID"));
        // https://docs.svix.com/receiving/verifying-payloads/how-manual
        let headers = [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", "v0,bm9wZQ== v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ];
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let id = check(Scheme::StandardWebhooks, secret, &headers, r#"{"test": 2432232314}"#, 1_614_265_330);
        assert_eq!(id.as_deref(), Ok("msg_p5jXN8AQM9LWM0D4loKWxJek"));
    }

    #[test]
    fn each_scheme_signs_its_time() {
        let (secret, body) = ("0123456789abcdef", r#"{"id":"evt_1","event_id":"Ev1"}"#);
        for (scheme, header, signed, id) in [
            (Scheme::Stripe, "stripe-signature", format!("{NOW}.{body}"), "evt_1"),
            (Scheme::Slack, "x-slack-signature", format!("v0:{NOW}:{body}"), "Ev1"),
        ] {
            let (time, mac) = (NOW.to_string(), hex(secret, &signed));
            let value =
                if scheme == Scheme::Stripe { format!("t={time},v1=00,v1={mac},v0=1") } else { format!("v0={mac}") };
            let headers = [(header, value.as_str()), ("x-slack-request-timestamp", &time)];
            assert_eq!(check(scheme, secret, &headers, body, NOW).as_deref(), Ok(id));
            assert_eq!(check(scheme, secret, &headers, body, NOW + 301), Err("SIGNATURE_EXPIRED"));
            assert_eq!(check(scheme, secret, &headers, body, NOW - 301), Err("SIGNATURE_EXPIRED"));
            assert_eq!(check(scheme, "another-secret-00", &headers, body, NOW), Err("SIGNATURE_INVALID"));
            assert_eq!(check(scheme, secret, &headers[..1], "{}", NOW), Err("SIGNATURE_INVALID"));
        }
    }

    #[test]
    fn plain_hmac_comes_in_hex_or_base64_and_the_secret_before_verifies() {
        let (secret, body) = ("0123456789abcdef", "x=1");
        let base64 =
            BASE64_STANDARD.encode(mac_of(Scheme::HmacSha256, secret, &[body.as_bytes()]).finalize().into_bytes());
        for value in [hex(secret, body), format!("sha256={}", hex(secret, body)), base64, hex("the-one-before", body)] {
            let headers = [("x-signature", value.as_str()), ("x-event-id", "e1")];
            assert_eq!(check(Scheme::HmacSha256, secret, &headers, body, NOW).as_deref(), Ok("e1"), "{value}");
        }
        assert_eq!(check(Scheme::HmacSha256, secret, &[("x-signature", "")], body, NOW), Err("SIGNATURE_INVALID"));
        assert_eq!(check(Scheme::HmacSha256, secret, &[], body, NOW), Err("SIGNATURE_INVALID"));
        let meta = format!("sha256={}", hex(secret, body));
        let id = check(Scheme::Meta, secret, &[("x-hub-signature-256", &meta), ("x-github-delivery", "no")], body, NOW);
        assert_eq!(id, Ok(digest(&[body.as_bytes()])));
    }

    #[test]
    fn what_is_signed_here_verifies_here() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let (time, signature) = (NOW.to_string(), sign(secret, "msg_1", NOW, b"{}"));
        let headers = [("webhook-id", "msg_1"), ("webhook-timestamp", &time), ("webhook-signature", &signature)];
        assert_eq!(check(Scheme::StandardWebhooks, secret, &headers, "{}", NOW).as_deref(), Ok("msg_1"));
    }
}
