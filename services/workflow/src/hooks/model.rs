//! A hook as it is kept, and what a delivery to it comes to.

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tenon_chassis::Fault;
use tonic::Code;

use super::signature::{STANDARD_PREFIX, Scheme};
use crate::cel::{self, Expression};

/// Targets of one hook.
const TARGETS_MAX: usize = 10;
/// Characters of a secret.
const SECRET_CHARS: std::ops::RangeInclusive<usize> = 16..=512;
/// Characters of the name of a signal.
const SIGNAL_MAX: usize = 128;
/// What a custom signature may stand in.
const SIGNATURE_HEADERS: [&str; 3] = ["x-signature", "x-signature-256", "x-webhook-signature"];
/// What the id of a delivery may stand in.
const ID_HEADERS: [&str; 3] = ["x-webhook-id", "x-event-id", "webhook-id"];
/// Bytes of a delivery.
pub const BODY_MAX_BYTES: usize = 256 * 1024;
/// A signed time may be this far from now when the maker of the hook does not say.
pub const TOLERANCE_S: i64 = 300;
/// The secret before verifies this long when who rotates does not say.
pub const OVERLAP_S: i64 = 24 * 60 * 60;
/// ... and at most this long.
pub const OVERLAP_MAX_S: i64 = 30 * 24 * 60 * 60;

/// A hook as it is kept.
#[derive(Debug, Clone)]
pub struct Hook {
    pub hook_id: String,
    pub scheme: Scheme,
    /// Sealed.
    pub secret: Vec<u8>,
    pub previous_secret: Option<Vec<u8>>,
    pub previous_until: Option<DateTime<Utc>>,
    pub header: String,
    pub id_header: String,
    pub tolerance_s: i32,
    /// As `Target`s write themselves.
    pub targets: Value,
    pub created_by: String,
    pub roles: Vec<String>,
    pub created_at: DateTime<Utc>,
}

/// What a delivery does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub filter: String,
    pub action: Action,
}

/// Starts or signals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Start { workflow_id: String, input: String },
    Signal { run: String, signal: String, payload: String },
}

/// What is to be done about a delivery.
#[derive(Debug, PartialEq)]
pub enum Deed {
    Start { workflow_id: String, input: Value },
    Signal { run: String, signal: String, payload: Value },
}

impl Hook {
    /// What is sealed is bound to the hook.
    #[must_use]
    pub fn purpose(tenant: tenon_chassis::TenantId, hook_id: &str) -> String {
        format!("workflow.hooks/{tenant}/{hook_id}")
    }

    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        // What is kept was written by this service.
        serde_json::from_value(self.targets.clone()).unwrap_or_default()
    }
}

