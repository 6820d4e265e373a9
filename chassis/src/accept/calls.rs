//! What is served on one connection: a call goes on until its answer's body is gone.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};

/// The calls of one connection.
#[derive(Default)]
pub(super) struct Calls {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Calls {
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn are_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed) == self.begun()
    }
}

/// A call that goes on until this is dropped.
pub(super) struct Held(Arc<Calls>);

impl Held {
    pub(super) fn new(calls: Arc<Calls>) -> Self {
        calls.begun.fetch_add(1, Ordering::Relaxed);
        Self(calls)
    }

    pub(super) fn with<B>(self, body: B) -> HeldBody<B> {
        HeldBody { body, _held: self }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A body with its call.
pub(super) struct HeldBody<B> {
    body: B,
    _held: Held,
}

impl<B: Body + Unpin> Body for HeldBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
