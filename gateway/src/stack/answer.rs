//! How every answer leaves: in the protocol of the one who asked, with the headers that each has.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb, Response, header};

use super::{Edge, REQUEST_ID, body::AnswerBody, forward::Answered, limits::Draws, protocol::Protocol, seen::Seen};
use crate::{errors::Refusal, upstreams::Loaded};

/// One year, as the preload lists ask for.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000; includeSubDomains");

/// What a page that a service answers with may do: be styled, and send a form back to where it came from.
const PAGE_CSP: &str =
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

impl Edge {
    pub(super) fn answer(
        &self,
        answer: Result<Answered, Refusal>,
        loaded: &Loaded,
        mut seen: Seen,
        draws: &Draws,
        asked: &HeaderMap,
    ) -> Response<AnswerBody> {
        match answer {
            Ok(Answered::Stream(response, mut relay)) => {
                let mut response = response;
                draws.write(response.headers_mut());
                self.finish(response.headers_mut(), &seen, asked);
                seen.line = Some(relay.line.clone());
                if relay.is_over() {
                    seen.ended(None);
                }
                relay.seen = Some(seen);
                response.map(|()| AnswerBody::stream(relay.into_body()))
            }
            Ok(Answered::Passed(passed)) => {
                seen.ended(passed.told.as_ref());
                let mut response = passed.into_response(seen.protocol, &loaded.contract.pool);
                draws.write(response.headers_mut());
                self.finish(response.headers_mut(), &seen, asked);
                seen.gave(response.body().len());
                response
            }
            whole => {
                let mut response = match whole {
                    Ok(Answered::Whole(response)) => {
                        seen.succeeded(response.status());
                        response
                    }
                    Ok(Answered::Stream(..) | Answered::Passed(_)) => unreachable!("they are answered above"),
                    Err(refusal) => {
                        let told = refusal.told();
                        seen.ended(Some(&told));
                        seen.protocol.refuse(&told, &loaded.contract.pool)
                    }
                };
                draws.write(response.headers_mut());
                self.finish(response.headers_mut(), &seen, asked);
                if seen.verb == Verb::HEAD {
                    // As GET would have answered, without the body.
                    let length = HeaderValue::from(response.body().len());
                    response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(length);
                    return response.map(|_| AnswerBody::whole(Bytes::new()));
                }
                seen.gave(response.body().len());
                response.map(AnswerBody::whole)
            }
        }
    }

    /// The headers that every answer carries.
    fn finish(&self, to: &mut HeaderMap, seen: &Seen, asked: &HeaderMap) {
        to.insert(REQUEST_ID, seen.request_id.clone());
        if seen.protocol == Protocol::Grpc {
            // What follows is for browsers, which do not speak it.
            return;
        }
        to.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        to.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        to.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        let is_page = to.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
        let csp =
            HeaderValue::from_static(if is_page { PAGE_CSP } else { "default-src 'none'; frame-ancestors 'none'" });
        // The reference page has one of its own; a service's is never passed on.
        to.entry(header::CONTENT_SECURITY_POLICY).or_insert(csp);
        if self.config.public_https || self.config.edge_tls_cert.is_some() {
            to.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
        }
        self.cors.write(asked, to);
    }
}
