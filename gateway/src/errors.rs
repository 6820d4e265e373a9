//! Refusals: google.rpc.Status with its details as JSON, and the HTTP status that goes with it.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage};
use serde_json::{Value, json};
use tenon_chassis::{
    Fault,
    fault::{DOMAIN, code_name},
};
use tonic::{Code, Status};
use tonic_types::pb;

const TYPE_PREFIX: &str = "type.googleapis.com/";

/// The standard details, `google.rpc.*`.
static DETAILS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).expect("the descriptor set that tonic-types carries is well-formed")
});

/// A call that is not served: a Status, and what HTTP says beyond it.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub status: Status,
    http: Option<StatusCode>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What a refusal was, for the access log and the metrics; an extension of its response.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub code: Code,
    pub reason: String,
}

impl Refusal {
    /// A refusal with an ErrorInfo.
    #[must_use]
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Fault::new(code, reason, message).into()
    }

    /// INVALID_ARGUMENT with one BadRequest field violation.
    #[must_use]
    pub fn invalid(reason: &'static str, field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::invalid_fields(reason, vec![(field.into(), why.into())])
    }

    /// INVALID_ARGUMENT with BadRequest field violations (field path, what is wrong); the message tells the first.
    #[must_use]
    pub fn invalid_fields(reason: &'static str, violations: Vec<(String, String)>) -> Self {
        let message = match violations.first() {
            Some((field, why)) if !field.is_empty() => format!("{field}: {why}"),
            Some((_, why)) => why.clone(),
            None => String::new(),
        };
        Fault { violations, ..Fault::new(Code::InvalidArgument, reason, message) }.into()
    }

    /// Answers with this HTTP status instead of the code's own.
    #[must_use]
    pub fn http(mut self, status: StatusCode) -> Self {
        self.http = Some(status);
        self
    }

    /// Adds a response header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The HTTP response. `pool` knows the detail messages that are not of `google.rpc`.
    #[must_use]
    pub fn into_response(self, pool: &DescriptorPool) -> Response<Bytes> {
        let Self { status, http, headers } = self;
        let details = decode(&status, pool);
        let http = http.unwrap_or_else(|| http_status(status.code(), &details.reason));
        let body = json!({ "code": status.code() as i32, "message": details.message, "details": details.json });
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = http;
        let to = response.headers_mut();
        to.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if http == StatusCode::UNAUTHORIZED {
            to.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(delay) = details.retry_after {
            // Rounded up: a client that comes back on the second must find room.
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            to.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        to.extend(headers);
        response.extensions_mut().insert(Outcome { code: status.code(), reason: details.reason });
        response
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Status::from(fault).into()
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { status, http: None, headers: Vec::new() }
    }
}

struct Details {
    message: String,
    reason: String,
    retry_after: Option<Duration>,
    json: Vec<Value>,
}

/// Reads grpc-status-details-bin. Without an ErrorInfo one is added, and what an internal error says stays inside.
fn decode(status: &Status, pool: &DescriptorPool) -> Details {
    let rich = pb::Status::decode(status.details()).unwrap_or_default();
    let mut details =
        Details { message: status.message().to_owned(), reason: String::new(), retry_after: None, json: Vec::new() };
    for any in rich.details {
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        match name {
            "google.rpc.ErrorInfo" => {
                details.reason = pb::ErrorInfo::decode(any.value.as_slice()).unwrap_or_default().reason;
            }
            "google.rpc.RetryInfo" => {
                let delay = pb::RetryInfo::decode(any.value.as_slice()).unwrap_or_default().retry_delay;
                details.retry_after = delay.and_then(|delay| Duration::try_from(delay).ok());
            }
            // Stack traces are for our logs.
            "google.rpc.DebugInfo" => continue,
            _ => {}
        }
        let json = describe(name, &any.value, pool);
        details.json.push(json.unwrap_or_else(|| json!({ "@type": format!("{TYPE_PREFIX}{name}") })));
    }
    if details.reason.is_empty() {
        details.reason = code_name(status.code()).to_owned();
        if matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss) {
            "internal error".clone_into(&mut details.message);
        }
        let info = json!({
            "@type": format!("{TYPE_PREFIX}google.rpc.ErrorInfo"), "reason": details.reason, "domain": DOMAIN,
        });
        details.json.insert(0, info);
    }
    details
}

fn describe(name: &str, value: &[u8], pool: &DescriptorPool) -> Option<Value> {
    let descriptor = DETAILS.get_message_by_name(name).or_else(|| pool.get_message_by_name(name))?;
    let message = DynamicMessage::decode(descriptor, value).ok()?;
    let full_name = message.descriptor().full_name().to_owned();
    let Value::Object(fields) = serde_json::to_value(&message).ok()? else { return None };
    let mut object = serde_json::Map::with_capacity(fields.len() + 1);
    object.insert("@type".to_owned(), format!("{TYPE_PREFIX}{full_name}").into());
    object.extend(fields);
    Some(Value::Object(object))
}

/// The HTTP status of a code, as google/rpc/code.proto gives it, but for a tenant that owes money.
#[must_use]
pub fn http_status(code: Code, reason: &str) -> StatusCode {
    match (code, reason) {
        (Code::FailedPrecondition, "TENANT_PENDING_PAYMENT") => return StatusCode::PAYMENT_REQUIRED,
        (Code::Cancelled, _) => return StatusCode::from_u16(499).expect("499 is in the range of HTTP statuses"),
        _ => {}
    }
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    fn answer(refusal: impl Into<Refusal>) -> (u16, Value, http::HeaderMap) {
        let response = refusal.into().into_response(&DescriptorPool::new());
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
