//! The plain port beside https: it answers ACME challenges and sends everyone else to https. No call goes through it.

use std::{convert::Infallible, path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header, uri::Authority};
use http_body_util::Full;
use hyper::body::Incoming;
use tenon_chassis::accept;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::acme;

/// Serves until stopped.
pub(crate) async fn serve(
    listener: TcpListener,
    challenges: Option<PathBuf>,
    limits: accept::Limits,
    stop: CancellationToken,
) {
    let challenges = Arc::new(challenges);
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let challenges = challenges.clone();
        async move {
            let challenge = acme::answer(challenges.as_deref(), request.method(), request.uri().path());
            Ok::<_, Infallible>(match challenge {
                Some(challenge) => plain(StatusCode::OK, challenge),
                None => redirected(&request),
            })
        }
    });
    accept::serve(listener, service, limits, stop).await;
}

/// The same under https, on the port that https has. 308 keeps the verb and the body (RFC 9110, 15.4.9).
fn redirected<B>(request: &Request<B>) -> Response<Full<Bytes>> {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    let host: Option<Authority> = request.uri().authority().cloned().or(named);
    let to = host.and_then(|host| {
        let path = request.uri().path_and_query().cloned()?;
        let to = Uri::builder().scheme("https").authority(host.host()).path_and_query(path).build().ok()?;
        HeaderValue::try_from(to.to_string()).ok()
    });
    let Some(to) = to else { return plain(StatusCode::BAD_REQUEST, "the request names no host\n") };
    let mut response = plain(StatusCode::PERMANENT_REDIRECT, "come by https\n");
    response.headers_mut().insert(header::LOCATION, to);
    response
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let to = response.headers_mut();
    to.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    to.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_is_sent_to_the_same_place_by_https() {
        let sent = |uri: &str, host: &str| {
            let request = Request::get(uri).header("host", host).body(()).unwrap();
            let response = redirected(&request);
            let to = response.headers().get(header::LOCATION).map(|to| to.to_str().unwrap().to_owned());
            (response.status().as_u16(), to)
        };
        let to = |to: &str| (308, Some(to.to_owned()));
        assert_eq!(
            sent("/v1/runs?page_size=2", "acme.example.com"),
            to("https://acme.example.com/v1/runs?page_size=2")
        );
        assert_eq!(sent("/", "acme.example.com:8081"), to("https://acme.example.com/"));
        assert_eq!(sent("http://acme.example.com/a", "other.test"), to("https://acme.example.com/a"));
        assert_eq!(sent("/", "[::1]:80"), to("https://[::1]/"));
        for host in ["", "a b", "a/b", "evil@"] {
            assert_eq!(sent("/", host).0, 400, "{host}");
        }
        // What is in front of an @ is no host.
        assert_eq!(sent("/", "evil@acme.example.com"), to("https://acme.example.com/"));
    }
}
