//! What a session is, and the tokens that carry it.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use tenon_chassis::{
    Clock, SessionId, TenantId, UserId,
    directory::Tenant,
    token::{AUDIENCE, UserClaims},
};
use uuid::Uuid;

use crate::error::Error;

/// Slugs are host labels (RFC 1035).
pub const MAX_SLUG: usize = 63;
/// Marks a text as a refresh token, for people and for secret scanners.
const REFRESH_PREFIX: &str = "tnr_";

/// A row of auth.sessions.
#[derive(Debug, Clone)]
pub struct Session {
    pub id: SessionId,
    pub user: UserId,
    pub amr: Vec<String>,
    pub auth_time: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// How long tokens live and who issues them.
#[derive(Debug, Clone)]
pub struct Terms {
    pub issuer: String,
    pub access_token_s: u32,
    pub refresh_token_s: u32,
}

impl Terms {
    /// A session that starts now, by password.
    #[must_use]
    pub fn session(&self, clock: &Clock, user: UserId) -> Session {
        let now = clock.now();
        let amr = vec!["pwd".to_owned()];
        Session { id: SessionId::new(clock), user, amr, auth_time: now, expires_at: self.refresh_until(now) }
    }

    /// When a refresh token that is issued now stops to work.
    #[must_use]
    pub fn refresh_until(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now + TimeDelta::seconds(self.refresh_token_s.into())
    }

    #[must_use]
    pub fn claims(&self, clock: &Clock, tenant: &Tenant, session: &Session, roles: &[String]) -> UserClaims {
        let iat = clock.unix();
        UserClaims {
            iss: self.issuer.replace("{slug}", &tenant.slug),
            sub: session.user.to_string(),
            aud: AUDIENCE.to_owned(),
            tid: tenant.id.to_string(),
            sid: session.id.to_string(),
            roles: roles.to_vec(),
            amr: session.amr.clone(),
            auth_time: session.auth_time.timestamp(),
            iat,
            exp: iat + i64::from(self.access_token_s),
        }
    }
}

/// What a sign-in hands out.
pub struct Grant {
    pub access_token: String,
    pub refresh_token: String,
    pub refresh_hash: Vec<u8>,
    pub expires_in: i32,
}

impl Grant {
    /// # Errors
    /// Never in practice: when the lifetime does not fit the contract's int32.
    pub fn new(access_token: String, tenant: TenantId, terms: &Terms) -> Result<Self, Error> {
        let refresh = RefreshToken { tenant, secret: rand::random() };
        let expires_in = i32::try_from(terms.access_token_s).map_err(|_| Error::Corrupt("token lifetime"))?;
        Ok(Self { access_token, refresh_token: refresh.to_text(), refresh_hash: refresh.hash(), expires_in })
    }
}

/// An opaque token that says whose it is, so that its row can be found under row-level security, and 256 random bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshToken {
    pub tenant: TenantId,
    secret: [u8; 32],
}

impl RefreshToken {
    /// # Errors
    /// `InvalidRefreshToken` for any other text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bytes = text.strip_prefix(REFRESH_PREFIX).and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok());
        let bytes = bytes.filter(|bytes| bytes.len() == 48).ok_or(Error::InvalidRefreshToken)?;
        let (tenant, secret) = bytes.split_at(16);
        let tenant = Uuid::from_slice(tenant).map_err(|_| Error::InvalidRefreshToken)?.into();
        Ok(Self { tenant, secret: secret.try_into().map_err(|_| Error::InvalidRefreshToken)? })
    }

    fn to_text(&self) -> String {
        let bytes = [self.tenant.uuid().as_bytes().as_slice(), &self.secret].concat();
        format!("{REFRESH_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What is stored: a random secret needs no slow hash.
    #[must_use]
    pub fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.secret).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_token_reads_back_and_nothing_else_does() {
        let token = RefreshToken { tenant: TenantId::new(&Clock::default()), secret: rand::random() };
        let text = token.to_text();
        assert_eq!(RefreshToken::parse(&text).unwrap(), token);
        for bad in ["", "tnr_", &text[4..], &text[..text.len() - 1], &format!("{text}A")] {
            assert!(RefreshToken::parse(bad).is_err(), "{bad}");
        }
    }
}
