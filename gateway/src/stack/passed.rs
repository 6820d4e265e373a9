//! A call of one message each way that nobody looks into: gRPC and gRPC-Web. Its answer is read and given on as a whole.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost_reflect::DescriptorPool;
use tonic::{Code, Status};

use super::{
    Edge, REPLAYED,
    body::AnswerBody,
    forward::{Answered, Ask, GRPC_ENCODING, may_repeat, relayed, shape},
    frames::{Gathered, base64, envelope},
    keyed::Sending,
    line::Line,
    metadata,
    protocol::Protocol,
    relay::{Form, Relay, of_service},
    seen::Seen,
};
use crate::{
    errors::{Refusal, Told, status_of},
    upstreams::Answer,
};

/// Bytes of an answer that are gathered; a larger one is given on while it comes.
const MOST: usize = 64 * 1024;

/// An answer in gRPC's frames, with what stands before and behind them.
pub(super) struct Passed {
    pub(super) head: HeaderMap,
    frames: Bytes,
    /// What else the service said at the end, and how it ended.
    trailers: HeaderMap,
    pub(super) told: Option<Told>,
}

impl Passed {
    fn new(protocol: Protocol, headers: &HeaderMap, frames: Bytes, end: Result<HeaderMap, Refusal>) -> Self {
        let mut head = HeaderMap::with_capacity(12);
        metadata::pass_out(headers, &mut head);
        head.insert(header::CONTENT_TYPE, protocol.media());
        metadata::copy(&[GRPC_ENCODING, REPLAYED], headers, &mut head);
        let (trailers, told) = match end {
            Ok(trailers) => (trailers, None),
            Err(refusal) => (HeaderMap::new(), Some(refusal.told())),
        };
        Self { head, frames, trailers, told }
    }

    /// The headers and the body, as the protocol has them.
    pub(super) fn into_response(self, protocol: Protocol, pool: &DescriptorPool) -> Response<AnswerBody> {
        let Self { head, frames, mut trailers, told } = self;
        let body = match protocol {
            Protocol::Web { text } => {
                let end = protocol.end(told.as_ref().map_or(Ok(()), Err), trailers, pool);
                let frames = if text { base64(&frames) } else { frames };
                let mut all = BytesMut::with_capacity(frames.len() + end.len());
                all.extend_from_slice(&frames);
                all.extend_from_slice(&end);
                AnswerBody::whole(all.freeze())
            }
            _ => {
                match &told {
                    None => drop(trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"))),
                    Some(told) => told.grpc(&mut trailers),
                }
                AnswerBody::with_trailers(frames, trailers)
            }
        };
        let mut response = Response::new(body);
        *response.headers_mut() = head;
        response
    }
}

impl Edge {
    pub(super) async fn pass(
        &self,
        ask: &Ask<'_>,
        seen: &Seen,
        headers: &HeaderMap,
        body: Incoming,
        call: Sending<'_>,
    ) -> Result<Answered, Refusal> {
        let frames = self.collected(ask, seen, headers, body).await?;
        let passed = |headers: &HeaderMap, frames, end| {
            Ok(Answered::Passed(Box::new(Passed::new(ask.protocol, headers, frames, end))))
        };
        if call.key.is_some() {
            let Answer { headers, message, trailers } = call.send(frames).await?;
            return passed(&headers, envelope(0, &message), Ok(metadata::outward(&trailers)));
        }
        let Sending { served, out, deadline, .. } = call;
        let again = may_repeat(&served.method, headers);
        let response = served.target.whole(&served.path, out, frames, deadline, again).await?;
        let (parts, mut body) = response.into_parts();
        let of_service = |status: &Status| of_service(status, Some(deadline));
        if let Some(status) = status_of(&parts.headers) {
            // The whole answer was in its headers.
            return match status.code() {
                Code::Ok => passed(&parts.headers, Bytes::new(), Ok(HeaderMap::new())),
                _ => Err(of_service(&status)),
            };
        }
        let mut frames = Gathered::default();
        let end = loop {
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => frames.push(data),
                    Err(frame) => break ended(&frame.into_trailers().unwrap_or_default(), of_service),
                },
                Some(Err(status)) => break Err(of_service(&status)),
                None => break ended(&HeaderMap::new(), of_service),
            }
            if frames.len() > MOST {
                let line = Line::new(None).into();
                let mut relay = Relay::new(ask.loaded.clone(), shape(ask, Form::Lines, None), line, Some(deadline));
                relay.data(frames.take())?;
                return Box::pin(relayed(seen, Response::from_parts(parts, body), relay, Form::Lines)).await;
            }
        };
        passed(&parts.headers, frames.take(), end)
    }
}

/// How a service ended its answer.
fn ended(trailers: &HeaderMap, of_service: impl Fn(&Status) -> Refusal) -> Result<HeaderMap, Refusal> {
    match status_of(trailers) {
        None => Err(of_service(&Status::unavailable("the service's answer ended without a status"))),
        Some(status) if status.code() != Code::Ok => Err(of_service(&status)),
        Some(_) => Ok(metadata::outward(trailers)),
    }
}
