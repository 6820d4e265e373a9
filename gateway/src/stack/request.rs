//! What a request must look like before its body is believed: media types, size, time, keys.

use std::{io::Read, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tenon_chassis::{
    client::{GRPC_TIMEOUT, IDEMPOTENCY_KEY, parse_timeout},
    guard::{API_KEY, OPERATOR_KEY, TENANT_ID},
    telemetry::TRACEPARENT,
};
use tenon_proto::policy::Method;
use tokio::time::timeout;
use tonic::Code;

use super::{
    REQUEST_ID,
    frames::{Gathered, MAX_MESSAGE, too_large},
    peer::FORWARDED_FOR,
};
use crate::errors::Refusal;

/// Seconds that a client is ready to wait: `2` or `0.5`.
pub(super) const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
/// The same in Connect.
const CONNECT_TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
/// A time that is longer is as good as none.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3_600);
/// Characters of an idempotency key.
const MAX_KEY: usize = 128;
/// How much, and for how long, a client may send on that was refused.
const LINGER_BYTES: usize = 16 * 1024 * 1024;
const LINGER: Duration = Duration::from_secs(1);
const LEFT_BYTES: usize = 64 * 1024;
const LEFT: Duration = Duration::from_millis(500);
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

/// The body, whole; empty when there is none. It has `most` bytes at most.
pub(super) async fn body(mut body: Incoming, within: Duration, most: usize) -> Result<Bytes, Refusal> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let is_too_large = body.size_hint().lower() > most as u64;
    let read = if is_too_large { Ok(Ok(None)) } else { timeout(within, gathered(&mut body, most)).await };
    match read {
        Ok(Ok(Some(read))) => Ok(read),
        Ok(Ok(None)) => {
            Box::pin(linger(body)).await;
            Err(too_large())
        }
        Ok(Err(_)) => Err(Refusal::invalid("INVALID_BODY", "", "the body ended before it was complete")),
        Err(_) => {
            let why = "the body did not arrive in time";
            Err(Refusal::new(Code::DeadlineExceeded, "BODY_TIMEOUT", why).http(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

/// All of a body; nothing when there is more than `most`.
async fn gathered(body: &mut Incoming, most: usize) -> Result<Option<Bytes>, hyper::Error> {
    let mut read = Gathered::default();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        read.push(data);
        if read.len() > most {
            return Ok(None);
        }
    }
    Ok(Some(read.take()))
}

/// Lets a client send on for a while what nobody keeps: one whose connection is closed under it never reads why.
async fn linger(body: Incoming) {
    let _cut = timeout(LINGER, dropped(body, LINGER_BYTES)).await;
}

/// The same for one that was refused before its body was looked at, over HTTP/1.1, which has no other way to tell it to stop:
/// as much as a message has as a rule.
pub(super) async fn left(body: Incoming) {
    if !body.is_end_stream() && body.size_hint().lower() <= LEFT_BYTES as u64 {
        let _cut = timeout(LEFT, dropped(body, LEFT_BYTES)).await;
    }
}

async fn dropped(mut body: Incoming, most: usize) {
    let mut left = most;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(less) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
        left = less;
    }
}

/// How a body was made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
}

/// How the body is encoded, if it is.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Refusal> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let encoding = match values.next().map(|value| value.as_bytes().to_ascii_lowercase()) {
        None => return Ok(None),
        Some(value) if value == b"identity" => None,
        Some(value) if value == b"gzip" || value == b"x-gzip" => Some(Encoding::Gzip),
        Some(_) => return Err(unsupported_encoding()),
    };
    if values.next().is_some() { Err(unsupported_encoding()) } else { Ok(encoding) }
}

fn unsupported_encoding() -> Refusal {
    let why = "send the body as it is, or compressed once with gzip";
    let refusal = Refusal::invalid("UNSUPPORTED_ENCODING", "content-encoding", why);
    let taken = HeaderValue::from_static("gzip, identity");
    refusal.http(StatusCode::UNSUPPORTED_MEDIA_TYPE).header(header::ACCEPT_ENCODING, taken)
}

/// The body as it was before it was made smaller, and no more of it than a message may have.
pub(super) fn decoded(body: Bytes, encoding: Option<Encoding>) -> Result<Bytes, Refusal> {
    if encoding.is_none() {
        return Ok(body);
    }
    let mut plain = Vec::with_capacity(body.len().saturating_mul(4).min(MAX_MESSAGE));
    let mut reader = flate2::read::MultiGzDecoder::new(body.as_ref()).take(MAX_MESSAGE as u64 + 1);
    reader.read_to_end(&mut plain).map_err(|_| Refusal::invalid("INVALID_BODY", "", "the body is not gzip"))?;
    if plain.len() > MAX_MESSAGE { Err(too_large()) } else { Ok(plain.into()) }
}

