//! Which protocol a request speaks, decided in one place, and how a refusal is said in it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb, Response, StatusCode, Uri, Version, header};
use prost_reflect::DescriptorPool;
use tonic::Code;

use super::{GRPC, JSON, frames};
use crate::errors::{Refusal, Told};

/// How a client speaks to the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Plain HTTP by the routes of google.api.http.
    Json,
    /// gRPC over HTTP/2, passed on as it is.
    Grpc,
    /// gRPC-Web, binary or in base64.
    Web { text: bool },
    /// A unary Connect call.
    Connect { json: bool },
    /// A Connect call in envelopes.
    ConnectStream { json: bool },
}

/// Bits of an envelope's first byte.
pub(super) const COMPRESSED: u8 = 0x01;
const CONNECT_END: u8 = 0x02;
const WEB_TRAILERS: u8 = 0x80;
/// What a method's own path takes.
const ACCEPT_POST: HeaderValue = HeaderValue::from_static(
    "application/json, application/proto, application/connect+json, application/connect+proto, application/grpc, \
     application/grpc-web, application/grpc-web-text",
);

impl Protocol {
    /// `is_method` says whether the path is that of a method, `/package.Service/Method`.
    ///
    /// # Errors
    /// The protocol to refuse in, when there is a protocol and it is spoken in a form that is not taken.
    pub(super) fn of(
        (verb, uri, version): (&Verb, &Uri, Version),
        headers: &HeaderMap,
        is_method: bool,
    ) -> Result<Self, (Self, Refusal)> {
        if *verb != Verb::POST {
            let get = is_method && *verb == Verb::GET;
            let asks = |name: &str| uri.query().is_some_and(|query| parameter(query, name).is_some());
            if get && asks("encoding") && asks("message") {
                let json = uri.query().and_then(|query| parameter(query, "encoding")) == Some("json");
                return Ok(Self::Connect { json });
            }
            return Ok(Self::Json);
        }
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind == "application/json" {
            return Ok(if is_method { Self::Connect { json: true } } else { Self::Json });
        }
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let subtype = essence.strip_prefix("application/").unwrap_or_default();
        let unknown = |protocol: Self| {
            let why = "of this protocol's codecs proto is served, and json for Connect";
            let refusal = Refusal::new(Code::Unimplemented, "UNSUPPORTED_MEDIA_TYPE", why);
            Err((
                protocol,
                refusal
                    .http(StatusCode::UNSUPPORTED_MEDIA_TYPE)
                    .header(header::HeaderName::from_static("accept-post"), ACCEPT_POST),
            ))
        };
        match subtype {
            "grpc" | "grpc+proto" if version < Version::HTTP_2 => {
                let why = "gRPC needs HTTP/2; over HTTP/1.1 use gRPC-Web or Connect";
                let refusal = Refusal::new(Code::Unimplemented, "HTTP2_REQUIRED", why);
                Err((Self::Json, refusal.http(StatusCode::HTTP_VERSION_NOT_SUPPORTED)))
            }
            "grpc" | "grpc+proto" => Ok(Self::Grpc),
            "grpc-web" | "grpc-web+proto" => Ok(Self::Web { text: false }),
            "grpc-web-text" | "grpc-web-text+proto" => Ok(Self::Web { text: true }),
            "connect+proto" => Ok(Self::ConnectStream { json: false }),
            "connect+json" => Ok(Self::ConnectStream { json: true }),
            "proto" if is_method => Ok(Self::Connect { json: false }),
            "json" if is_method => Ok(Self::Connect { json: true }),
            _ if subtype.starts_with("grpc-web") => unknown(Self::Web { text: subtype.starts_with("grpc-web-text") }),
            _ if subtype.starts_with("grpc+") => unknown(Self::Grpc),
            _ if subtype.starts_with("connect+") || is_method => unknown(Self::Json),
            _ => Ok(Self::Json),
        }
    }

