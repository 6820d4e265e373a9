//! One try of a call at one address: what is sent, and how far it got.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri, Version};
use tonic::body::Body;

use super::{
    link::Incoming,
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
    /// Whether there is something to send still.
    pub(super) fn is_whole(&self) -> bool {
        !matches!(self, Self::Stream(None))
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
    let sender = replica.sender().await.map_err(refused)?;
    let mut request = Request::new(());
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = call.headers.clone();
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(replica.connector.scheme.clone());
    parts.authority = Some(replica.connector.authority().clone());
    parts.path_and_query = path.path_and_query().cloned();
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are each well-formed");
    sender.send(request, &mut call.body).await
}
