//! What an API key is, what it may do, and the token that it is exchanged for.

use chrono::{DateTime, TimeDelta, Utc};
use tenon_chassis::{
    ApiKeyId, Fault, UserId,
    api_key::SUBJECT,
    directory::Tenant,
    token::{AUDIENCE, UserClaims},
};
use tenon_proto::policy::{Contract, ROLES, includes};
use tonic::Code;

const MAX_NAME: usize = 100;
const MAX_PERMISSIONS: usize = 50;
/// Bytes of one permission.
const MAX_PERMISSION: usize = 128;
/// Seconds that the token of a key lives: the edges keep it for 60.
const TOKEN_LIFE_S: i64 = 120;

/// A row of auth.api_keys.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: ApiKeyId,
    pub display_name: String,
    /// Roles, and permissions, which have a dot.
    pub roles: Vec<String>,
    pub created_by: UserId,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub last_used_at: Option<DateTime<Utc>>,
}

/// What keys are issued under.
#[derive(Debug, Clone)]
pub struct Terms {
    pub issuer: String,
    pub days: u32,
    pub max_days: u32,
    /// Keys of one tenant at most.
    pub most: i64,
}

impl Terms {
    /// When a key that is made now expires.
    ///
    /// # Errors
    /// INVALID_FIELD when that is over already, or too far off.
    pub fn expiry(&self, now: DateTime<Utc>, asked: Option<DateTime<Utc>>) -> Result<DateTime<Utc>, Fault> {
        let Some(asked) = asked else { return Ok(now + TimeDelta::days(self.days.into())) };
        if asked <= now {
            return Err(Fault::invalid("expire_time", "must lie in the future"));
        }
        // Whoever adds the days by himself may have another clock than we.
        if asked > now + TimeDelta::days(self.max_days.into()) + TimeDelta::minutes(5) {
            return Err(Fault::invalid("expire_time", format!("must be within {} days", self.max_days)));
        }
        Ok(asked)
    }

    /// What the token of a key says.
    #[must_use]
    pub fn claims(&self, now: DateTime<Utc>, tenant: &Tenant, id: ApiKeyId, held: &Held) -> UserClaims {
        let iat = now.timestamp();
        UserClaims {
            iss: self.issuer.replace("{slug}", &tenant.slug),
            sub: format!("{SUBJECT}{id}"),
            aud: AUDIENCE.to_owned(),
            tid: tenant.id.to_string(),
            sid: String::new(),
            roles: held.roles.clone(),
            amr: Vec::new(),
            auth_time: iat,
            iat,
            exp: (iat + TOKEN_LIFE_S).min(held.expires_at.timestamp()),
        }
    }
}

/// What is kept of a key that is exchanged.
#[derive(Debug, Clone)]
pub struct Held {
    pub hash: Vec<u8>,
    pub roles: Vec<String>,
    pub expires_at: DateTime<Utc>,
}

/// # Errors
/// INVALID_FIELD.
pub fn check_name(text: &str) -> Result<String, Fault> {
    let name = text.trim();
    let count = name.chars().count();
    if (1..=MAX_NAME).contains(&count) && !name.chars().any(char::is_control) {
        return Ok(name.to_owned());
    }
    Err(Fault::invalid("display_name", "must have 1 to 100 characters"))
}

/// Checks what a key is to be able to do; as it is kept, in one list.
///
/// # Errors
/// INVALID_FIELD naming the first that is none.
pub fn check_rights(roles: &[String], permissions: &[String], contract: &Contract) -> Result<Vec<String>, Fault> {
    if let Some(at) = roles.iter().position(|role| !ROLES.contains(&role.as_str())) {
        return Err(Fault::invalid(format!("roles[{at}]"), format!("must be one of {}", ROLES.join(", "))));
    }
    if permissions.len() > MAX_PERMISSIONS {
        return Err(Fault::invalid("permissions", format!("must be at most {MAX_PERMISSIONS}")));
    }
    for (at, permission) in permissions.iter().enumerate() {
        check_permission(permission, contract)
            .map_err(|why| Fault::invalid(format!("permissions[{at}]"), why.to_owned()))?;
    }
    let mut all = [roles, permissions].concat();
    all.sort_unstable();
    all.dedup();
    if all.is_empty() {
        return Err(Fault::invalid("roles", "must be given, or permissions: a key without both can do nothing"));
    }
    Ok(all)
}