    /// Its name in logs and metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "http",
            Self::Grpc => "grpc",
            Self::Web { .. } => "grpc-web",
            Self::Connect { .. } | Self::ConnectStream { .. } => "connect",
        }
    }

    /// The media type of its answers.
    pub(super) fn media(self) -> HeaderValue {
        match self {
            Self::Json | Self::Connect { json: true } => JSON,
            Self::Grpc => GRPC,
            Self::Web { text: false } => HeaderValue::from_static("application/grpc-web+proto"),
            Self::Web { text: true } => HeaderValue::from_static("application/grpc-web-text+proto"),
            Self::Connect { json: false } => HeaderValue::from_static("application/proto"),
            Self::ConnectStream { json: false } => HeaderValue::from_static("application/connect+proto"),
            Self::ConnectStream { json: true } => HeaderValue::from_static("application/connect+json"),
        }
    }

    /// A whole answer that is nothing but a refusal.
    pub(super) fn refuse(self, told: &Told, pool: &DescriptorPool) -> Response<Bytes> {
        let mut response = match self {
            Self::Json => return told.as_http(pool),
            Self::Connect { .. } => {
                let mut response = Response::new(Bytes::from(told.connect(pool).to_string()));
                *response.status_mut() = connect_status(told);
                response.headers_mut().extend(told.metadata.clone());
                response
            }
            Self::Grpc => {
                let mut response = Response::default();
                told.grpc(response.headers_mut());
                response
            }
            Self::Web { .. } | Self::ConnectStream { .. } => Response::new(self.end(Err(told), HeaderMap::new(), pool)),
        };
        let media = if matches!(self, Self::Connect { .. }) { JSON } else { self.media() };
        told.headers(response.headers_mut());
        response.headers_mut().insert(header::CONTENT_TYPE, media);
        response
    }

    /// The last frame of a gRPC-Web or Connect stream: trailers, and the status or error.
    pub(super) fn end(self, outcome: Result<(), &Told>, trailers: HeaderMap, pool: &DescriptorPool) -> Bytes {
        match self {
            Self::Web { text } => {
                let mut all = trailers;
                match outcome {
                    Ok(()) => drop(all.insert("grpc-status", HeaderValue::from_static("0"))),
                    Err(told) => told.grpc(&mut all),
                }
                let mut block = Vec::with_capacity(64);
                for (name, value) in &all {
                    block.extend_from_slice(name.as_str().as_bytes());
                    block.extend_from_slice(b": ");
                    block.extend_from_slice(value.as_bytes());
                    block.extend_from_slice(b"\r\n");
                }
                let frame = frames::envelope(WEB_TRAILERS, &block);
                if text { frames::base64(&frame) } else { frame }
            }
            _ => {
                let mut end = serde_json::Map::new();
                let mut metadata = trailers;
                if let Err(told) = outcome {
                    end.insert("error".to_owned(), told.connect(pool));
                    metadata.extend(told.metadata.clone());
                }
                let values = |name| metadata.get_all(name).iter().filter_map(|value| value.to_str().ok());
                let lists: serde_json::Map<_, _> =
                    metadata.keys().map(|name| (name.as_str().to_owned(), values(name).collect())).collect();
                if !lists.is_empty() {
                    end.insert("metadata".to_owned(), lists.into());
                }
                frames::envelope(CONNECT_END, serde_json::Value::Object(end).to_string().as_bytes())
            }
        }
    }
}

/// A raw query parameter.
pub(super) fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// The HTTP status of a Connect error (connectrpc.com/docs/protocol, "Error codes"), but for a media type that is not taken.
fn connect_status(told: &Told) -> StatusCode {
    match told.code {
        _ if told.http() == StatusCode::UNSUPPORTED_MEDIA_TYPE => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::FailedPrecondition => StatusCode::BAD_REQUEST,
        code => crate::errors::http_status(code, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(verb: &Verb, uri: &str, kind: &str, is_method: bool) -> String {
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
        }
        let uri: Uri = uri.parse().unwrap();
        match Protocol::of((verb, &uri, Version::HTTP_2), &headers, is_method) {
            Ok(protocol) => format!("{protocol:?}"),
            Err((protocol, refusal)) => format!("{protocol:?} {}", refusal.told().http().as_u16()),
        }
    }

    #[test]
    fn the_media_type_and_the_path_say_which_protocol_it_is() {
        let path = "/a.B/C";
        for (verb, uri, kind, is_method, expected) in [
            (Verb::POST, path, "application/grpc", true, "Grpc"),
            (Verb::POST, path, "Application/gRPC+Proto; x=y", true, "Grpc"),
            (Verb::POST, path, "application/grpc", false, "Grpc"),
            (Verb::POST, path, "application/grpc+json", true, "Grpc 415"),
            (Verb::POST, path, "application/grpc-web", true, "Web { text: false }"),
            (Verb::POST, path, "application/grpc-web-text+proto", true, "Web { text: true }"),
            (Verb::POST, path, "application/grpc-web+thrift", true, "Web { text: false } 415"),
            (Verb::POST, path, "application/json; charset=utf-8", true, "Connect { json: true }"),
            (Verb::POST, "/v1/x", "application/json", false, "Json"),
            (Verb::POST, path, "application/proto", true, "Connect { json: false }"),
            (Verb::POST, path, "application/connect+json", true, "ConnectStream { json: true }"),
            (Verb::POST, path, "application/connect+proto", true, "ConnectStream { json: false }"),
            (Verb::POST, path, "text/plain", true, "Json 415"),
            (Verb::POST, path, "", true, "Json 415"),
            (Verb::POST, "/v1/x", "", false, "Json"),
            (Verb::GET, "/a.B/C?encoding=json&message=%7B%7D", "", true, "Connect { json: true }"),
            (Verb::GET, "/a.B/C?connect=v1&encoding=proto&message=", "", true, "Connect { json: false }"),
            (Verb::GET, "/a.B/C?message=x", "", true, "Json"),
            (Verb::GET, "/v1/x?encoding=json&message=x", "", false, "Json"),
        ] {
            assert_eq!(of(&verb, uri, kind, is_method), expected, "{uri} {kind}");
        }
    }
}
