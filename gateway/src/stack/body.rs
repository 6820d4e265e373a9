//! The body of an answer: whole, with what gRPC says behind it, or while it comes.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;

use super::relay::Broken;

pub(crate) struct AnswerBody(Form);

enum Form {
    Whole(Bytes),
    WithTrailers(Bytes, Option<HeaderMap>),
    Stream(UnsyncBoxBody<Bytes, Broken>),
}

impl AnswerBody {
    pub(super) fn whole(data: Bytes) -> Self {
        Self(Form::Whole(data))
    }

    pub(super) fn with_trailers(data: Bytes, trailers: HeaderMap) -> Self {
        Self(Form::WithTrailers(data, Some(trailers)))
    }

    /// Bytes that are there already.
    pub(super) fn len(&self) -> usize {
        match &self.0 {
            Form::Whole(data) | Form::WithTrailers(data, _) => data.len(),
            Form::Stream(_) => 0,
        }
    }

    pub(super) fn stream(body: UnsyncBoxBody<Bytes, Broken>) -> Self {
        Self(Form::Stream(body))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = match &mut self.0 {
            Form::Stream(body) => return Pin::new(body).poll_frame(context),
            Form::Whole(data) | Form::WithTrailers(data, _) if !data.is_empty() => {
                Some(Frame::data(std::mem::take(data)))
            }
            Form::Whole(_) => None,
            Form::WithTrailers(_, trailers) => trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Form::Whole(data) => data.is_empty(),
            Form::WithTrailers(_, trailers) => trailers.is_none(),
            Form::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Form::Whole(data) => SizeHint::with_exact(data.len() as u64),
            // gRPC says no length.
            Form::WithTrailers(..) => SizeHint::default(),
            Form::Stream(body) => body.size_hint(),
        }
    }
}
