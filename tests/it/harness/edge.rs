//! The edge as its clients see it: requests, sign-up, login.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::process::PATIENCE;

/// Sooner than the mesh closes a connection that rests, so that no request meets its end.
pub const IDLE: Duration = Duration::from_secs(30);

/// An edge that answers.
#[derive(Debug, Clone)]
pub struct Edge {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    /// What `x-operator-key` must carry.
    pub operator_key: String,
    pub http: Client,
}

/// A tenant that was signed up through the edge, with its first user signed in.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// `tenants/ten_...`
    pub name: String,
    pub slug: String,
    pub email: String,
    pub password: String,
    /// The admin's access token.
    pub token: String,
    pub refresh_token: String,
}

impl Edge {
    pub fn new(url: &str, operator_key: &str) -> Self {
        let http = Client::builder().timeout(PATIENCE).pool_idle_timeout(IDLE).no_proxy().build();
        let http = http.expect("a plain client can be made");
        Self { url: url.to_owned(), operator_key: operator_key.to_owned(), http }
    }

    /// A request to a path.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// GET with a bearer token; an empty one sends none.
    pub async fn get(&self, path: &str, token: &str) -> (StatusCode, Value) {
        answer(bearer(self.request(Method::GET, path), token)).await
    }

    /// POST with a bearer token; an empty one sends none.
    pub async fn post(&self, path: &str, token: &str, body: &Value) -> (StatusCode, Value) {
        answer(bearer(self.request(Method::POST, path), token).json(body)).await
    }

    /// DELETE with a bearer token.
    pub async fn delete(&self, path: &str, token: &str) -> (StatusCode, Value) {
        answer(self.request(Method::DELETE, path).bearer_auth(token)).await
    }

    /// POST with the operator's credential.
    pub async fn operate(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).header("x-operator-key", &self.operator_key).json(body)).await
    }

    /// Signs a company up and its admin in.
    pub async fn onboard(&self, slug: &str) -> Tenant {
        let (email, password) = (format!("ada@{slug}.test"), "correct horse battery".to_owned());
        let (status, answer) = self.post("/v1/tenants:onboard", "", &sign_up(slug, &email, &password)).await;
        assert_eq!(status, StatusCode::OK, "sign-up: {answer}");
        let name = text(&answer["tenant"]["name"]);
        let (status, session) = self.login(slug, &email, &password).await;
        assert_eq!(status, StatusCode::OK, "login: {session}");
        let (token, refresh_token) = (text(&session["accessToken"]), text(&session["refreshToken"]));
        Tenant { name, slug: slug.to_owned(), email, password, token, refresh_token }
    }

    /// Signs a user in.
    pub async fn login(&self, slug: &str, email: &str, password: &str) -> (StatusCode, Value) {
        self.post("/v1/auth/login", "", &json!({ "tenant": slug, "email": email, "password": password })).await
    }
}

/// The body of a sign-up.
pub fn sign_up(slug: &str, email: &str, password: &str) -> Value {
    json!({
        "tenant": { "displayName": slug, "slug": slug, "region": "eu" },
        "admin": { "email": email, "password": password },
    })
}

/// Sends, and reads the answer's status and JSON; a body that is no JSON comes as a string.
pub async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.expect("the edge answers");
    let status = response.status();
    let text = response.text().await.expect("the answer can be read");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// A field that must be a text.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

fn bearer(request: RequestBuilder, token: &str) -> RequestBuilder {
    if token.is_empty() { request } else { request.bearer_auth(token) }
}
