//! A client that says one thing in every protocol, and hears the same of every answer.
#![expect(clippy::unwrap_used, reason = "a broken client is a failed test")]

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use bytes::{Buf, Bytes};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde_json::{Value as Json, json};
use tonic::Status;
use tonic_types::pb;

use crate::{
    house::{House, contract},
    talker::frame,
};

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tongue {
    Json,
    Grpc,
    Web,
    WebText,
    Connect,
    ConnectProto,
}

pub(crate) const ALL: [Tongue; 6] =
    [Tongue::Json, Tongue::Grpc, Tongue::Web, Tongue::WebText, Tongue::Connect, Tongue::ConnectProto];

/// What came back, whatever the protocol.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) http: u16,
    pub(crate) code: i32,
    pub(crate) text: String,
    /// The types of the details, in order.
    pub(crate) details: Vec<String>,
    pub(crate) reason: String,
    pub(crate) message: Json,
    pub(crate) headers: HeaderMap,
    /// gRPC trailers, in the protocols that have them.
    pub(crate) trailers: HeaderMap,
}

impl Heard {
    /// A header that the service saw.
    pub(crate) fn seen(&self, name: &str) -> Option<String> {
        let prefix = format!("{name}: ");
        let seen = self.message["texts"].as_array()?.iter();
        seen.filter_map(Json::as_str).find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
    }
}

