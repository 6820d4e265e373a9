//! Calls from browsers: an allow-list of origins (Fetch standard, "CORS protocol").

use http::{HeaderMap, HeaderValue, Method, header};

const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, x-request-id, x-request-timeout, x-operator-key, traceparent",
);
const EXPOSED_HEADERS: HeaderValue =
    HeaderValue::from_static("x-request-id, idempotency-replayed, ratelimit, ratelimit-policy, retry-after");
/// Browsers keep a preflight's answer no longer than this.
const MAX_AGE_S: HeaderValue = HeaderValue::from_static("7200");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("origin");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// Which origins may read answers.
#[derive(Debug, Clone)]
pub(super) struct Cors {
    origins: Vec<String>,
    any: bool,
}

impl Cors {
    pub(super) fn new(origins: &[String]) -> Self {
        let origins: Vec<_> = origins.iter().map(|origin| origin.trim().trim_end_matches('/').to_owned()).collect();
        Self { any: origins.iter().any(|origin| origin == "*"), origins }
    }

    /// What a preflight asks for; `None` for every other request.
    pub(super) fn preflight(verb: &Method, headers: &HeaderMap) -> Option<Method> {
        let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).filter(|_| verb == Method::OPTIONS)?;
        headers.contains_key(header::ORIGIN).then(|| Method::from_bytes(asked.as_bytes()).ok())?
    }

    /// Lets the origin of a request read its answer, if it is one of ours.
    pub(super) fn write(&self, asked: &HeaderMap, to: &mut HeaderMap) -> bool {
        if self.origins.is_empty() {
            return false;
        }
        // Caches must not hand one origin's answer to another.
        to.append(header::VARY, VARY_ORIGIN);
        let Some(origin) = asked.get(header::ORIGIN) else { return false };
        if self.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes() && allowed != "*") {
            to.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            to.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        } else if self.any {
            // Never with credentials: the wildcard is for what anyone may read.
            to.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
        } else {
            return false;
        }
        to.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        true
    }

    /// Answers a preflight for a verb that the path has.
    pub(super) fn write_preflight(verb: &Method, to: &mut HeaderMap) {
        let verb = HeaderValue::from_str(verb.as_str()).expect("an HTTP verb is a token");
        to.insert(header::ACCESS_CONTROL_ALLOW_METHODS, verb);
        to.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
        to.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(origins: &[&str], origin: &str) -> (String, bool) {
        let cors = Cors::new(&origins.iter().map(|&origin| origin.to_owned()).collect::<Vec<_>>());
        let (mut asked, mut to) = (HeaderMap::new(), HeaderMap::new());
        asked.insert(header::ORIGIN, origin.parse().unwrap());
        cors.write(&asked, &mut to);
        let allowed = to.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map_or("", |value| value.to_str().unwrap());
        (allowed.to_owned(), to.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS))
    }

    #[test]
    fn only_listed_origins_may_read_and_only_they_with_credentials() {
        let app = "https://app.example.com";
        assert_eq!(answer(&[], app), (String::new(), false));
        assert_eq!(answer(&["https://app.example.com/"], app), (app.to_owned(), true));
        assert_eq!(answer(&[app], "https://app.example.com.evil.com"), (String::new(), false));
        assert_eq!(answer(&[app], "http://app.example.com"), (String::new(), false));
        assert_eq!(answer(&[app], "null"), (String::new(), false));
        assert_eq!(answer(&["*"], app), ("*".to_owned(), false));
        assert_eq!(answer(&["*", app], app), (app.to_owned(), true));
        assert_eq!(answer(&["*"], "*"), ("*".to_owned(), false));
    }
}
