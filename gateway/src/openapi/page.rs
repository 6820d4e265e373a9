//! The document and its page, as the edge serves them: from memory, with an ETag, and nothing from anywhere else.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb, Response, StatusCode, header};
use sha2::{Digest, Sha256};

/// What the page may do: run and be styled by its own files, and call the edge that it came from.
const CSP: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

/// Something that is served as it is.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    kind: &'static str,
    body: Bytes,
    etag: HeaderValue,
}

impl Page {
    pub(crate) fn new(kind: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let hash: String = Sha256::digest(&body).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let etag = HeaderValue::try_from(format!("\"{hash}\"")).expect("hexadecimal digits are printable ASCII");
        Self { kind, body, etag }
    }

    /// The answer; 304 to who has it already (RFC 9110, 13.1.2).
    pub(crate) fn answer(&self, asked: &HeaderMap) -> Response<Bytes> {
        let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
        let mut known = known.flat_map(|tags| tags.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
        let is_known = known.any(|tag| tag == "*" || tag.as_bytes() == self.etag.as_bytes());
        let mut response = Response::new(if is_known { Bytes::new() } else { self.body.clone() });
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let to = response.headers_mut();
        to.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        to.insert(header::ETAG, self.etag.clone());
        to.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        to.insert(header::CONTENT_SECURITY_POLICY, CSP);
        response
    }
}

/// The page at a path, when there is one; `document` makes openapi.json.
pub(crate) fn find(verb: &Verb, path: &str, document: impl FnOnce() -> Page) -> Option<Page> {
    if *verb != Verb::GET && *verb != Verb::HEAD {
        return None;
    }
    Some(match path {
        "/openapi.json" => document(),
        "/docs" | "/docs/" => Page::new("text/html; charset=utf-8", include_str!("page/index.html")),
        "/docs/page.js" => Page::new("text/javascript; charset=utf-8", include_str!("page/page.js")),
        "/docs/page.css" => Page::new("text/css; charset=utf-8", include_str!("page/page.css")),
        _ => return None,
    })
}
