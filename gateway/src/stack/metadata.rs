//! What passes between a client's headers and a service's metadata, both ways.
//!
//! gRPC, gRPC-Web and Connect: every header that is not denied. HTTP/JSON: what the method's policy declares, and
//! `Grpc-Metadata-NAME` as NAME. A name is denied in every spelling: case is nothing in HTTP, and `_` reads as `-`.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tonic::Code;

use super::protocol::Protocol;
use crate::errors::Refusal;

/// How HTTP/JSON spells metadata, as grpc-gateway does.
const PREFIX: &str = "grpc-metadata-";
/// How HTTP/JSON spells metadata that came at the end of the answer.
const TRAILER_PREFIX: &str = "grpc-trailer-";
/// What a browser sends when an event stream is opened again.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Bytes of names and values that pass, as gRPC servers commonly take at most.
const MAX_BYTES: usize = 8 * 1024;
/// Headers that pass.
const MAX_COUNT: usize = 64;

/// Never metadata, either way: the connection's own, the message's own, credentials, and what the edge sets itself.
const DENIED: [&str; 37] = [
    "age",
    "alt-svc",
    "authorization",
    "connection",
    "cookie",
    "date",
    "dnt",
    "expect",
    "forwarded",
    "host",
    "idempotency-key",
    "idempotency-replayed",
    "if-modified-since",
    "if-none-match",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "priority",
    "proxy-connection",
    "range",
    "referer",
    "retry-after",
    "server",
    "set-cookie",
    "te",
    "trailer",
    "traceparent",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "upgrade-insecure-requests",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
    "client-ip",
];
const DENIED_PREFIXES: [&str; 22] = [
    "accept",
    "access-control-",
    "cache-control",
    "cf-connecting-",
    "connect-",
    "content-",
    "cross-origin-",
    "grpc-",
    "http2-",
    "proxy-auth",
    "ratelimit",
    "sec-",
    "strict-transport-",
    "x-api-key",
    "x-client-ip",
    "x-content-type-",
    "x-forwarded-",
    "x-grpc-web",
    "x-operator-key",
    "x-request-",
    "x-tenant-",
    "x-tenon-",
];
/// As prefixes would take more than they should.
const DENIED_TOO: [&str; 6] = [
    "x-real-ip",
    "x-frame-options",
    "referrer-policy",
    "permissions-policy",
    "x-user-agent",
    "x-original-forwarded-for",
];

/// Whether a header of this name is metadata.
pub(super) fn passes(name: &str) -> bool {
    let name: Cow<'_, str> = if name.contains('_') { Cow::Owned(name.replace('_', "-")) } else { Cow::Borrowed(name) };
    let name = name.as_ref();
    !DENIED.contains(&name)
        && !DENIED_TOO.contains(&name)
        && !DENIED_PREFIXES.iter().any(|denied| name.starts_with(denied))
        && !name.starts_with(':')
}

/// Adds what passes of a client's headers to those of the call behind.
///
/// # Errors
/// When that is too much, or no metadata by its bytes.
pub(super) fn inward(protocol: Protocol, headers: &HeaderMap, to: &mut HeaderMap) -> Result<(), Refusal> {
    let listed = Listed::of(headers);
    let (mut bytes, mut count) = (0, 0);
    for (sent, value) in headers {
        let name = if protocol == Protocol::Json {
            let Some(name) = unwrapped(sent) else { continue };
            Cow::Owned(name)
        } else {
            Cow::Borrowed(sent)
        };
        if !passes(name.as_str()) || listed.holds(sent) || listed.holds(&name) {
            continue;
        }
        if !value.as_bytes().iter().all(|byte| (0x20..0x7f).contains(byte)) {
            let why = "metadata is printable ASCII; send bytes as base64 under a name that ends in -bin";
            return Err(Refusal::invalid("INVALID_METADATA", name.as_str(), why));
        }
        bytes += name.as_str().len() + value.len();
        count += 1;
        if bytes > MAX_BYTES || count > MAX_COUNT {
            let why = "more than 64 headers or 8 KiB of metadata";
            let refusal = Refusal::new(Code::ResourceExhausted, "METADATA_TOO_LARGE", why);
            return Err(refusal.http(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        }
        to.append(name.into_owned(), value.clone());
    }
    Ok(())
}

/// `Grpc-Metadata-NAME` as NAME; `Last-Event-ID` as it is.
fn unwrapped(name: &HeaderName) -> Option<HeaderName> {
    if *name == LAST_EVENT_ID {
        return Some(LAST_EVENT_ID);
    }
    HeaderName::from_bytes(name.as_str().strip_prefix(PREFIX)?.as_bytes()).ok()
}

/// The names that `Connection` lists: they end here (RFC 9110 section 7.6.1).
pub(super) struct Listed<'h>(Vec<&'h str>);

impl<'h> Listed<'h> {
    pub(super) fn of(headers: &'h HeaderMap) -> Self {
        let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        Self(values.flat_map(|value| value.split(',')).map(str::trim).collect())
    }

    pub(super) fn holds(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|listed| listed.eq_ignore_ascii_case(name.as_str()))
    }
}

/// What passes of a service's headers or trailers.
pub(crate) fn outward(from: &HeaderMap) -> HeaderMap {
    let mut to = HeaderMap::new();
    pass_out(from, &mut to);
    to
}

