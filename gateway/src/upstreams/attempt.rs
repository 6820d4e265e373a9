//! One try of a call at one address: what is sent, and how far it got.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri, Version};
use hyper::body::Incoming;
use tonic::body::Body;

use super::{
    connect::Outgoing,
    replica::{Flight, Replica},
};

/// A call on its way: what is sent, and where it has been.
pub(super) struct Try {
    pub(super) headers: HeaderMap,
    pub(super) body: Payload,
    pub(super) may_repeat: bool,
    pub(super) tried: Vec<SocketAddr>,
}

pub(super) enum Payload {
    Whole(Bytes),
    /// `None` once it is sent.
    Stream(Option<Body>),
}

/// Why one try brought no response.
pub(super) enum Missed {
    /// The service has not seen the call.
    Unsent,
    /// It may have seen it.
    Lost,
    /// It said that it cannot serve just now; the response is passed on when there is no other try.
    Unavailable(Box<Response<Incoming>>, Flight),
    Expired,
}

impl Payload {
    pub(super) fn is_whole(&self) -> bool {
        !matches!(self, Self::Stream(None))
    }

    fn take(&mut self) -> Outgoing {
        match self {
            Self::Whole(bytes) => Outgoing::Whole(Some(bytes.clone())),
            Self::Stream(body) => body.take().map_or(Outgoing::Whole(None), Outgoing::Stream),
        }
    }
}

/// No response, and how far the call got.
pub(super) struct Gone {
    pub(super) is_unsent: bool,
    pub(super) is_connect: bool,
    pub(super) why: String,
}

pub(super) async fn exchange(path: &Uri, call: &mut Try, replica: &Replica) -> Result<Response<Incoming>, Gone> {
    let refused = |error: io::Error| Gone { is_unsent: true, is_connect: true, why: error.to_string() };
    let mut sender = replica.sender().await.map_err(refused)?;
    let mut request = Request::new(call.body.take());
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = call.headers.clone();
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(replica.connector.scheme.clone());
    parts.authority = Some(replica.connector.authority().clone());
    parts.path_and_query = path.path_and_query().cloned();
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are each well-formed");
    let mut failed = match sender.try_send_request(request).await {
        Ok(response) => return Ok(response),
        Err(failed) => failed,
    };
    let mut is_unsent = is_unseen(failed.error());
    if let Some(request) = failed.take_message() {
        is_unsent = true;
        if let (Outgoing::Stream(body), Payload::Stream(place)) = (request.into_body(), &mut call.body) {
            *place = Some(body);
        }
    }
    let error = failed.into_error();
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Err(Gone { is_unsent, is_connect: false, why: format!("{error}{cause}") })
}

/// Whether the peer has said that it did not look at the call (RFC 9113 section 8.7).
fn is_unseen(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        cause.is_remote() && (cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}