fn check_permission(text: &str, contract: &Contract) -> Result<(), &'static str> {
    let (prefix, is_all) = text.strip_suffix(".*").map_or((text, false), |prefix| (prefix, true));
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let is_word = |word: &str| word.starts_with(|c: char| c.is_ascii_lowercase()) && word.bytes().all(inner);
    let is_known_form = text.len() <= MAX_PERMISSION && text.contains('.') && prefix.split('.').all(is_word);
    if !is_known_form {
        return Err("must be like workflow.runs.create, or workflow.runs.* for all that begin so");
    }
    let known = || contract.methods().filter_map(|method| method.permission.as_deref());
    let service = |permission: &str| permission.split('.').next().map(str::to_owned);
    if !known().any(|permission| service(permission) == service(text)) {
        // Of a service behind the edge, which only the edge knows.
        return Ok(());
    }
    let asked = |permission: &str| {
        permission == text || (is_all && permission.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')))
    };
    if known().any(asked) { Ok(()) } else { Err("is asked for by no method") }
}

/// Nobody hands on more than he has.
///
/// # Errors
/// PERMISSION_DENIED naming the first that the caller lacks.
pub fn check_within(own: &[String], wanted: &[String]) -> Result<(), Fault> {
    let Some(lacking) = wanted.iter().find(|wanted| !includes(own, wanted)) else { return Ok(()) };
    let what = if lacking.contains('.') { "permission" } else { "role" };
    let message = format!("a key has no more rights than who makes it: you lack {lacking}");
    Err(Fault::new(Code::PermissionDenied, "PERMISSION_DENIED", message).with(what, lacking))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_right_is_a_role_or_a_permission_that_exists() {
        let contract = Contract::embedded();
        let check = |roles: &[&str], permissions: &[&str]| check_rights(&owned(roles), &owned(permissions), &contract);
        let all = check(&["viewer", "viewer"], &["workflow.runs.create", "shop.orders.place"]).unwrap();
        assert_eq!(all, ["shop.orders.place", "viewer", "workflow.runs.create"]);
        for good in ["workflow.*", "workflow.runs.*", "auth.apikeys.list", "shop.*"] {
            assert!(check(&[], &[good]).is_ok(), "{good}");
        }
        for bad in
            ["", "*", ".*", "x", "a.", ".a", "a..b", "A.b", "workflow.run.*", "workflow.runs.creat", "a.*.b", "a.é"]
        {
            let fault = check(&["viewer"], &["workflow.*", bad]).unwrap_err();
            assert_eq!(fault.violations[0].0, "permissions[1]", "{bad}");
        }
        assert_eq!(check(&["root"], &[]).unwrap_err().violations[0].0, "roles[0]");
        assert_eq!(check(&[], &[]).unwrap_err().violations[0].0, "roles");
        assert_eq!(check(&[], &["a.b"; 51]).unwrap_err().violations[0].0, "permissions");
    }

    #[test]
    fn what_is_lacking_is_named() {
        let own = owned(&["member"]);
        assert!(check_within(&own, &owned(&["member", "workflow.runs.create"])).is_ok());
        for (wanted, what) in [("admin", "role"), ("auth.users.create", "permission")] {
            let fault = check_within(&own, &owned(&["viewer", wanted])).unwrap_err();
            assert_eq!((fault.code, fault.metadata), (Code::PermissionDenied, vec![(what, wanted.to_owned())]));
        }
    }

    #[test]
    fn a_key_expires_in_time() {
        let terms = Terms { issuer: String::new(), days: 90, max_days: 365, most: 1 };
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        assert_eq!(terms.expiry(now, None).unwrap(), now + TimeDelta::days(90));
        let at = |days| Some(now + TimeDelta::days(days));
        assert!(terms.expiry(now, at(365)).is_ok() && terms.expiry(now, at(366)).is_err());
        assert!(terms.expiry(now, Some(now)).is_err() && terms.expiry(now, at(-1)).is_err());
    }
}
