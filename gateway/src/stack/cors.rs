//! Calls from browsers: an allow-list of origins (Fetch standard, "CORS protocol").

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::metadata;

/// What a page may send besides metadata.
const ALLOWED_HEADERS: &str = "authorization, content-type, idempotency-key, x-request-id, x-request-timeout, x-operator-key, \
     traceparent, accept, last-event-id, x-grpc-web, x-user-agent, grpc-timeout, connect-protocol-version, \
     connect-timeout-ms, connect-content-encoding, connect-accept-encoding";
/// What a page may read besides the metadata of the answer.
const EXPOSED_HEADERS: &str = "x-request-id, idempotency-replayed, ratelimit, ratelimit-policy, retry-after, grpc-status, \
     grpc-message, grpc-status-details-bin, content-encoding, connect-content-encoding";
/// Names of metadata that one preflight may ask for.
const MAX_NAMES: usize = 64;
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
        let own = to.keys().filter(|name| metadata::passes(name.as_str()) || is_spelt(name.as_str()));
        let names = own.fold(EXPOSED_HEADERS.to_owned(), |all, name| all + ", " + name.as_str());
        to.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::try_from(names).expect("header names are ASCII"));
        true
    }

    /// Answers a preflight for a verb that the path has: what it asks for of metadata is allowed, as it passes.
    pub(super) fn write_preflight(verb: &Method, asked: &HeaderMap, to: &mut HeaderMap) {
        let names = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).and_then(|names| names.to_str().ok());
        let names = names.unwrap_or_default().split(',').map(str::trim).take(MAX_NAMES);
        let names = names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        let own = names.filter(|name| metadata::passes(name.as_str()) || is_spelt(name.as_str()));
        let allowed = own.fold(ALLOWED_HEADERS.to_owned(), |all, name| all + ", " + name.as_str());
        let allowed = HeaderValue::try_from(allowed).expect("header names are ASCII");
        let verb = HeaderValue::from_str(verb.as_str()).expect("an HTTP verb is a token");
        to.insert(header::ACCESS_CONTROL_ALLOW_METHODS, verb);
        to.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        to.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
    }
}

/// Metadata as HTTP/JSON and Connect spell it.
fn is_spelt(name: &str) -> bool {
    ["grpc-metadata-", "grpc-trailer-", "trailer-"].iter().any(|prefix| name.starts_with(prefix))
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
