//! One call by either door, the edge's HTTP or a service's own gRPC port, with one form of answer for both.

use prost_reflect::{DynamicMessage, prost::Message as _};
use reqwest::{Client, Method as Verb, StatusCode, header::HeaderMap};
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Mesh, contract::Endpoint, edge::IDLE, process::PATIENCE};

/// Header names and values of a request; a name may stand twice.
pub type Headers = Vec<(&'static str, String)>;

impl Mesh {
    /// Lets every tenant that signs up from now on call as often as a test likes.
    pub async fn lift_limits(&self) {
        let statement = r#"update billing.plans set limits =
            '{"rate.read": 1000000, "rate.write": 1000000, "rate.login": 1000000, "rate.ingest": 1000000}'"#;
        sqlx::raw_sql(statement).execute(&mut self.database.owner().await).await.expect("the owner may change plans");
    }
}

/// A client that holds both doors open.
#[derive(Debug, Clone)]
pub struct Wire {
    edge: Client,
    grpc: Client,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Of the edge; a service's own port says 200 always.
    pub http: StatusCode,
    pub code: Code,
    /// The reason of the ErrorInfo; empty when the call succeeded.
    pub reason: String,
    /// The fields that BadRequest names.
    pub fields: Vec<String>,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Wire {
    pub fn new() -> Self {
        let client = || Client::builder().timeout(PATIENCE).pool_idle_timeout(IDLE).no_proxy();
        let edge = client().build().expect("a plain client can be made");
        let grpc = client().http2_prior_knowledge().build().expect("a plain client can be made");
        Self { edge, grpc }
    }

    /// A request to the edge; an empty body sends none.
    pub async fn http(&self, mesh: &Mesh, verb: Verb, path: &str, headers: &Headers, body: &[u8]) -> Answer {
        // HTTP/2 for what is refused before it is read: over HTTP/1 the answer may be lost when the connection closes.
        let client = if body.len() > 1024 * 1024 { &self.grpc } else { &self.edge };
        let mut request = client.request(verb, format!("{}{path}", mesh.edge.url));
        if !body.is_empty() {
            request = request.body(body.to_vec());
            if !headers.iter().any(|(name, _)| *name == "content-type") {
                request = request.header("content-type", "application/json");
            }
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("{path}: the edge answers: {error:?}"));
        let (http, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.expect("the answer can be read").to_vec();
        if http.is_success() {
            return Answer { http, code: Code::Ok, reason: String::new(), fields: Vec::new(), headers, body };
        }
        let json: Value = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{path}: {http} without a Status"));
        let code = json["code"].as_i64().and_then(|code| i32::try_from(code).ok()).map_or(Code::Unknown, Code::from);
        Answer { http, code, reason: reason(&json), fields: fields(&json), headers, body }
    }

    /// A call on the port of a method's service.
    pub async fn grpc(&self, mesh: &Mesh, at: &Endpoint, headers: &Headers, message: &DynamicMessage) -> Answer {
        self.grpc_bytes(mesh.ports[at.service], &at.method.path, headers, &message.encode_to_vec()).await
    }

    /// A call by path and bytes.
    pub async fn grpc_bytes(&self, port: u16, path: &str, headers: &Headers, message: &[u8]) -> Answer {
        let length = u32::try_from(message.len()).expect("a message of a test is small");
        let frame = [&[0][..], &length.to_be_bytes(), message].concat();
        let mut request = self.grpc.post(format!("http://127.0.0.1:{port}{path}")).body(frame);
        request = request.header("content-type", "application/grpc").header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("{path}: the service answers: {error:?}"));
        let (http, headers) = (response.status(), response.headers().clone());
        if let Some(status) = Status::from_header_map(&headers).filter(|status| status.code() != Code::Ok) {
            let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
            let bad = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
            let fields = bad.into_iter().map(|violation| violation.field).collect();
            return Answer { http, code: status.code(), reason, fields, headers, body: status.message().into() };
        }
        let body = response.bytes().await.expect("the answer can be read").to_vec();
        assert!(body.len() >= 5, "{path}: neither a status nor a message");
        Answer { http, code: Code::Ok, reason: String::new(), fields: Vec::new(), headers, body: body[5..].to_vec() }
    }
}

impl Answer {
    /// Whether any of these texts is in the answer.
    pub fn shows(&self, text: &str) -> bool {
        self.text().contains(text) || self.headers.values().any(|value| value.to_str().is_ok_and(|v| v.contains(text)))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether it is an error of ours and not of the caller.
    pub fn is_our_fault(&self) -> bool {
        self.http.is_server_error() || matches!(self.code, Code::Internal | Code::Unknown | Code::DataLoss)
    }

    /// The header, or nothing.
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    }
}

fn detail<'j>(status: &'j Value, kind: &str) -> &'j Value {
    let details = status["details"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_kind = |detail: &&Value| detail["@type"].as_str().is_some_and(|name| name.ends_with(kind));
    // Connect spells it otherwise, and has its JSON beside its bytes.
    let of_connect = details.iter().find(|detail| detail["type"] == kind).map(|detail| &detail["debug"]);
    details.iter().find(of_kind).or(of_connect).unwrap_or(&Value::Null)
}

/// The reason in a Status of the edge.
pub fn reason(status: &Value) -> String {
    detail(status, "google.rpc.ErrorInfo")["reason"].as_str().unwrap_or_default().to_owned()
}

fn fields(status: &Value) -> Vec<String> {
    let violations = detail(status, "google.rpc.BadRequest")["fieldViolations"].as_array().cloned().unwrap_or_default();
    violations.iter().filter_map(|violation| violation["field"].as_str().map(str::to_owned)).collect()
}
