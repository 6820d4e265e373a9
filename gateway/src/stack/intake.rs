//! The client's half of a stream: what it sends becomes gRPC frames while it comes, no faster than the service takes them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::Uri;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tonic::Status;

use super::{
    connect,
    frames::{Frames, Text, Watch, malformed},
    line::Line,
    values::Values,
};
use crate::{
    errors::Refusal,
    routes::Route,
    transcode::{Codec, Media},
};

/// How a client's bytes are read.
pub(super) enum Reader {
    /// gRPC frames, handed on as they are.
    Frames(Watch),
    /// The same in base64.
    Text(Text, Watch),
    /// Connect's envelopes, of JSON or not, compressed or not.
    Envelopes { frames: Frames, codec: Option<Arc<Codec>>, is_zipped: bool },
    /// JSON values of a route; its path and query count for each.
    Values(Values, Arc<Route>, Uri),
}

/// A request body on its way to the service.
pub(super) struct Intake {
    body: Incoming,
    reader: Reader,
    line: Arc<Line>,
    ended: bool,
}

impl Intake {
    pub(super) fn new(body: Incoming, reader: Reader, line: Arc<Line>) -> Self {
        Self { body, reader, line, ended: false }
    }

    fn fail(&mut self, refusal: Refusal) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ended = true;
        self.line.fail(refusal);
        // The service sees its call reset; the client hears the reason.
        Poll::Ready(Some(Err(Status::cancelled("the request could not be read"))))
    }
}

impl Body for Intake {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        while !this.ended {
            let read = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        this.line.took(data.len());
                        this.reader.read(&data)
                    }
                    // Trailers of a request mean nothing in gRPC.
                    Err(_) => continue,
                },
                Some(Err(_)) => return this.fail(malformed("the body ended before it was complete")),
                None => {
                    this.ended = true;
                    this.reader.end()
                }
            };
            match read {
                Ok(frames) if frames.is_empty() => {}
                Ok(frames) => return Poll::Ready(Some(Ok(Frame::data(frames)))),
                Err(refusal) => return this.fail(refusal),
            }
        }
        Poll::Ready(None)
    }
}

impl Reader {
    /// gRPC frames that are compressed, for services that do not unpack.
    pub(super) fn unpacked() -> Self {
        Self::Envelopes { frames: Frames::default(), codec: None, is_zipped: true }
    }

    fn read(&mut self, data: &Bytes) -> Result<Bytes, Refusal> {
        match self {
            Self::Frames(watch) => {
                watch.pass(data)?;
                Ok(data.clone())
            }
            Self::Text(text, watch) => {
                let data = text.push(data)?;
                watch.pass(&data)?;
                Ok(data)
            }
            Self::Envelopes { frames, codec, is_zipped } => {
                frames.push(data);
                let mut out = BytesMut::new();
                while let Some(one) = frames.next()? {
                    out.extend_from_slice(&connect::unwrapped(one, codec.as_deref(), *is_zipped)?);
                }
                Ok(out.freeze())
            }
            Self::Values(values, route, uri) => {
                values.push(data);
                Self::values(values, route, uri, false)
            }
        }
    }

    /// What is left when nothing more comes.
    fn end(&mut self) -> Result<Bytes, Refusal> {
        let whole = match self {
            Self::Values(values, route, uri) => return Self::values(values, route, uri, true),
            Self::Frames(watch) => watch.is_between(),
            Self::Text(text, watch) => text.is_between() && watch.is_between(),
            Self::Envelopes { frames, .. } => frames.is_between(),
        };
        if whole { Ok(Bytes::new()) } else { Err(malformed("the body ended inside a message")) }
    }

    fn values(values: &mut Values, route: &Route, uri: &Uri, end: bool) -> Result<Bytes, Refusal> {
        let mut out = BytesMut::new();
        while let Some(data) = values.next(end)? {
            let media = Media { kind: "application/json".to_owned(), data };
            out.extend_from_slice(&route.binding.request(&route.template, uri.path(), uri.query(), media)?);
        }
        Ok(out.freeze())
    }
}