/// A raw answer.
pub(crate) struct Raw {
    pub(crate) http: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl House {
    /// Sends a whole request over HTTP/2 and reads the whole answer.
    pub(crate) async fn exchange(
        &self,
        verb: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Raw {
        let mut request = Request::builder().method(verb).uri(self.uri(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.answer(request.body(Full::new(body.into())).unwrap()).await;
        let (parts, body) = response.into_parts();
        let collected = body.collect().await.unwrap();
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Raw { http: parts.status.as_u16(), headers: parts.headers, body: collected.to_bytes(), trailers }
    }

    /// Calls `service/method`, by its route where the tongue is plain JSON.
    pub(crate) async fn say(
        &self,
        tongue: Tongue,
        method: &str,
        route: &str,
        headers: &[(&str, &str)],
        message: &Json,
    ) -> Heard {
        let path = format!("/everything.v1.{method}");
        let contract = contract();
        let descriptor = contract.method(&path).map(|method| method.descriptor.clone());
        let output = descriptor.as_ref().map(prost_reflect::MethodDescriptor::output);
        let input = descriptor.map(|found| DynamicMessage::deserialize(found.input(), message).unwrap());
        let bytes = input.as_ref().map(Message::encode_to_vec).unwrap_or_default();
        let frame = input.as_ref().map(frame).unwrap_or_default();
        let (path, kind, body) = match tongue {
            Tongue::Json => (route, "application/json", message.to_string().into()),
            Tongue::Grpc => (path.as_str(), "application/grpc", frame),
            Tongue::Web => (path.as_str(), "application/grpc-web+proto", frame),
            Tongue::WebText => (path.as_str(), "application/grpc-web-text", BASE64_STANDARD.encode(frame).into()),
            Tongue::Connect => (path.as_str(), "application/json", message.to_string().into()),
            Tongue::ConnectProto => (path.as_str(), "application/proto", Bytes::from(bytes)),
        };
        let mut all = vec![("content-type", kind)];
        if tongue == Tongue::Grpc {
            all.push(("te", "trailers"));
        }
        all.extend(headers);
        hear(tongue, self.exchange("POST", path, &all, body).await, output.as_ref())
    }
}

/// Reads an answer of one message.
pub(crate) fn hear(tongue: Tongue, raw: Raw, output: Option<&MessageDescriptor>) -> Heard {
    let Raw { http, headers, body, mut trailers } = raw;
    let kind = headers["content-type"].to_str().unwrap().to_owned();
    let decode = |bytes: &[u8]| {
        let message = DynamicMessage::decode(output.unwrap().clone(), bytes).unwrap();
        serde_json::to_value(message).unwrap()
    };
    let mut message = Json::Null;
    match tongue {
        Tongue::Json | Tongue::Connect | Tongue::ConnectProto => {
            let ok = http == 200;
            assert_eq!(
                kind,
                if ok && tongue == Tongue::ConnectProto { "application/proto" } else { "application/json" }
            );
            if !ok {
                let json: Json = serde_json::from_slice(&body).unwrap();
                return if tongue == Tongue::Json {
                    of_status(http, headers, &json)
                } else {
                    of_connect(http, headers, &json)
                };
            }
            message =
                if tongue == Tongue::ConnectProto { decode(&body) } else { serde_json::from_slice(&body).unwrap() };
            trailers.insert(Status::GRPC_STATUS, "0".parse().unwrap());
        }
        Tongue::Grpc => {
            assert_eq!((http, kind.as_str()), (200, "application/grpc"));
            if body.is_empty() && trailers.is_empty() {
                trailers.clone_from(&headers);
            } else if !body.is_empty() {
                message = decode(&body[5..]);
            }
        }
        Tongue::Web | Tongue::WebText => {
            let text = tongue == Tongue::WebText;
            assert_eq!((http, kind.starts_with("application/grpc-web-text")), (200, text));
            for (flags, data) in frames(&if text { untext(&body) } else { body }) {
                if flags == 0x80 {
                    trailers = block(&data);
                } else {
                    message = decode(&data);
                }
            }
        }
    }
    let status = Status::from_header_map(&trailers).unwrap();
    let details = pb::Status::decode(status.details()).unwrap().details;
    let reason = details.iter().find(|any| any.type_url.ends_with("google.rpc.ErrorInfo"));
    let reason = reason.map(|any| pb::ErrorInfo::decode(any.value.as_slice()).unwrap().reason).unwrap_or_default();
    let details = details.iter().map(|any| any.type_url.rsplit('/').next().unwrap().to_owned()).collect();
    let (code, text) = (status.code() as i32, status.message().to_owned());
    Heard { http, code, text, details, reason, message, headers, trailers }
}

fn of_status(http: u16, headers: HeaderMap, json: &Json) -> Heard {
    let all = json["details"].as_array().unwrap();
    let details = all.iter().map(|one| one["@type"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect();
    let reason = all.iter().find_map(|one| one["reason"].as_str()).unwrap_or_default().to_owned();
    let code = i32::try_from(json["code"].as_i64().unwrap()).unwrap();
    let text = json["message"].as_str().unwrap().to_owned();
    Heard { http, code, text, details, reason, message: Json::Null, headers, trailers: HeaderMap::new() }
}

/// An error object of Connect.
pub(crate) fn of_connect(http: u16, headers: HeaderMap, json: &Json) -> Heard {
    let names = [
        "ok",
        "canceled",
        "unknown",
        "invalid_argument",
        "deadline_exceeded",
        "not_found",
        "already_exists",
        "permission_denied",
        "resource_exhausted",
        "failed_precondition",
        "aborted",
        "out_of_range",
        "unimplemented",
        "internal",
        "unavailable",
        "data_loss",
        "unauthenticated",
    ];
    let code = names.iter().position(|name| json["code"] == *name).unwrap();
    let all = json["details"].as_array().unwrap();
    let reason = all.iter().find(|one| one["type"] == "google.rpc.ErrorInfo").map(|one| {
        let value = BASE64_STANDARD_NO_PAD.decode(one["value"].as_str().unwrap()).unwrap();
        let info = pb::ErrorInfo::decode(value.as_slice()).unwrap();
        assert_eq!(one["debug"]["reason"], json!(info.reason));
        info.reason
    });
    let details = all.iter().map(|one| one["type"].as_str().unwrap().to_owned()).collect();
    let (code, text) = (i32::try_from(code).unwrap(), json["message"].as_str().unwrap().to_owned());
    let (reason, message, trailers) = (reason.unwrap_or_default(), Json::Null, HeaderMap::new());
    Heard { http, code, text, details, reason, message, headers, trailers }
}

/// Splits a body into its messages with their flags.
pub(crate) fn frames(body: &Bytes) -> Vec<(u8, Bytes)> {
    let (mut left, mut out) = (body.clone(), Vec::new());
    while !left.is_empty() {
        let flags = left.get_u8();
        let length = left.get_u32() as usize;
        out.push((flags, left.split_to(length)));
    }
    out
}

/// Decodes base64 that may be padded in the middle.
pub(crate) fn untext(body: &[u8]) -> Bytes {
    body.chunks(4).flat_map(|group| BASE64_STANDARD.decode(group).unwrap()).collect()
}

/// The trailers of a gRPC-Web answer.
pub(crate) fn block(data: &[u8]) -> HeaderMap {
    let text = String::from_utf8(data.to_vec()).unwrap();
    let lines = text.split("\r\n").filter(|line| !line.is_empty()).map(|line| line.split_once(": ").unwrap());
    lines.map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

/// A query that carries a message to Connect's GET.
pub(crate) fn connect_get(message: &[u8], encoding: &str) -> String {
    format!("connect=v1&encoding={encoding}&base64=1&message={}", BASE64_URL_SAFE_NO_PAD.encode(message))
}
