//! What a caller proves itself by: a token as it is, or an API key, which is exchanged for one here and goes no further.

use http::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderValue},
};
use tenon_chassis::{
    api_key::{ApiKey, PREFIX},
    guard::{API_KEY, OPERATOR_KEY},
};
use tenon_proto::{
    options::v1::policy::{Access, Rate},
    policy::Method,
};
use tonic::Code;

use super::{Edge, limits::Draws, peer, seen::Seen};
use crate::{api_keys::invalid, errors::Refusal};

impl Edge {
    /// Puts a token in the place of an API key, whatever the protocol; from there on all goes as with a user's.
    pub(super) async fn exchanged(
        &self,
        method: &Method,
        seen: &Seen,
        draws: &mut Draws,
        headers: &mut HeaderMap,
    ) -> Result<(), Refusal> {
        let Some(text) = shown(method, headers)? else { return Ok(()) };
        // One with a typo is known without asking anyone.
        let key = ApiKey::parse(text);
        let known = match &key {
            Some(key) => self.api_keys.known(key).await,
            None => None,
        };
        let bearer = match known {
            Some(bearer) => bearer,
            None => self.asked(key.as_ref(), seen, draws).await?,
        };
        headers.remove(API_KEY);
        headers.insert(AUTHORIZATION, bearer);
        Ok(())
    }

    /// Whoever shows keys that are none draws on what the address may log in, from then on before anyone is asked.
    async fn asked(&self, key: Option<&ApiKey>, seen: &Seen, draws: &mut Draws) -> Result<HeaderValue, Refusal> {
        let address = peer::limited_as(seen.client);
        let is_guesser = self.api_keys.is_guesser(address);
        let mut draw = || draws.ip(&self.limiter, &self.config.rates, Rate::Login, seen.client);
        if is_guesser {
            draw()?;
        }
        let asked = match key {
            Some(key) => self.api_keys.exchange(key).await,
            None => Err(invalid()),
        };
        asked.map_err(|fault| {
            if fault.code != Code::Unauthenticated {
                return fault.into();
            }
            self.api_keys.guessed(address);
            if is_guesser { fault.into() } else { draw().err().unwrap_or(fault).into() }
        })
    }
}

/// The API key of a request, if it has one.
fn shown<'h>(method: &Method, headers: &'h HeaderMap) -> Result<Option<&'h str>, Refusal> {
    // Nobody's methods and the operator's need none, and nothing is made of one there.
    let is_asked = match method.access {
        Access::Public => false,
        Access::Operator => !headers.contains_key(OPERATOR_KEY),
        _ => true,
    };
    if !is_asked {
        return Ok(None);
    }
    let mut own = headers.get_all(API_KEY).iter();
    let Some(value) = own.next() else {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
        let token = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        // More than one header is the guard's to refuse.
        let is_one = || headers.get_all(AUTHORIZATION).iter().count() == 1;
        return Ok(token.filter(|token| token.starts_with(PREFIX) && is_one()));
    };
    if own.next().is_some() || headers.contains_key(AUTHORIZATION) {
        let why = "send one credential: authorization or x-api-key, and once";
        return Err(Refusal::invalid("AMBIGUOUS_CREDENTIALS", "x-api-key", why));
    }
    Ok(Some(value.to_str().unwrap_or_default().trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_proto::policy::Contract;

    fn key(method: &str, headers: &[(&'static str, &'static str)]) -> Result<Option<String>, ()> {
        let contract = Contract::embedded();
        let map: HeaderMap = HeaderMap::from_iter(Vec::new());
        let map = headers.iter().fold(map, |mut map, (name, value)| {
            map.append(*name, HeaderValue::from_static(value));
            map
        });
        let found = shown(contract.method(method).unwrap(), &map);
        found.map(|key| key.map(str::to_owned)).map_err(|_| ())
    }

    #[test]
    fn a_key_comes_in_one_of_two_headers() {
        let method = "/tenon.auth.v1.UserService/ListUsers";
        for (headers, expected) in [
            (&[][..], Ok(None)),
            (&[("authorization", "Bearer eyJ.x.y")], Ok(None)),
            (&[("authorization", "Bearer tnk_a")], Ok(Some("tnk_a"))),
            (&[("authorization", "bearer  tnk_a ")], Ok(Some("tnk_a"))),
            (&[("authorization", "Basic tnk_a")], Ok(None)),
            (&[("authorization", "Bearer tnk_a"), ("authorization", "Bearer tnk_b")], Ok(None)),
            (&[("x-api-key", "tnk_a")], Ok(Some("tnk_a"))),
            (&[("x-api-key", "else")], Ok(Some("else"))),
            (&[("x-api-key", "tnk_a"), ("x-api-key", "tnk_a")], Err(())),
            (&[("x-api-key", "tnk_a"), ("authorization", "Bearer tnk_a")], Err(())),
            (&[("x-api-key", "tnk_a"), ("authorization", "Bearer eyJ.x.y")], Err(())),
        ] {
            assert_eq!(key(method, headers), expected.map(|key| key.map(str::to_owned)), "{headers:?}");
        }
        let both = [("x-api-key", "tnk_a"), ("authorization", "Bearer tnk_a")];
        assert_eq!(key("/tenon.auth.v1.SessionService/Login", &both), Ok(None));
        let operator = [("x-api-key", "tnk_a"), ("x-operator-key", "o")];
        assert_eq!(key("/tenon.tenant.v1.TenantService/SuspendTenant", &operator), Ok(None));
    }
}
