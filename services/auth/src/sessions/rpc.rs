//! tenon.auth.v1.SessionService

use serde_json::json;
use tenon_chassis::{Caller, Fault, caller::Principal, clock::timestamp};
use tenon_proto::auth::v1::{
    LoginRequest, LoginResponse, LogoutRequest, LogoutResponse, RefreshRequest, RefreshResponse, WhoAmIRequest,
    WhoAmIResponse, session_service_server::SessionService,
};
use tonic::{Request, Response, Status};

use super::{
    Sessions,
    model::{Grant, MAX_SLUG, RefreshToken},
    store,
};
use crate::{
    error::Error,
    users::{
        model::{Email, User},
        store as users,
    },
};

#[tonic::async_trait]
impl SessionService for Sessions {
    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<LoginResponse>, Status> {
        let caller = without_key(Caller::of(&request)?);
        let LoginRequest { tenant: slug, email, password } = request.into_inner();
        if slug.is_empty() && caller.tenant_id.is_none() {
            return Err(Fault::invalid("tenant", "must be the tenant's slug, or call on the tenant's own host").into());
        }
        if slug.len() > MAX_SLUG {
            return Err(Fault::invalid("tenant", "must have at most 63 characters").into());
        }
        let email = Email::parse("email", &email)?;
        if password.is_empty() || password.len() > 1_024 {
            return Err(Fault::invalid("password", "must have 1 to 1,024 bytes").into());
        }
        let tenant = self.tenant(&caller, &slug).await?;
        if let Some(tenant) = &tenant {
            tenant.admit(true)?;
        }
        let mut user: Option<User> = None;
        if let Some(tenant) = &tenant {
            let mut tx = self.db.begin(&caller.acting_for(tenant.id)?).await?;
            user = users::get_by_email(&mut tx, &email).await?;
            // Closed here: a connection is not held while a password is hashed.
            tx.commit().await?;
        }
        let stored = user.as_ref().map(|user| user.password_hash.clone());
        let known = self.hasher.verify(password, stored).await?;
        let (Some(tenant), Some(user), true) = (tenant, user, known) else {
            return Err(Error::InvalidCredentials.into());
        };

        let caller = caller.acting_for(tenant.id)?;
        let session = self.terms.session(self.db.clock(), user.id);
        let signer = self.keys.signer(&caller, tenant.id).await?;
        let grant = self.grant(&signer, &tenant, &session, &user.roles)?;
        let mut tx = self.db.begin(&caller).await?;
        store::insert(&mut tx, &session).await?;
        store::insert_token(&mut tx, session.id, &grant.refresh_hash, session.expires_at).await?;
        let about = format!("users/{}", user.id);
        tx.emit("tenon.auth.session.created.v1", about, json!({ "session": session.id.to_string() }));
        Ok(tx.reply(grant.into()).await?)
    }

    async fn refresh(&self, request: Request<RefreshRequest>) -> Result<Response<RefreshResponse>, Status> {
        let caller = without_key(Caller::of(&request)?);
        let token = RefreshToken::parse(&request.get_ref().refresh_token)?;
        let tenant = self.directory.by_id(token.tenant).await?;
        tenant.admit(true)?;
        let caller = caller.acting_for(tenant.id).map_err(|_| Error::InvalidRefreshToken)?;
        let signer = self.keys.signer(&caller, tenant.id).await?;
        let now = self.db.clock().now();
        let mut tx = self.db.begin(&caller).await?;
        let Some((session, spent_before)) = store::claim_token(&mut tx, &token.hash(), now).await? else {
            return Err(Error::InvalidRefreshToken.into());
        };
        if spent_before {
            // Two parties hold this session, and one of them is a thief: end it for both.
            store::update_ended(&mut tx, session, now).await?;
            tx.emit("tenon.auth.session.reused.v1", format!("sessions/{session}"), json!({}));
            tx.commit().await?;
            return Err(Error::InvalidRefreshToken.into());
        }
        let session = store::get(&mut tx, session, now).await.map_err(|_| Error::InvalidRefreshToken)?;
        let user = users::get(&mut tx, session.user).await?;
        let grant = self.grant(&signer, &tenant, &session, &user.roles)?;
        let until = self.terms.refresh_until(now);
        store::insert_token(&mut tx, session.id, &grant.refresh_hash, until).await?;
        store::update_expiry(&mut tx, session.id, until).await?;
        let Grant { access_token, refresh_token, expires_in, .. } = grant;
        let reply = RefreshResponse { access_token, refresh_token, expires_in, token_type: "Bearer".to_owned() };
        Ok(tx.reply(reply).await?)
    }

    async fn logout(&self, request: Request<LogoutRequest>) -> Result<Response<LogoutResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (user, session) = caller.user()?;
        let mut tx = self.db.begin(&caller).await?;
        let now = tx.clock().now();
        store::update_ended(&mut tx, session, now).await?;
        let about = format!("users/{user}");
        tx.emit("tenon.auth.session.ended.v1", about, json!({ "session": session.to_string() }));
        Ok(tx.reply(LogoutResponse {}).await?)
    }

    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        let caller = Caller::of(&request)?;
        if let Principal::Key { key } = caller.principal {
            let (api_key, tenant) = (format!("api-keys/{key}"), format!("tenants/{}", caller.tenant_id()?));
            let reply = WhoAmIResponse { api_key, tenant, roles: caller.roles, ..WhoAmIResponse::default() };
            return Ok(Response::new(reply));
        }
        let (user, session) = caller.user()?;
        let mut tx = self.db.begin(&caller).await?;
        let now = tx.clock().now();
        let session = store::get(&mut tx, session, now).await?;
        let user = users::get(&mut tx, user).await?;
        let reply = WhoAmIResponse {
            user: format!("users/{}", user.id),
            tenant: format!("tenants/{}", tx.tenant()),
            email: user.email.given,
            roles: caller.roles,
            session: session.id.to_string(),
            amr: session.amr,
            auth_time: Some(timestamp(session.auth_time)),
            api_key: String::new(),
        };
        Ok(tx.reply(reply).await?)
    }
}

/// Answers that hold tokens are never stored, so a sign-in takes no idempotency key: sent twice, it is two sessions.
fn without_key(caller: Caller) -> Caller {
    Caller { idempotency: None, ..caller }
}

impl From<Grant> for LoginResponse {
    fn from(grant: Grant) -> Self {
        let Grant { access_token, refresh_token, expires_in, .. } = grant;
        Self { access_token, refresh_token, expires_in, token_type: "Bearer".to_owned() }
    }
}
