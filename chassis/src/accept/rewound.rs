//! A stream whose first bytes were read already, and a body that counts as a call until it is dropped.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Calls;

/// Bytes that are read at once before it is known whose they are: most requests are shorter.
const AHEAD: usize = 4 * 1024;

/// Waits for bytes without room kept for them; none is the end.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    poll_fn(|context| {
        let mut room = [0; AHEAD];
        let mut filled = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut filled))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(filled.filled())))
    })
    .await
}

/// A stream that begins with bytes which were read from it before.
pub(super) struct Rewound<T> {
    read: Bytes,
    stream: T,
}

impl<T> Rewound<T> {
    pub(super) fn new(read: Bytes, stream: T) -> Self {
        Self { read, stream }
    }

    pub(super) fn into_parts(self) -> (Bytes, T) {
        (self.read, self.stream)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let length = self.read.len().min(into.remaining());
        into.put_slice(&self.read[..length]);
        self.read.advance(length);
        if self.read.is_empty() {
            self.read = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
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
