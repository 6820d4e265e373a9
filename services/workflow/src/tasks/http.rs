//! `http:invoke`: one HTTP request to where the tenant wants, bounded in size and time, with secrets by reference.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tenon_chassis::telemetry;

use super::{
    Call, Tasks,
    arguments::{Field, Kind, optional, required},
    egress, parsed,
    references::References,
};
use crate::asl::{Failure, Pushback};

pub(super) const FIELDS: &[Field] = &[
    required("url", Kind::Text),
    optional("method", Kind::OneOf(&["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])),
    optional("headers", Kind::Object),
    optional("query", Kind::Object),
    optional("body", Kind::Any),
];

/// Bytes of a request's body, and of an answer's, at most.
const BODY_MAX: usize = 1024 * 1024;
/// Characters of an answer that tell why it is an error.
const CAUSE_MAX: usize = 1_000;
/// Headers that HTTP itself needs, or that are ours.
const OURS: [&str; 7] = ["host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "traceparent"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arguments {
    url: Value,
    method: Option<String>,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(default)]
    query: Map<String, Value>,
    body: Option<Value>,
}

impl Tasks {
    pub(super) async fn http(&self, call: &Call) -> Result<Value, Failure> {
        let arguments: Arguments = parsed(&call.arguments)?;
        let method = arguments.method.as_deref().unwrap_or("GET");
        let method = Method::from_bytes(method.as_bytes()).ok().filter(is_known);
        let method = method.ok_or_else(|| invalid("method is not one that a task may use"))?;
        let (headers, query) = (Value::Object(arguments.headers), Value::Object(arguments.query));
        let body = arguments.body.unwrap_or(Value::Null);
        let open = References::open(&self.vault, call.tenant, &[&arguments.url, &headers, &query, &body]).await?;
        let url = self.address(&open, &arguments.url, &query)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut request = self.egress.request(method, url).headers(headers_of(&open, &headers)?);
        let body = body_of(&open, &body)?;
        if let Some((kind, bytes)) = body {
            if headers.get("content-type").is_none() && headers.get("Content-Type").is_none() {
                request = request.header(CONTENT_TYPE, kind);
            }
            request = request.body(bytes);
        }
        let mut request = request.build().map_err(|_| invalid("the request is not one"))?;
        sign_off(call, request.headers_mut());
        let sent = async {
            let response = self.egress.send(request).await?;
            answer(&host, response, &open, self.db.clock().now()).await
        };
        self.metered(call, sent.await).await
    }

    /// The URL with its query, which every secret that the call refers to may be sent to.
    fn address(&self, open: &References, url: &Value, query: &Value) -> Result<Url, Failure> {
        let text = open.value(url);
        let text = text.as_str().ok_or_else(|| invalid("url must be a text"))?;
        let mut url = self.egress.url(text)?;
        for (name, value) in query.as_object().into_iter().flatten() {
            let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            for item in items {
                let item = text_of(open, item).ok_or_else(|| invalid(&format!("query.{name} must be a text")))?;
                url.query_pairs_mut().append_pair(name, &item);
            }
        }
        let host = url.host_str().unwrap_or_default();
        if let Some(name) = open.not_for(host) {
            let why = format!("the secret {name} may not be sent to {host}: add the host to it");
            return Err(Failure::new("SECRET_NOT_FOR_HOST", why));
        }
        if !open.is_empty() && !self.egress.may_carry_secrets(&url) {
            return Err(Failure::new("SECRET_NOT_FOR_HOST", "a secret is sent over https only"));
        }
        Ok(url)
    }
}

fn is_known(method: &Method) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS")
}

fn invalid(why: &str) -> Failure {
    Failure::new("INVALID_ARGUMENTS", why)
}

/// A text, number or flag as text.
fn text_of(open: &References, value: &Value) -> Option<String> {
    match open.value(value) {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn headers_of(open: &References, headers: &Value) -> Result<HeaderMap, Failure> {
    let mut map = HeaderMap::new();
    for (name, value) in headers.as_object().into_iter().flatten() {
        let wrong = |why: &str| invalid(&format!("headers.{name} {why}"));
        let key = HeaderName::try_from(name.as_str()).map_err(|_| wrong("is no name of a header"))?;
        if OURS.contains(&key.as_str()) {
            return Err(wrong("is set by us"));
        }
        let text = text_of(open, value).ok_or_else(|| wrong("must be a text"))?;
        let value = HeaderValue::try_from(text).map_err(|_| wrong("holds what no header may"))?;
        map.append(key, value);
    }
    Ok(map)
}

/// The media type and the bytes of a body; JSON, unless it is a text.
fn body_of(open: &References, body: &Value) -> Result<Option<(&'static str, Vec<u8>)>, Failure> {
    let (kind, bytes) = match open.value(body) {
        Value::Null => return Ok(None),
        Value::String(text) => ("text/plain; charset=utf-8", text.into_bytes()),
        value => ("application/json", value.to_string().into_bytes()),
    };
    if bytes.len() > BODY_MAX {
        return Err(invalid("body has more than 1 MiB"));
    }
    Ok(Some((kind, bytes)))
}

/// What makes a repetition recognisable, unless the template has a key of its own, and the trace.
fn sign_off(call: &Call, headers: &mut HeaderMap) {
    if let (false, Ok(key)) =
        (headers.contains_key("idempotency-key"), HeaderValue::try_from(call.idempotency_key.as_str()))
    {
        headers.insert("idempotency-key", key);
    }
    if let Some(Ok(parent)) = telemetry::traceparent().map(HeaderValue::try_from) {
        headers.insert("traceparent", parent);
    }
}

/// The answer as the state gets it: JSON read, secrets taken out.
pub(super) async fn answer(
    host: &str,
    response: Response,
    open: &References,
    now: DateTime<Utc>,
) -> Result<Value, Failure> {
    let status = response.status();
    let pushback = pushback(host, status, response.headers(), now);
    let headers = shown(response.headers(), open);
    let text = open.scrub(String::from_utf8_lossy(&bytes(host, response).await?).into_owned());
    if !status.is_success() {
        let error = format!("Http.StatusCode.{}", status.as_u16());
        let said: String = text.chars().take(CAUSE_MAX).collect();
        return Err(Failure::new(error, format!("{host} answered {status}: {said}")).pushed_back(pushback));
    }
    // Some say JSON and send nothing, some send JSON and say text.
    let body = match serde_json::from_str(&text) {
        Ok(json) => json,
        Err(_) if text.is_empty() => Value::Null,
        Err(_) => Value::String(text),
    };
    Ok(json!({ "status": status.as_u16(), "headers": headers, "body": body }))
}

/// When the host wants to be asked again (RFC 9110 section 10.2.3), and whether it is for being asked too often.
fn pushback(host: &str, status: StatusCode, headers: &HeaderMap, now: DateTime<Utc>) -> Option<Pushback> {
    let limited_by = (status == StatusCode::TOO_MANY_REQUESTS).then(|| host.to_owned());
    let said = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim);
    let after_ms = said.and_then(|said| match said.parse::<u64>() {
        Ok(seconds) => Some(seconds.saturating_mul(1_000)),
        Err(_) => DateTime::parse_from_rfc2822(said)
            .ok()
            .and_then(|at| u64::try_from((at.with_timezone(&Utc) - now).num_milliseconds()).ok()),
    });
    let asks = status == StatusCode::SERVICE_UNAVAILABLE && after_ms.is_some();
    (limited_by.is_some() || asks).then(|| Pushback { after_ms: after_ms.unwrap_or_default(), limited_by })
}

fn shown(headers: &HeaderMap, open: &References) -> BTreeMap<String, String> {
    // A cookie is a credential: nothing that history should hold.
    let shown = headers.iter().filter(|(name, _)| *name != "set-cookie");
    let text = |value: &HeaderValue| open.scrub(String::from_utf8_lossy(value.as_bytes()).into_owned());
    shown.map(|(name, value)| (name.to_string(), text(value))).collect()
}

async fn bytes(host: &str, mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| egress::failure(host, error))? {
        if bytes.len() + chunk.len() > BODY_MAX {
            return Err(Failure::new("Http.ResponseTooLarge", format!("{host} answered with more than 1 MiB")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_when_to_come_again_in_seconds_or_as_a_date() {
        let now = DateTime::parse_from_rfc3339("2026-11-21T12:00:00Z").unwrap().with_timezone(&Utc);
        let told = |status: u16, said: Option<&str>| {
            let headers = said.map(|said| (RETRY_AFTER, HeaderValue::from_str(said).unwrap())).into_iter().collect();
            let found = pushback("a.test", StatusCode::from_u16(status).unwrap(), &headers, now);
            found.map(|found| (found.after_ms, found.limited_by.is_some()))
        };
        assert_eq!(told(429, Some("7")), Some((7_000, true)));
        assert_eq!(told(429, Some("Sat, 21 Nov 2026 12:01:30 GMT")), Some((90_000, true)));
        for nonsense in [None, Some("soon"), Some("-1"), Some("Sat, 21 Nov 2026 11:00:00 GMT")] {
            assert_eq!(told(429, nonsense), Some((0, true)), "{nonsense:?}");
        }
        assert_eq!(told(503, Some("3")), Some((3_000, false)));
        assert_eq!(told(503, None), None);
        assert_eq!(told(500, Some("3")), None);
    }
}
