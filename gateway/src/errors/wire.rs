//! One refusal in the words of each protocol: google.rpc.Status as JSON, gRPC trailers, Connect's error object.

use std::sync::LazyLock;

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage};
use serde_json::{Map, Value, json};
use tenon_chassis::fault::code_name;
use tonic::{Code, Status};
use tonic_types::pb;

use super::{TYPE_PREFIX, Told, name_of};

/// The standard details, `google.rpc.*`.
static DETAILS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).expect("the descriptor set that tonic-types carries is well-formed")
});

impl Told {
    /// google.rpc.Status as JSON. `pool` knows the detail messages that are not of `google.rpc`.
    pub(crate) fn json(&self, pool: &DescriptorPool) -> Value {
        let details = self.status.details.iter().map(|any| {
            let mut object = Map::new();
            object.insert("@type".to_owned(), format!("{TYPE_PREFIX}{}", name_of(&any.type_url)).into());
            object.extend(describe(any, pool).unwrap_or_default());
            Value::Object(object)
        });
        json!({ "code": self.status.code, "message": self.status.message, "details": details.collect::<Vec<_>>() })
    }

    /// Connect's error (connectrpc.com/docs/protocol, "Error end-stream").
    pub(crate) fn connect(&self, pool: &DescriptorPool) -> Value {
        let details = self.status.details.iter().map(|any| {
            let mut object = Map::new();
            object.insert("type".to_owned(), name_of(&any.type_url).into());
            object.insert("value".to_owned(), BASE64_STANDARD_NO_PAD.encode(&any.value).into());
            if let Some(debug) = describe(any, pool) {
                object.insert("debug".to_owned(), Value::Object(debug));
            }
            Value::Object(object)
        });
        let code = match self.code {
            Code::Cancelled => "canceled".to_owned(),
            code => code_name(code).to_ascii_lowercase(),
        };
        json!({ "code": code, "message": self.status.message, "details": details.collect::<Vec<_>>() })
    }

    /// Writes `grpc-status`, `grpc-message` and `grpc-status-details-bin`.
    pub(crate) fn grpc(&self, to: &mut HeaderMap) {
        to.extend(self.metadata.clone());
        let details = Bytes::from(self.status.encode_to_vec());
        let status = Status::with_details(self.code, self.status.message.as_str(), details);
        // A message that is no header value even when it is percent-encoded does not exist.
        let written = status.add_header(to);
        debug_assert!(written.is_ok(), "percent-encoded text is printable ASCII");
    }

    /// Headers that go out beside the status in every protocol.
    pub(crate) fn headers(&self, to: &mut HeaderMap) {
        if let Some(delay) = self.retry_after {
            // Rounded up: a client that comes back on the second must find room.
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            to.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        to.extend(self.headers.iter().cloned());
    }

    /// The HTTP status of google.api.http.
    pub(crate) fn http(&self) -> StatusCode {
        self.http
    }

    /// The whole answer of a JSON route.
    pub(crate) fn as_http(&self, pool: &DescriptorPool) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.json(pool).to_string()));
        *response.status_mut() = self.http;
        let to = response.headers_mut();
        to.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.http == StatusCode::UNAUTHORIZED {
            to.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        self.headers(to);
        response
    }
}

fn describe(any: &prost_types::Any, pool: &DescriptorPool) -> Option<Map<String, Value>> {
    let name = name_of(&any.type_url);
    let descriptor = DETAILS.get_message_by_name(name).or_else(|| pool.get_message_by_name(name))?;
    let message = DynamicMessage::decode(descriptor, any.value.as_slice()).ok()?;
    debug_assert_eq!(message.descriptor().full_name(), name);
    match serde_json::to_value(&message).ok()? {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tenon_chassis::fault::DOMAIN;
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;
    use crate::errors::Refusal;

    fn answer(refusal: impl Into<Refusal>) -> (u16, Value, http::HeaderMap) {
        let response = refusal.into().told().as_http(&DescriptorPool::new());
        let body = serde_json::from_slice(response.body()).unwrap();
        (response.status().as_u16(), body, response.headers().clone())
    }

    #[test]
    fn details_become_json_with_their_type() {
        let mut details = ErrorDetails::with_error_info("RUN_NOT_FOUND", DOMAIN, [("run".into(), "run_1".into())]);
        details.add_bad_request_violation("name", "unknown").set_retry_info(Some(Duration::from_millis(1500)));
        details.set_debug_info(vec!["stack".to_owned()], "secret");
        let (http, body, headers) = answer(Status::with_error_details(Code::NotFound, "no such run", details));
        assert_eq!(http, 404);
        assert_eq!(headers["retry-after"], "2");
        assert_eq!(body["code"], 5);
        assert_eq!(body["message"], "no such run");
        assert!(!body.to_string().contains("secret"));
        let find = |name: &str| {
            let name = format!("{TYPE_PREFIX}google.rpc.{name}");
            body["details"].as_array().unwrap().iter().find(|detail| detail["@type"] == *name).cloned().unwrap()
        };
        assert_eq!(find("ErrorInfo")["reason"], "RUN_NOT_FOUND");
        assert_eq!(find("ErrorInfo")["metadata"], json!({"run": "run_1"}));
        assert_eq!(find("BadRequest")["fieldViolations"], json!([{"field": "name", "description": "unknown"}]));
        assert_eq!(find("RetryInfo")["retryDelay"], "1.500s");
    }

    #[test]
    fn a_status_without_details_gets_an_error_info_and_keeps_internals_inside() {
        let (http, body, _) = answer(Status::internal("password=hunter2"));
        assert_eq!(http, 500);
        assert_eq!(body["message"], "internal error");
        assert_eq!(body["details"][0]["reason"], "INTERNAL");
        let (http, body, headers) = answer(Status::unauthenticated("token expired"));
        assert_eq!((http, &body["message"]), (401, &json!("token expired")));
        assert_eq!(headers["www-authenticate"], "Bearer");
        let (http, body, _) = answer(Status::with_details(Code::Aborted, "x", Bytes::from_static(b"\xff\xff")));
        assert_eq!((http, &body["details"][0]["reason"]), (409, &json!("ABORTED")));
    }

    #[test]
    fn the_tenant_status_has_http_statuses_of_its_own() {
        for (code, reason, expected) in [
            (Code::FailedPrecondition, "TENANT_PENDING_PAYMENT", 402),
            (Code::FailedPrecondition, "FEATURE_NOT_IN_PLAN", 400),
            (Code::PermissionDenied, "TENANT_SUSPENDED", 403),
            (Code::Unauthenticated, "TENANT_UNKNOWN", 401),
            (Code::ResourceExhausted, "RATE_LIMITED", 429),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", 504),
            (Code::Cancelled, "CANCELLED", 499),
        ] {
            assert_eq!(answer(Refusal::new(code, reason, "x")).0, expected, "{reason}");
        }
    }
}