/// Adds what passes of a service's headers or trailers to an answer's.
pub(super) fn pass_out(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from.iter().filter(|(name, _)| passes(name.as_str())) {
        to.append(name.clone(), value.clone());
    }
}

/// Writes metadata of an answer as headers of HTTP/JSON: `Grpc-Metadata-NAME`, or `Grpc-Trailer-NAME`.
pub(super) fn spelt_for_json(metadata: HeaderMap, trailers: bool, to: &mut HeaderMap) {
    prefixed(metadata, if trailers { TRAILER_PREFIX } else { PREFIX }, to);
}

/// Writes metadata as headers with a prefix before each name.
pub(super) fn prefixed(metadata: HeaderMap, prefix: &str, to: &mut HeaderMap) {
    let mut last = None;
    for (name, value) in metadata {
        last = name.or(last);
        let spelt = last.as_ref().and_then(|name| HeaderName::try_from(format!("{prefix}{name}")).ok());
        if let Some(name) = spelt {
            to.append(name, value);
        }
    }
}

/// Copies headers that a protocol uses itself, when they are there.
pub(super) fn copy(names: &[HeaderName], from: &HeaderMap, to: &mut HeaderMap) {
    for name in names {
        if let Some(value) = from.get(name) {
            to.insert(name.clone(), HeaderValue::clone(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(protocol: Protocol, headers: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let mut from = HeaderMap::new();
        for (name, value) in headers {
            from.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let mut to = HeaderMap::new();
        inward(protocol, &from, &mut to).map_err(|refusal| refusal.status.message().to_owned())?;
        let mut lines: Vec<_> = to.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        lines.sort();
        Ok(lines)
    }

    #[test]
    fn every_spelling_of_an_internal_name_stays_outside() {
        for name in [
            "x-tenant-id",
            "X-Tenant-Id",
            "x_tenant_id",
            "X-TENANT_ID",
            "x-tenon-roles",
            "x_tenon_roles",
            "x-tenon-",
            "x-operator-key",
            "x_operator_key",
            "x-api-key",
            "x-forwarded-for",
            "x_forwarded_for",
            "x-forwarded-host",
            "forwarded",
            "x-real-ip",
            "x_real_ip",
            "x-request-id",
            "x-request-timeout",
            "grpc-timeout",
            "grpc_status",
            "grpc-anything",
            "te",
            "connection",
            "keep-alive",
            "proxy-authorization",
            "transfer-encoding",
            "upgrade",
            "trailer",
            "cookie",
            "authorization",
            "host",
            "content-type",
            "content-length",
            "content_type",
            "accept",
            "accept-encoding",
            "connect-protocol-version",
            "traceparent",
            "idempotency-key",
            "idempotency_key",
            "sec-fetch-mode",
            "via",
        ] {
            for protocol in [Protocol::Grpc, Protocol::Web { text: false }, Protocol::Connect { json: true }] {
                assert_eq!(sent(protocol, &[(name, "x")]), Ok(vec![]), "{name}");
            }
            assert_eq!(sent(Protocol::Json, &[(name, "x")]), Ok(vec![]), "{name}");
            assert_eq!(sent(Protocol::Json, &[(&format!("Grpc-Metadata-{name}"), "x")]), Ok(vec![]), "{name}");
        }
        let twice = "Grpc-Metadata-Grpc-Metadata-X-Tenant-Id";
        assert_eq!(sent(Protocol::Json, &[(twice, "x")]), Ok(vec![]));
    }

    #[test]
    fn a_clients_own_headers_pass_where_the_protocol_says() {
        let headers = [("X-Colour", "red"), ("x-colour", "blue"), ("trace-bin", "AAE")];
        assert_eq!(sent(Protocol::Grpc, &headers).unwrap(), ["trace-bin=AAE", "x-colour=blue", "x-colour=red"]);
        assert_eq!(sent(Protocol::Json, &headers), Ok(vec![]));
        let wrapped = [("Grpc-Metadata-X-Colour", "red"), ("last-event-id", "7")];
        assert_eq!(sent(Protocol::Json, &wrapped).unwrap(), ["last-event-id=7", "x-colour=red"]);
        let listed = [("connection", "close, X-Colour"), ("x-colour", "red"), ("x-shape", "round")];
        assert_eq!(sent(Protocol::Grpc, &listed).unwrap(), ["x-shape=round"]);
        assert!(sent(Protocol::Grpc, &[("x-colour", "r\u{e9}d")]).is_err());
        assert!(sent(Protocol::Grpc, &[("x-colour", &"r".repeat(9000))]).is_err());
        assert!(sent(Protocol::Grpc, &[("x-colour", "r"); 65]).is_err());
    }

    #[test]
    fn an_answer_never_overrides_what_the_edge_says_itself() {
        let mut from = HeaderMap::new();
        for name in
            ["x-colour", "strict-transport-security", "access-control-allow-origin", "set-cookie", "x-request-id"]
        {
            from.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        for name in ["x-frame-options", "x-content-type-options", "content-security-policy", "ratelimit", "x-tenant-id"]
        {
            from.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        let out = outward(&from);
        assert_eq!(out.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-colour"]);
        let mut to = HeaderMap::new();
        spelt_for_json(out, false, &mut to);
        assert_eq!(to["grpc-metadata-x-colour"], "x");
    }
}
