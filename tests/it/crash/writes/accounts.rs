//! Users, sessions, keys, usage, domains and tenants.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Again, Desk, Who, Write};
use crate::harness::{sign_up, text};

pub(super) const METHODS: [&str; 18] = [
    "auth.v1.ApiKeyService/CreateApiKey",
    "auth.v1.ApiKeyService/DeleteApiKey",
    "auth.v1.ApiKeyService/ExchangeApiKey",
    "auth.v1.SessionService/Login",
    "auth.v1.SessionService/Refresh",
    "auth.v1.SessionService/Logout",
    "auth.v1.UserService/CreateUser",
    // The later step of a sign-up first: the mesh goes on by itself with one that was cut off.
    "billing.v1.SubscriptionService/ProvisionSubscription",
    "auth.v1.UserService/ProvisionAdmin",
    "billing.v1.UsageService/IngestUsage",
    "tenant.v1.DomainService/CreateDomain",
    "tenant.v1.DomainService/VerifyDomain",
    "tenant.v1.DomainService/DeleteDomain",
    "tenant.v1.TenantService/OnboardTenant",
    "tenant.v1.TenantService/RequirePayment",
    "tenant.v1.TenantService/ActivateTenant",
    "tenant.v1.TenantService/SuspendTenant",
    "tenant.v1.TenantService/DeleteTenant",
];

const PASSWORD: &str = "correct horse battery";

/// That an event was told.
fn told(kind: &str) -> String {
    format!("mesh.outbox where type = 'tenon.{kind}.v1'")
}

fn user(name: &str) -> Value {
    json!({ "email": format!("{name}@b.test"), "password": PASSWORD, "roles": ["viewer"] })
}

pub(super) async fn prepare(desk: &mut Desk) {
    keys(desk).await;
    sessions(desk).await;
    sign_ups(desk);
    domains(desk).await;
    tenants(desk).await;
    desk.writes.sort_by_key(|write| METHODS.iter().position(|method| *method == write.method));
}

async fn keys(desk: &mut Desk) {
    let key = |name: &str| json!({ "displayName": name, "roles": ["viewer"] });
    let doomed = text(&desk.made("/v1/api-keys", key("doomed")).await["name"]);
    let used = text(&desk.made("/v1/api-keys", key("used")).await["secret"]);
    let created = "auth.api_keys where display_name = 'made'";
    let exchanged = "auth.api_keys where display_name = 'used' and last_used_at is not null";
    desk.writes.extend([
        Write::post(METHODS[0], "/v1/api-keys", &key("made"), created).again(Again::Another),
        Write::delete(METHODS[1], format!("/v1/{doomed}"), told("auth.api_key.revoked")),
        // The edge exchanges the key of whoever calls.
        Write::new(METHODS[2], Method::GET, "/v1/auth/whoami", exchanged).by(Who::Bearer(used)),
    ]);
}

async fn sessions(desk: &mut Desk) {
    for name in ["carol", "dave", "erin"] {
        desk.made("/v1/users", user(name)).await;
    }
    let login = async |name: &str| desk.mesh.login("writes", &format!("{name}@b.test"), PASSWORD).await.1;
    let (dave, erin) = (login("dave").await, login("erin").await);
    let carol = json!({ "tenant": "writes", "email": "carol@b.test", "password": PASSWORD });
    let logged_in = "auth.sessions s join auth.users u on u.tenant_id = s.tenant_id and u.id = s.user_id
                     where u.email = 'carol@b.test'";
    // Whoever shows a refresh token twice may be a thief: the session ends, and its user logs in again.
    let ended = Again::Refused(StatusCode::UNAUTHORIZED, told("auth.session.reused"));
    let refresh = json!({ "refreshToken": dave["refreshToken"] });
    desk.writes.extend([
        Write::post(METHODS[3], "/v1/auth/login", &carol, logged_in).by(Who::Nobody).at(2).again(Again::Another),
        Write::post(METHODS[4], "/v1/auth/refresh", &refresh, "auth.refresh_tokens where spent_at is not null")
            .by(Who::Nobody)
            .again(ended),
        Write::post(METHODS[5], "/v1/auth/logout", &json!({}), told("auth.session.ended"))
            .by(Who::Bearer(text(&erin["accessToken"]))),
        Write::post(METHODS[6], "/v1/users", &user("bob"), "auth.users where email = 'bob@b.test'"),
    ]);
}

/// The steps of a sign-up, each of another one.
fn sign_ups(desk: &mut Desk) {
    let of = |method: &'static str, slug: &str, table: &str| {
        let of_tenant =
            format!("tenant_id = (select tenant_id from tenant.tenants where slug = '{slug}' and status = 'active')");
        let body = sign_up(slug, &format!("ada@{slug}.test"), PASSWORD);
        Write::post(method, "/v1/tenants:onboard", &body, format!("{table} where {of_tenant}")).by(Who::Nobody)
    };
    let usage = json!({ "events": [{ "id": "one", "meter": "points" }] });
    desk.writes.extend([
        of(METHODS[7], "subscription-lost", "billing.subscriptions"),
        of(METHODS[8], "admin-lost", "auth.users"),
        Write::post(METHODS[9], "/v1/usage:ingest", &usage, "billing.usage_events where meter = 'points'"),
        of(METHODS[13], "onboarded", "tenant.tenants"),
    ]);
}

async fn domains(desk: &mut Desk) {
    let proved = desk.made("/v1/domains", json!({ "hostname": "proved.test" })).await;
    desk.dns.set(&text(&proved["challengeRecord"]), &[&text(&proved["challengeValue"])]);
    desk.made("/v1/domains", json!({ "hostname": "gone.test" })).await;
    let new = json!({ "hostname": "new.test" });
    desk.writes.extend([
        Write::post(METHODS[10], "/v1/domains", &new, "tenant.domains where hostname = 'new.test'"),
        Write::post(METHODS[11], "/v1/domains/proved.test:verify", &json!({}), told("tenant.domain.verified")).at(2),
        Write::delete(METHODS[12], "/v1/domains/gone.test", told("tenant.domain.deleted")),
    ]);
}

/// What an operator does with a tenant, one after the other.
async fn tenants(desk: &mut Desk) {
    let ward = desk.mesh.onboard("ward").await.name;
    let becomes = |method, verb: &str, status: &str| {
        let path = format!("/v1/{ward}:{verb}");
        Write::post(method, path, &json!({}), told(&format!("tenant.tenant.{status}"))).by(Who::Operator)
    };
    desk.writes.extend([
        becomes(METHODS[14], "requirePayment", "pending_payment"),
        becomes(METHODS[15], "activate", "active"),
        becomes(METHODS[16], "suspend", "suspended"),
        Write::delete(METHODS[17], format!("/v1/{ward}"), told("tenant.tenant.deleted")).by(Who::Operator),
    ]);
}
