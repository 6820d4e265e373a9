//! What a request must look like before its body is believed: media types, size, time, keys.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tenon_chassis::{
    client::{GRPC_TIMEOUT, IDEMPOTENCY_KEY, parse_timeout},
    guard::{OPERATOR_KEY, TENANT_ID},
    telemetry::TRACEPARENT,
};
use tenon_proto::policy::Method;
use tonic::Code;

use super::{REQUEST_ID, peer::FORWARDED_FOR};
use crate::errors::Refusal;

/// Seconds that a client is ready to wait: `2` or `0.5`.
pub(super) const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
/// Bytes of a body.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// Characters of an idempotency key.
const MAX_KEY: usize = 128;
/// Characters of a path and query.
const MAX_URI: usize = 8 * 1024;

/// Refuses a path and query that are too long.
pub(super) fn uri(uri: &http::Uri) -> Result<(), Refusal> {
    if uri.path_and_query().is_some_and(|text| text.as_str().len() > MAX_URI) {
        let why = "the path and query are longer than 8 KiB";
        return Err(Refusal::invalid("URI_TOO_LONG", "", why).http(StatusCode::URI_TOO_LONG));
    }
    Ok(())
}

/// Refuses a client that does not take JSON.
pub(super) fn accept(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut values = headers.get_all(header::ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    let json = |range: &str| {
        let essence = range.split(';').next().unwrap_or_default().trim();
        ["*/*", "application/*", "application/json"].iter().any(|known| essence.eq_ignore_ascii_case(known))
    };
    if values.any(|value| value.to_str().is_ok_and(|value| value.split(',').any(json))) {
        return Ok(());
    }
    let why = "only application/json is served here";
    Err(Refusal::invalid("NOT_ACCEPTABLE", "accept", why).http(StatusCode::NOT_ACCEPTABLE))
}

/// The body, whole; empty when there is none.
pub(super) async fn body(body: Incoming, within: Duration) -> Result<Bytes, Refusal> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(within, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::invalid("INVALID_BODY", "", "the body ended before it was complete")),
        Err(_) => {
            let why = "the body did not arrive in time";
            Err(Refusal::new(Code::DeadlineExceeded, "BODY_TIMEOUT", why).http(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

fn too_large() -> Refusal {
    let why = "the body may have 4 MiB at most";
    Refusal::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", why).http(StatusCode::PAYLOAD_TOO_LARGE)
}

/// A body is JSON, plain and in UTF-8. None of the media types that a web form can send is taken.
pub(super) fn json_only(headers: &HeaderMap) -> Result<(), Refusal> {
    let refuse =
        |reason, field, why: &str| Refusal::invalid(reason, field, why).http(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let refusal = refuse("UNSUPPORTED_ENCODING", "content-encoding", "send the body as it is, not compressed");
        return Err(refusal.header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let mut parts = value.to_str().unwrap_or_default().split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    let utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, charset)) if name.eq_ignore_ascii_case("charset") => {
            charset.trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    };
    if is_json && parts.all(utf8) {
        return Ok(());
    }
    Err(refuse("UNSUPPORTED_MEDIA_TYPE", "content-type", "must be application/json in UTF-8"))
}

/// The headers that a method wants to see as they came; the name of one that it may not have.
pub(crate) fn handed_on(method: &Method) -> Result<Vec<HeaderName>, String> {
    let own = [
        header::AUTHORIZATION,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::HOST,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        FORWARDED_FOR,
        IDEMPOTENCY_KEY,
        OPERATOR_KEY,
        REQUEST_ID,
        TENANT_ID,
        TRACEPARENT,
    ];
    let names = method.headers.iter().map(|text| {
        // from_bytes takes capitals too: what is declared is what metadata is asked for.
        let name = HeaderName::from_bytes(text.as_bytes()).ok().filter(|name| name.as_str() == text);
        let free = |name: &HeaderName| !own.contains(name) && !name.as_str().starts_with("grpc-");
        name.filter(free).ok_or_else(|| text.clone())
    });
    names.collect()
}

/// The time that the client gives us, and no more than the route's.
pub(super) fn timeout(headers: &HeaderMap, most: Duration) -> Result<Duration, Refusal> {
    let mut limit = most;
    if let Some(value) = headers.get(REQUEST_TIMEOUT) {
        let seconds = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
        let asked = seconds.and_then(|text| text.parse().ok()).and_then(|secs| Duration::try_from_secs_f64(secs).ok());
        let why = "must be seconds like 2 or 0.5";
        limit = limit.min(asked.ok_or_else(|| Refusal::invalid("INVALID_TIMEOUT", "x-request-timeout", why))?);
    }
    if let Some(value) = headers.get(GRPC_TIMEOUT) {
        let why = "must be at most 8 digits and a unit";
        let asked = parse_timeout(value);
        limit = limit.min(asked.ok_or_else(|| Refusal::invalid("INVALID_TIMEOUT", "grpc-timeout", why))?);
    }
    Ok(limit)
}

/// The idempotency key, if there is one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Refusal> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = values.next() else { return Ok(None) };
    let visible = key.as_bytes().iter().all(u8::is_ascii_graphic);
    if values.next().is_some() || key.is_empty() || key.len() > MAX_KEY || !visible {
        let why = "must be one key of 1 to 128 visible ASCII characters";
        return Err(Refusal::invalid("INVALID_IDEMPOTENCY_KEY", "idempotency-key", why));
    }
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn json_is_the_only_media_type() {
        for (value, taken) in [
            ("application/json", true),
            ("Application/JSON; Charset=UTF-8", true),
            ("application/json; charset=\"utf-8\"", true),
            ("application/merge-patch+json", true),
            ("application/json; charset=utf-16", false),
            ("text/json", false),
            ("application/x-www-form-urlencoded", false),
            ("multipart/form-data; boundary=x", false),
            ("text/plain", false),
            ("", false),
        ] {
            assert_eq!(json_only(&with(header::CONTENT_TYPE, value)).is_ok(), taken, "{value}");
        }
        assert!(json_only(&with(header::CONTENT_ENCODING, "gzip")).is_err());
        for (value, taken) in [("*/*", true), ("text/html, application/*;q=0.1", true), ("text/html", false)] {
            assert_eq!(accept(&with(header::ACCEPT, value)).is_ok(), taken, "{value}");
        }
    }

    #[test]
    fn a_client_may_ask_for_less_time_only() {
        let limit = |name, value: &str| timeout(&with(name, value), Duration::from_secs(30)).ok();
        assert_eq!(limit(REQUEST_TIMEOUT, "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(limit(REQUEST_TIMEOUT, "60"), Some(Duration::from_secs(30)));
        assert_eq!(limit(GRPC_TIMEOUT, "200m"), Some(Duration::from_millis(200)));
        for bad in ["", "-1", "x", "1s", "1e3", "NaN", "1.2.3", "99999999999999999999999999999999"] {
            assert_eq!(limit(REQUEST_TIMEOUT, bad), None, "{bad}");
        }
    }

    #[test]
    fn an_idempotency_key_is_visible_ascii() {
        let taken = |value: &str| idempotency_key(&with(IDEMPOTENCY_KEY, value)).is_ok();
        assert!(taken("k") && taken(&"k".repeat(128)) && taken("\"quoted\""));
        assert!(!taken("") && !taken(&"k".repeat(129)) && !taken("two words"));
    }
}
