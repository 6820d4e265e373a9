//! Answers made smaller for clients that take gzip (RFC 9110, sections 8.4 and 12.5.3).

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, header};

const GZIP: HeaderValue = HeaderValue::from_static("gzip");
const VARY: HeaderValue = HeaderValue::from_static("accept-encoding");
/// More is not packed in a thread that others wait for.
const AT_ONCE: usize = 64 * 1024;

/// Packs an answer of text that has `from` bytes or more; 0 is none. No browser sends a credential here by itself, so the
/// size of an answer tells nothing to who makes it ask (BREACH).
pub(super) async fn packed(mut response: Response<Bytes>, asked: &HeaderMap, from: usize) -> Response<Bytes> {
    let headers = response.headers();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if from == 0 || response.body().len() < from || !shrinks(kind) || headers.contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    // Caches must not hand it to who does not take it, nor the plain one to who asked for less.
    response.headers_mut().append(header::VARY, VARY);
    if !takes(asked.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok())) {
        return response;
    }
    let plain = response.body().clone();
    let packed = if plain.len() <= AT_ONCE {
        Some(gzip(&plain))
    } else {
        tokio::task::spawn_blocking(move || gzip(&plain)).await.ok()
    };
    let Some(packed) = packed.filter(|packed| packed.len() < response.body().len()) else { return response };
    *response.body_mut() = packed;
    let to = response.headers_mut();
    to.insert(header::CONTENT_ENCODING, GZIP);
    // Other bytes of the same thing.
    let weak = to.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
    let weak = weak.and_then(|tag| HeaderValue::try_from([b"W/", tag.as_bytes()].concat()).ok());
    if let Some(weak) = weak {
        to.insert(header::ETAG, weak);
    }
    response
}

/// The bytes with gzip, quickly rather than well: the answer is waited for.
pub(super) fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 3 + 64), Compression::fast());
    let written = encoder.write_all(plain).and_then(|()| encoder.finish());
    written.expect("a vector takes every write").into()
}

/// Whether a list of encodings, with or without weights, takes gzip.
pub(super) fn takes<'h>(values: impl Iterator<Item = &'h str>) -> bool {
    let mut any = None;
    for coding in values.flat_map(|value| value.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let is_taken = weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0));
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            return is_taken;
        }
        if name == "*" {
            any = Some(is_taken);
        }
    }
    any.unwrap_or(false)
}

/// Whether a media type is text, or a message that has text in it.
fn shrinks(kind: &str) -> bool {
    let essence = kind.split(';').next().unwrap_or_default().trim();
    let known = ["application/json", "application/proto", "application/xml", "application/javascript", "image/svg+xml"];
    known.contains(&essence) || essence.ends_with("+json") || essence.starts_with("text/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_who_takes_it() {
        for (value, taken) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("x-gzip", true),
            ("*", true),
            ("gzip;q=0, *", false),
            ("*;q=0", false),
            ("identity", false),
            ("br", false),
            ("", false),
            ("gzip;q=x", false),
        ] {
            assert_eq!(takes([value].into_iter()), taken, "{value}");
        }
    }

    #[test]
    fn pictures_and_archives_stay_as_they_are() {
        assert!(shrinks("application/json") && shrinks("text/html; charset=utf-8") && shrinks("application/ld+json"));
        assert!(!shrinks("image/png") && !shrinks("application/zip") && !shrinks("") && !shrinks("text"));
    }

    #[tokio::test]
    async fn an_answer_says_that_it_is_packed_and_is_no_longer_the_same_bytes() {
        let answer = |size: usize| {
            let mut answer = Response::new(Bytes::from(vec![b'x'; size]));
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            answer.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"a\""));
            answer
        };
        let asked = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"))]);
        for size in [1_024, AT_ONCE + 1] {
            let small = packed(answer(size), &asked, 1_024).await;
            assert!(small.body().len() < size / 2);
            assert_eq!(small.headers()[header::CONTENT_ENCODING], "gzip");
            assert_eq!(
                (&small.headers()[header::VARY], &small.headers()[header::ETAG]),
                (&VARY, &"W/\"a\"".parse().unwrap())
            );
        }
        let short = packed(answer(1_023), &asked, 1_024).await;
        assert!(short.headers().get(header::VARY).is_none() && short.body().len() == 1_023);
        let plain = packed(answer(1_024), &HeaderMap::new(), 1_024).await;
        assert!(plain.headers().get(header::CONTENT_ENCODING).is_none() && plain.headers()[header::VARY] == VARY);
        assert_eq!(packed(answer(9_000), &asked, 0).await.body().len(), 9_000);
    }
}