/// A secret that nobody can guess, in the form of the scheme.
#[must_use]
pub fn new_secret(scheme: Scheme) -> String {
    let bytes: [u8; 32] = rand::random();
    match scheme {
        Scheme::StandardWebhooks => format!("{STANDARD_PREFIX}{}", BASE64_STANDARD.encode(bytes)),
        _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Checks a secret that a caller brings.
///
/// # Errors
/// INVALID_FIELD when it is too short, too long, or none of the scheme.
pub fn secret(scheme: Scheme, text: String) -> Result<String, Fault> {
    if !SECRET_CHARS.contains(&text.chars().count()) || text.chars().any(char::is_control) {
        return Err(Fault::invalid("secret", "must have 16 to 512 characters and none that control"));
    }
    let standard = text.strip_prefix(STANDARD_PREFIX).is_some_and(|rest| BASE64_STANDARD.decode(rest).is_ok());
    if scheme == Scheme::StandardWebhooks && !standard {
        return Err(Fault::invalid("secret", "must be whsec_ and base64 (Standard Webhooks)"));
    }
    Ok(text)
}

/// Checks the headers that an HMAC hook is told.
///
/// # Errors
/// INVALID_FIELD for a header that the edge does not hand on, or that another scheme does not have.
pub fn headers(scheme: Scheme, header: &str, id_header: &str) -> Result<(), Fault> {
    let fixed = scheme != Scheme::HmacSha256;
    if fixed && !header.is_empty() {
        return Err(Fault::invalid("signature_header", "is for HMAC_SHA256; other schemes have their own"));
    }
    if fixed && !id_header.is_empty() {
        return Err(Fault::invalid("id_header", "is for HMAC_SHA256; other schemes have their own"));
    }
    if !fixed && !SIGNATURE_HEADERS.contains(&header) {
        let why = format!("must be one of {}", SIGNATURE_HEADERS.join(", "));
        return Err(Fault::invalid("signature_header", why));
    }
    if !id_header.is_empty() && !ID_HEADERS.contains(&id_header) {
        return Err(Fault::invalid("id_header", format!("must be empty or one of {}", ID_HEADERS.join(", "))));
    }
    Ok(())
}

/// Checks targets.
///
/// # Errors
/// INVALID_FIELD with the place of the first fault.
pub fn targets(targets: &[Target]) -> Result<(), Fault> {
    if targets.len() > TARGETS_MAX {
        return Err(Fault::invalid("targets", format!("there are {TARGETS_MAX} at most")));
    }
    for (index, Target { filter, action }) in targets.iter().enumerate() {
        let check = |field: &str, source: &str| match source {
            "" => Ok(()),
            source => cel::compile(source, &["request"])
                .map(drop)
                .map_err(|why| Fault::invalid(format!("targets[{index}].{field}"), why)),
        };
        check("filter", filter)?;
        match action {
            Action::Start { input, .. } => check("start.input", input)?,
            Action::Signal { run, signal, payload } => {
                if run.is_empty() {
                    return Err(Fault::invalid(format!("targets[{index}].signal.run"), "needs an expression"));
                }
                let named = (1..=SIGNAL_MAX).contains(&signal.chars().count()) && !signal.chars().any(char::is_control);
                if !named {
                    let why = format!("must have 1 to {SIGNAL_MAX} characters and none that control");
                    return Err(Fault::invalid(format!("targets[{index}].signal.signal"), why));
                }
                check("signal.run", run)?;
                check("signal.payload", payload)?;
            }
        }
    }
    Ok(())
}

/// What expressions see of a delivery: `{body, headers, delivery_id}`.
#[must_use]
pub fn request(body: &[u8], media: &str, headers: &Map<String, Value>, delivery_id: &str) -> Value {
    let form = media.split(';').next().is_some_and(|essence| essence.trim() == "application/x-www-form-urlencoded");
    let body = match serde_json::from_slice(body) {
        // The last of several fields of a name.
        _ if form => form_urlencoded::parse(body).map(|(key, value)| (key.into_owned(), Value::from(value))).collect(),
        Ok(json) => json,
        Err(_) => Value::String(String::from_utf8_lossy(body).into_owned()),
    };
    json!({"body": body, "headers": headers, "delivery_id": delivery_id})
}

/// What a target makes of a delivery; `None` when its filter does not hold.
///
/// # Errors
/// INVALID_ARGUMENT HOOK_MAPPING_FAILED when an expression has no usable value.
pub fn deed(target: &Target, request: &Value) -> Result<Option<Deed>, Fault> {
    let variables = [("request", request)];
    let compile = |source: &str| cel::compile(source, &["request"]).map_err(|why| failed(&why));
    let value = |source: &str| match source {
        "" => Ok(request["body"].clone()),
        source => compile(source)?.evaluate(&variables).map_err(|why| failed(&why)),
    };
    let holds = |rule: Expression| rule.holds(&variables).map_err(|why| failed(&why));
    if !target.filter.is_empty() && !holds(compile(&target.filter)?)? {
        return Ok(None);
    }
    Ok(Some(match &target.action {
        Action::Start { workflow_id, input } => Deed::Start { workflow_id: workflow_id.clone(), input: value(input)? },
        Action::Signal { run, signal, payload } => {
            let run = compile(run)?.text(&variables).map_err(|why| failed(&why))?;
            let run = run.filter(|run| !run.is_empty()).ok_or_else(|| failed("signal.run is null or empty"))?;
            Deed::Signal { run, signal: signal.clone(), payload: value(payload)? }
        }
    }))
}

fn failed(why: &str) -> Fault {
    Fault::new(Code::InvalidArgument, "HOOK_MAPPING_FAILED", format!("the delivery could not be mapped: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_mapped() {
        let request = request(br#"{"action":"paid","order":{"id":"o1","n":2}}"#, "application/json", &Map::new(), "d1");
        let start = |filter: &str, input: &str| Target {
            filter: filter.to_owned(),
            action: Action::Start { workflow_id: "w".to_owned(), input: input.to_owned() },
        };
        let made = |target: &Target| deed(target, &request).map_err(|fault| fault.reason);
        let all = Deed::Start { workflow_id: "w".to_owned(), input: request["body"].clone() };
        assert_eq!(made(&start("", "")), Ok(Some(all)));
        let some = Deed::Start { workflow_id: "w".to_owned(), input: json!({"id": "o1", "by": "d1"}) };
        let input = "{'id': request.body.order.id, 'by': request.delivery_id}";
        assert_eq!(made(&start("request.body.action == 'paid'", input)), Ok(Some(some)));
        assert_eq!(made(&start("request.body.action == 'lost'", "")), Ok(None));
        assert_eq!(made(&start("request.body.gone", "")), Err("HOOK_MAPPING_FAILED"));
        let action = Action::Signal {
            run: "request.body.order.id".to_owned(),
            signal: "paid".to_owned(),
            payload: "request.body.order.n".to_owned(),
        };
        let signal = Deed::Signal { run: "o1".to_owned(), signal: "paid".to_owned(), payload: json!(2) };
        assert_eq!(made(&Target { filter: String::new(), action }), Ok(Some(signal)));
    }

    #[test]
    fn forms_and_texts_are_read_too() {
        let form =
            request(b"a=1+2&b=%C3%A9&c&a=%zz", "application/x-www-form-urlencoded; charset=utf-8", &Map::new(), "");
        assert_eq!(form["body"], json!({"a": "%zz", "b": "é", "c": ""}));
        assert_eq!(request(b"plain", "text/plain", &Map::new(), "")["body"], json!("plain"));
    }

    #[test]
    fn secrets_have_the_form_of_their_scheme() {
        for scheme in [Scheme::StandardWebhooks, Scheme::Github] {
            let made = new_secret(scheme);
            assert_eq!(secret(scheme, made.clone()).unwrap(), made);
            assert_ne!(new_secret(scheme), made);
        }
        assert!(secret(Scheme::StandardWebhooks, "0123456789abcdef".to_owned()).is_err());
        assert!(secret(Scheme::Github, "short".to_owned()).is_err());
        assert!(headers(Scheme::HmacSha256, "x-signature", "").is_ok());
        assert!(headers(Scheme::HmacSha256, "authorization", "").is_err());
        assert!(headers(Scheme::Github, "x-signature", "").is_err());
    }
}
