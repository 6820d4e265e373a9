//! Refusals: a google.rpc.Status, what HTTP says beyond it, and how each protocol writes it.

mod wire;

use std::time::Duration;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use prost::Message;
use tenon_chassis::{
    Fault,
    fault::{DOMAIN, code_name},
};
use tonic::{Code, Status};
use tonic_types::pb;

const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
/// As tonic reads it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_encode_padding(true),
);
const TYPE_PREFIX: &str = "type.googleapis.com/";

/// A call that is not served: a Status, and what HTTP says beyond it.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub status: Status,
    /// Behind a pointer: results with a refusal in them are passed about much, and few have this.
    more: Option<Box<More>>,
}

#[derive(Debug, Clone, Default)]
struct More {
    http: Option<StatusCode>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What the service said beside its status.
    metadata: HeaderMap,
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
        self.more.get_or_insert_default().http = Some(status);
        self
    }

    /// Adds a response header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.more.get_or_insert_default().headers.push((name, value));
        self
    }

    /// Adds what the service said beside its status; it is what may go out.
    #[must_use]
    pub fn metadata(mut self, metadata: HeaderMap) -> Self {
        if !metadata.is_empty() {
            self.more.get_or_insert_default().metadata = metadata;
        }
        self
    }

    /// What the service said beside its status.
    pub(crate) fn said(&self) -> Option<&HeaderMap> {
        self.more.as_ref().map(|more| &more.metadata)
    }

    /// What HTTP has for it, if that is not what its code has.
    pub(crate) fn own_http(&self) -> Option<StatusCode> {
        self.more.as_ref().and_then(|more| more.http)
    }

    /// What a client may know of it, in words that every protocol has.
    #[must_use]
    pub(crate) fn told(self) -> Told {
        let Self { status, more } = self;
        let More { http, headers, metadata } = more.map(|more| *more).unwrap_or_default();
        let (reason, retry_after, status) = cleaned(&status);
        let code = Code::from(status.code);
        let http = http.unwrap_or_else(|| http_status(code, &reason));
        Told { status, code, reason, retry_after, http, headers, metadata }
    }
}

/// A refusal, cleaned of what is not the client's to know.
#[derive(Debug)]
pub(crate) struct Told {
    status: pb::Status,
    pub(crate) code: Code,
    pub(crate) reason: String,
    retry_after: Option<Duration>,
    http: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) metadata: HeaderMap,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Status::from(fault).into()
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { status, more: None }
    }
}

/// The reason, when to try again, and the status with an ErrorInfo always; what an internal error says stays inside.
fn cleaned(status: &Status) -> (String, Option<Duration>, pb::Status) {
    let details = pb::Status::decode(status.details()).unwrap_or_default().details;
    let (code, message) = (status.code() as i32, status.message().to_owned());
    let mut clean = pb::Status { code, message, details };
    let (mut reason, mut retry_after) = (String::new(), None);
    // Stack traces are for our logs.
    clean.details.retain(|any| name_of(&any.type_url) != "google.rpc.DebugInfo");
    for any in &clean.details {
        match name_of(&any.type_url) {
            "google.rpc.ErrorInfo" => {
                reason = pb::ErrorInfo::decode(any.value.as_slice()).unwrap_or_default().reason;
            }
            "google.rpc.RetryInfo" => {
                let delay = pb::RetryInfo::decode(any.value.as_slice()).unwrap_or_default().retry_delay;
                retry_after = delay.and_then(|delay| Duration::try_from(delay).ok());
            }
            _ => {}
        }
    }
    if reason.is_empty() {
        code_name(status.code()).clone_into(&mut reason);
        if matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss) {
            "internal error".clone_into(&mut clean.message);
        }
        let info = pb::ErrorInfo { reason: reason.clone(), domain: DOMAIN.to_owned(), ..pb::ErrorInfo::default() };
        let type_url = format!("{TYPE_PREFIX}google.rpc.ErrorInfo");
        clean.details.insert(0, prost_types::Any { type_url, value: info.encode_to_vec() });
    }
    (reason, retry_after, clean)
}

fn name_of(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or_default()
}

/// The status in headers or trailers, if there is one. What a service sends as its details may be no base64: tonic takes
/// that for granted.
#[must_use]
pub(crate) fn status_of(headers: &HeaderMap) -> Option<Status> {
    let readable = headers.get(DETAILS).is_none_or(|details| BASE64.decode(details).is_ok());
    if readable {
        return Status::from_header_map(headers);
    }
    let mut headers = headers.clone();
    headers.remove(DETAILS);
    Status::from_header_map(&headers)
}

/// The HTTP status of a code, as google/rpc/code.proto gives it, but for a tenant that owes money and a key that stands for
/// another request (draft-ietf-httpapi-idempotency-key-header-07, section 2.7).
#[must_use]
pub fn http_status(code: Code, reason: &str) -> StatusCode {
    match (code, reason) {
        (Code::FailedPrecondition, "TENANT_PENDING_PAYMENT") => return StatusCode::PAYMENT_REQUIRED,
        (_, "IDEMPOTENCY_KEY_REUSED") => return StatusCode::UNPROCESSABLE_ENTITY,
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
