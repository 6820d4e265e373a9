//! A tenant that was signed up through the edge, with its first user signed in.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::Mesh;

/// What a test needs to act as a customer.
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

impl Mesh {
    /// Signs a company up and its admin in.
    pub async fn onboard(&self, slug: &str) -> Tenant {
        let (email, password) = (format!("ada@{slug}.test"), "correct horse battery".to_owned());
        let body = json!({
            "tenant": { "displayName": slug, "slug": slug, "region": "eu" },
            "admin": { "email": email, "password": password },
        });
        let (status, answer) = self.post("/v1/tenants:onboard", "", &body).await;
        assert_eq!(status, StatusCode::OK, "sign-up: {answer}");
        let name = text(&answer["tenant"]["name"]);
        let (status, session) = self.login(slug, &email, &password).await;
        assert_eq!(status, StatusCode::OK, "login: {session}");
        let (token, refresh_token) = (text(&session["accessToken"]), text(&session["refreshToken"]));
        Tenant { name, slug: slug.to_owned(), email, password, token, refresh_token }
    }

    /// Lets every tenant that signs up from now on call as often as a test likes.
    pub async fn lift_limits(&self) {
        let statement = r#"update billing.plans set limits =
            '{"rate.read": 1000000, "rate.write": 1000000, "rate.login": 1000000, "rate.ingest": 1000000}'"#;
        sqlx::raw_sql(statement).execute(&mut self.database.owner().await).await.expect("the owner may change plans");
    }

    /// Signs a user in.
    pub async fn login(&self, slug: &str, email: &str, password: &str) -> (StatusCode, Value) {
        let body = json!({ "tenant": slug, "email": email, "password": password });
        self.post("/v1/auth/login", "", &body).await
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}
