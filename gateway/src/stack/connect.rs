//! Connect's unary calls: a message in a plain HTTP body, or in the query of a GET (connectrpc.com/docs/protocol).

use std::time::Duration;

use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Response, StatusCode, header};
use hyper::body::Incoming;
use tenon_proto::{options::v1::policy::Access, policy::Effect};
use tonic::Code;

use super::{
    REPLAYED,
    forward::{Ask, unsupported},
    frames::{Frames, MAX_MESSAGE, envelope, malformed},
    keyed::Sending,
    metadata, pack,
    protocol::{COMPRESSED, parameter},
    request::{self, Encoding},
    seen::Seen,
};
use crate::{errors::Refusal, template, transcode::Codec, upstreams::Served};

const VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
pub(super) const STREAM_ENCODING: HeaderName = HeaderName::from_static("connect-content-encoding");
const STREAM_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("connect-accept-encoding");
const TRAILER_PREFIX: &str = "trailer-";
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Says which media type a method takes that is of the other kind.
pub(super) fn other_kind(takes: &str) -> Refusal {
    unsupported(format!("this method takes {takes}"))
}

/// What a request of this protocol must say of itself.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.get(VERSION).is_some_and(|version| version != "1") {
        return Err(Refusal::invalid("UNSUPPORTED_VERSION", VERSION.as_str(), "must be 1"));
    }
    is_zipped(headers).map(drop)
}

/// Whether the messages of a stream may come compressed.
pub(super) fn is_zipped(headers: &HeaderMap) -> Result<bool, Refusal> {
    match headers.get(STREAM_ENCODING).map(|encoding| encoding.as_bytes().to_ascii_lowercase()).as_deref() {
        None | Some(b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(_) => Err(unknown_encoding("in a stream identity and gzip are taken")),
    }
}

/// Whether the client takes the messages of a stream compressed.
pub(super) fn takes_zipped(headers: &HeaderMap) -> bool {
    pack::takes(headers.get_all(STREAM_ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()))
}

/// The frame of gRPC for an envelope's message, which is JSON when there is a codec.
pub(super) fn unwrapped(
    (flags, message): (u8, Bytes),
    codec: Option<&Codec>,
    is_zipped: bool,
) -> Result<Bytes, Refusal> {
    let message = match flags {
        0 => message,
        COMPRESSED if is_zipped => request::decoded(message, Some(Encoding::Gzip))?,
        _ => return Err(malformed("an envelope has flags that its request does not announce")),
    };
    codec.map_or_else(|| Ok(envelope(0, &message)), |codec| codec.frame(&message))
}

/// The envelope of a message, compressed when it has `zip_from` bytes or more.
pub(super) fn wrapped(message: &[u8], zip_from: Option<usize>) -> Bytes {
    match zip_from {
        Some(from) if message.len() >= from => envelope(COMPRESSED, &pack::gzip(message)),
        _ => envelope(0, message),
    }
}

/// Connect has a code of its own for what it calls compression.
fn unknown_encoding(why: &str) -> Refusal {
    Refusal::new(Code::Unimplemented, "UNSUPPORTED_ENCODING", why)
}

/// A call of one message each way.
pub(super) async fn unary(
    ask: &Ask<'_>,
    json: bool,
    seen: &Seen,
    headers: &HeaderMap,
    body: Incoming,
    call: Sending<'_>,
    within: Duration,
) -> Result<Response<Bytes>, Refusal> {
    let Served { method, codec, .. } = ask.served;
    let message = if seen.verb == Verb::GET {
        if method.effect != Effect::None {
            let why = "only a method without side effects is called with GET";
            let refusal = Refusal::new(Code::Unimplemented, "METHOD_NOT_ALLOWED", why);
            let allow = HeaderValue::from_static("POST");
            return Err(refusal.http(StatusCode::METHOD_NOT_ALLOWED).header(header::ALLOW, allow));
        }
        of_query(seen.uri.query().unwrap_or_default())?
    } else {
        let encoding = request::encoding(headers).map_err(|_| unknown_encoding("identity and gzip are taken"))?;
        let body = request::body(body, within, MAX_MESSAGE).await?;
        seen.took(body.len());
        request::decoded(body, encoding)?
    };
    let frame = if json { codec.frame(&message)? } else { envelope(0, &message) };
    let answer = call.send(frame).await?;
    let data = if json { codec.json(&answer.message)? } else { answer.message };
    let mut response = Response::new(data);
    let to = response.headers_mut();
    to.extend(metadata::outward(&answer.headers));
    metadata::prefixed(metadata::outward(&answer.trailers), TRAILER_PREFIX, to);
    to.insert(header::CONTENT_TYPE, ask.protocol.media());
    metadata::copy(&[REPLAYED], &answer.headers, to);
    if method.access != Access::Public {
        to.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    Ok(response)
}

/// The message that a query carries.
fn of_query(query: &str) -> Result<Bytes, Refusal> {
    let refuse = |field: &str, why: &str| Refusal::invalid("INVALID_QUERY", field, why);
    let text = |name: &str| {
        let raw = parameter(query, name).unwrap_or_default().replace('+', " ");
        template::decode(&raw, false).map(std::borrow::Cow::into_owned)
    };
    if parameter(query, "connect").is_some_and(|version| version != "v1") {
        return Err(refuse("connect", "must be v1"));
    }
    if !matches!(parameter(query, "encoding"), Some("json" | "proto")) {
        return Err(unsupported("the encoding of a GET is json or proto".to_owned()));
    }
    let message = if parameter(query, "base64") == Some("1") {
        let encoded = text("message").ok_or_else(|| refuse("message", "is not percent-encoded UTF-8"))?;
        BASE64.decode(encoded).map_err(|_| refuse("message", "must be base64, URL-safe"))?
    } else {
        let raw = parameter(query, "message").unwrap_or_default();
        template::decode_bytes(&raw.replace('+', " ")).ok_or_else(|| refuse("message", "is not percent-encoded"))?
    };
    let encoding = match parameter(query, "compression") {
        None | Some("" | "identity") => None,
        Some("gzip") => Some(Encoding::Gzip),
        Some(_) => return Err(unknown_encoding("identity and gzip are taken")),
    };
    request::decoded(message.into(), encoding)
}

/// The frame of a request that is one envelope.
pub(super) fn enveloped(codec: Option<&Codec>, is_zipped: bool, body: &[u8]) -> Result<Bytes, Refusal> {
    let mut frames = Frames::default();
    frames.push(body);
    match (frames.next()?, frames.is_between()) {
        (Some(one), true) => unwrapped(one, codec, is_zipped),
        _ => Err(malformed("the body must be one envelope")),
    }
}