/// A body is JSON in UTF-8, plain or compressed. None of the media types that a web form can send is taken.
pub(super) fn json_only(headers: &HeaderMap) -> Result<Option<Encoding>, Refusal> {
    let encoding = encoding(headers)?;
    if is_media(headers, &|essence| {
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
    }) {
        return Ok(encoding);
    }
    Err(unsupported_media("must be application/json in UTF-8"))
}

/// A body is a stream of JSON values; whether they may come as the elements of an array.
pub(super) fn json_values(headers: &HeaderMap) -> Result<bool, Refusal> {
    if encoding(headers)?.is_some() {
        return Err(unsupported_media("a stream is not compressed"));
    }
    if headers.contains_key(header::CONTENT_TYPE)
        && is_media(headers, &|essence| {
            ["application/x-ndjson", "application/ndjson", "application/jsonl"].contains(&essence)
        })
    {
        return Ok(false);
    }
    if is_media(headers, &|essence| essence == "application/json") {
        return Ok(true);
    }
    Err(unsupported_media("must be application/x-ndjson or application/json in UTF-8"))
}

fn unsupported_media(why: &str) -> Refusal {
    let refusal = Refusal::invalid("UNSUPPORTED_MEDIA_TYPE", "content-type", why);
    refusal.http(StatusCode::UNSUPPORTED_MEDIA_TYPE)
}

/// Whether the media type is one of those wanted, in UTF-8; one that is not named is.
fn is_media(headers: &HeaderMap, wanted: &dyn Fn(&str) -> bool) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let mut parts = value.to_str().unwrap_or_default().split(';').map(str::trim);
    let utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, charset)) if name.eq_ignore_ascii_case("charset") => {
            charset.trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    };
    let essence = parts.next().unwrap_or_default();
    // Nearly all send exactly this.
    (wanted(essence) || wanted(&essence.to_ascii_lowercase())) && parts.all(utf8)
}

/// The headers that a method wants to see as they came; the name of one that it may not have.
pub(crate) fn handed_on(method: &Method) -> Result<Vec<HeaderName>, String> {
    let own = [
        API_KEY,
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

/// The time that the client gives us, if it says: the least of what it says.
pub(super) fn asked_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let mut limit: Option<Duration> = None;
    let mut least = |asked: Option<Duration>, name: &str, why: &str| match asked {
        Some(asked) => {
            limit = Some(limit.map_or(asked, |known| known.min(asked)));
            Ok(())
        }
        None => Err(Refusal::invalid("INVALID_TIMEOUT", name, why)),
    };
    if let Some(value) = headers.get(REQUEST_TIMEOUT) {
        let seconds = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
        let asked = seconds.and_then(|text| text.parse().ok()).and_then(|secs| Duration::try_from_secs_f64(secs).ok());
        least(asked.filter(|asked| *asked <= LONGEST), "x-request-timeout", "must be seconds like 2 or 0.5")?;
    }
    if let Some(value) = headers.get(GRPC_TIMEOUT) {
        least(
            parse_timeout(value).map(|asked| asked.min(LONGEST)),
            "grpc-timeout",
            "must be at most 8 digits and a unit",
        )?;
    }
    if let Some(value) = headers.get(CONNECT_TIMEOUT) {
        let digits = value.to_str().ok().filter(|text| text.len() <= 10 && text.bytes().all(|b| b.is_ascii_digit()));
        let asked = digits.and_then(|text| text.parse().ok()).map(Duration::from_millis);
        least(asked, "connect-timeout-ms", "must be at most 10 digits")?;
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
        assert_eq!(json_only(&with(header::CONTENT_ENCODING, "GZIP")).unwrap(), Some(Encoding::Gzip));
        assert!(json_only(&with(header::CONTENT_ENCODING, "gzip, gzip")).is_err());
        assert!(json_only(&with(header::CONTENT_ENCODING, "br")).is_err());
        for (value, array) in
            [("application/x-ndjson", Some(false)), ("application/json", Some(true)), ("text/x", None)]
        {
            assert_eq!(json_values(&with(header::CONTENT_TYPE, value)).ok(), array, "{value}");
        }
    }

    #[test]
    fn the_least_time_that_a_client_gives_counts() {
        let limit = |name, value: &str| asked_timeout(&with(name, value)).ok().flatten();
        assert_eq!(limit(REQUEST_TIMEOUT, "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(limit(GRPC_TIMEOUT, "200m"), Some(Duration::from_millis(200)));
        assert_eq!(limit(CONNECT_TIMEOUT, "1500"), Some(Duration::from_millis(1_500)));
        assert!(
            asked_timeout(&with(CONNECT_TIMEOUT, "1s")).is_err() && asked_timeout(&HeaderMap::new()).unwrap().is_none()
        );
        let mut both = with(REQUEST_TIMEOUT, "2");
        both.insert(GRPC_TIMEOUT, HeaderValue::from_static("1S"));
        assert_eq!(asked_timeout(&both).unwrap(), Some(Duration::from_secs(1)));
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
