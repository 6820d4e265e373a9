//! The service behind for streams: it sends back what comes, in pieces.
#![expect(clippy::unwrap_used, reason = "a broken house is a failed test")]

use std::{
    convert::Infallible,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Response, request::Parts};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use tenon_chassis::Fault;
use tenon_proto::policy::Contract;
use tokio::sync::Notify;
use tonic::{Code, Status, body::Body};

use crate::house::Cut;

/// What every answer of the house begins with: metadata, and what must not get through.
pub(crate) fn head(to: &mut HeaderMap) {
    to.insert("content-type", HeaderValue::from_static("application/grpc"));
    to.insert("x-initial", HeaderValue::from_static("yes"));
    for name in ["x-tenant-id", "strict-transport-security", "set-cookie", "access-control-allow-origin"] {
        to.insert(name, HeaderValue::from_static("evil"));
    }
}

/// Answers a method of StreamService.
pub(crate) async fn talk(
    contract: &Arc<Contract>,
    parts: &Parts,
    body: Incoming,
    cut: &Arc<AtomicUsize>,
    gate: &Notify,
) -> Result<Response<Body>, Status> {
    let cut = Cut::new(cut);
    let Some(method) = contract.method(parts.uri.path()) else { return Err(Status::unimplemented("no such method")) };
    let (input, output) = (method.descriptor.input(), method.descriptor.output());
    let messages = Box::pin(messages(input, body));
    match method.descriptor.name() {
        "Down" => down(messages, output, &parts.headers, (cut, gate)).await,
        "Download" => {
            let asked = messages.collect::<Vec<_>>().await.remove(0)?;
            let pieces = ["one ", "two ", &text(&asked)].map(|data| {
                let mut piece = DynamicMessage::new(output.clone());
                piece.set_field_by_name("content_type", Value::String("text/plain".to_owned()));
                piece.set_field_by_name("data", Value::Bytes(data.to_owned().into()));
                Ok(piece)
            });
            Ok(answer(stream::iter(pieces), cut))
        }
        "Up" => {
            let all: Vec<_> = messages.collect().await;
            let all = all.into_iter().collect::<Result<Vec<_>, _>>()?;
            let count = i64::try_from(all.len()).unwrap();
            let texts: Vec<_> = all.iter().map(text).collect();
            let last = all.last().cloned();
            Ok(answer(stream::iter([Ok(piece(&output, texts.join(","), count, last))]), cut))
        }
        _ => {
            let pieces = messages.enumerate().map(move |(index, message)| {
                let message = message?;
                Ok(piece(&output, text(&message), i64::try_from(index).unwrap(), None))
            });
            Ok(answer(pieces, cut))
        }
    }
}

async fn down(
    messages: impl Stream<Item = Result<DynamicMessage, Status>>,
    output: MessageDescriptor,
    headers: &HeaderMap,
    (cut, gate): (Cut, &Notify),
) -> Result<Response<Body>, Status> {
    let mut asked = messages.collect::<Vec<_>>().await.remove(0)?;
    let (text, most) = (text(&asked), asked.get_field_by_name("int32").unwrap().as_i32().unwrap());
    if text == "refused" {
        cut.answered();
        return Err(Fault::new(Code::NotFound, "THING_NOT_FOUND", "no such thing").into());
    }
    if text == "mute" {
        // As many servers do: no headers before the first message.
        gate.notified().await;
    }
    let lines = headers.iter().map(|(name, value)| Value::String(format!("{name}: {}", value.to_str().unwrap())));
    asked.get_field_by_name_mut("texts").unwrap().as_list_mut().unwrap().extend(lines);
    let name = text.clone();
    let pieces = stream::iter(0..i64::from(most)).map(move |index| {
        let got = (index == 0).then(|| asked.clone());
        Ok(piece(&output, format!("{name}{index}"), index + 1, got))
    });
    let then: Vec<Result<DynamicMessage, Status>> = match text.as_str() {
        "fails" => vec![Err(Fault::new(Code::NotFound, "THING_NOT_FOUND", "no such thing").into())],
        "crashes" => vec![Err(Status::internal("panicked at /src/secret.rs"))],
        _ => vec![],
    };
    let pieces = pieces.chain(stream::iter(then));
    if text == "endless" {
        let slow = pieces.then(|piece| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            piece
        });
        return Ok(answer(slow, cut));
    }
    if text == "silent" { Ok(answer(pieces.chain(stream::pending()), cut)) } else { Ok(answer(pieces, cut)) }
}

fn text(message: &DynamicMessage) -> String {
    message.get_field_by_name("text").unwrap().as_str().unwrap().to_owned()
}

fn piece(output: &MessageDescriptor, text: String, id: i64, got: Option<DynamicMessage>) -> DynamicMessage {
    let mut piece = DynamicMessage::new(output.clone());
    piece.set_field_by_name("text", Value::String(text));
    piece.set_field_by_name("event_id", Value::I64(id));
    if let Some(got) = got {
        piece.set_field_by_name("got", Value::Message(got));
    }
    piece
}

/// The messages of a request, as they come.
fn messages(input: MessageDescriptor, body: Incoming) -> impl Stream<Item = Result<DynamicMessage, Status>> {
    stream::unfold((Some(body), BytesMut::new(), input), |(mut open, mut buffer, input)| async move {
        loop {
            if buffer.len() >= 5 {
                let length = u32::from_be_bytes(buffer[1..5].try_into().unwrap()) as usize;
                if buffer.len() >= 5 + length {
                    buffer.advance(5);
                    let message = DynamicMessage::decode(input.clone(), buffer.split_to(length).freeze());
                    let message = message.map_err(|error| Status::internal(error.to_string()));
                    return Some((message, (open, buffer, input)));
                }
            }
            match open.as_mut()?.frame().await? {
                Ok(frame) => buffer.put(frame.into_data().unwrap_or_default()),
                Err(error) => return Some((Err(Status::cancelled(error.to_string())), (None, buffer, input))),
            }
        }
    })
}

/// A streamed answer; its last item may be how it ends.
fn answer(pieces: impl Stream<Item = Result<DynamicMessage, Status>> + Send + 'static, cut: Cut) -> Response<Body> {
    let pieces = pieces.map(Some).chain(stream::once(async { None }));
    let frames = pieces.scan(Some(cut), |cut, piece| {
        let frame = match piece {
            _ if cut.is_none() => None,
            Some(Ok(piece)) => Some(Frame::data(frame(&piece))),
            last => {
                cut.take().unwrap().answered();
                let mut trailers = HeaderMap::new();
                trailers.insert("x-final", HeaderValue::from_static("done"));
                trailers.insert("x-tenant-id", HeaderValue::from_static("evil"));
                let status = last.map_or_else(|| Status::ok(""), Result::unwrap_err);
                status.add_header(&mut trailers).unwrap();
                Some(Frame::trailers(trailers))
            }
        };
        std::future::ready(frame.map(Ok::<Frame<Bytes>, Infallible>))
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    head(response.headers_mut());
    response
}

pub(crate) fn frame(message: &DynamicMessage) -> Bytes {
    let bytes = message.encode_to_vec();
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(bytes.len()).unwrap());
    frame.put_slice(&bytes);
    frame.freeze()
}
