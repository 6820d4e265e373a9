//! One HTTP/2 connection at work: calls go out over it from the tasks that make them, and one task drives it.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason, RecvStream, SendStream,
    client::{Builder, Connection, SendRequest},
};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::body::Body;

use super::{
    Ground,
    attempt::{Gone, Payload},
};

const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that a service may send ahead, on a stream and on a connection.
const WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * WINDOW;
/// Bytes of all headers of an answer, and of its trailers.
const MAX_HEADERS: u32 = 64 * 1024;
/// Streams that are opened before the service has said how many it takes, as RFC 9113 recommends that it takes at least.
const FIRST_STREAMS: usize = 100;

/// A connection, to be cloned for each call. It ends by itself when nobody holds it any more.
#[derive(Clone)]
pub(super) struct Sender {
    requests: SendRequest<Bytes>,
    /// Something was answered since the last look.
    is_heard: Arc<AtomicBool>,
    tasks: TaskTracker,
}

/// Shakes hands, and drives the connection in a task of its own.
pub(super) async fn handshake<S>(stream: S, ground: &Ground) -> Result<Sender, h2::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADERS)
        .initial_max_send_streams(FIRST_STREAMS)
        .enable_push(false);
    let (requests, mut connection) = builder.handshake(stream).await?;
    let pings = connection.ping_pong().expect("it is taken once");
    let is_heard = Arc::new(AtomicBool::new(false));
    let (stop, driven) = (ground.stop.clone(), drive(connection, pings, is_heard.clone()));
    ground.tasks.spawn(async move { stop.run_until_cancelled(driven).await });
    Ok(Sender { requests, is_heard, tasks: ground.tasks.clone() })
}

async fn drive<S>(connection: Connection<S>, mut pings: PingPong, is_heard: Arc<AtomicBool>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let silence = async {
        loop {
            sleep(PING_EVERY).await;
            if is_heard.swap(false, Ordering::Relaxed) {
                continue;
            }
            if !matches!(timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
                return;
            }
        }
    };
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection to an upstream ended");
            }
        }
        () = silence => tracing::debug!("connection to an upstream does not answer"),
    }
}

impl Sender {
    /// Whether it takes no more calls.
    pub(super) fn is_closed(&mut self) -> bool {
        matches!(self.requests.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
    }

    /// Sends a call and waits for the head of its answer; dropped before, the call is cancelled.
    pub(super) async fn send(mut self, request: Request<()>, body: &mut Payload) -> Result<Response<Incoming>, Gone> {
        let gone = |is_unsent: bool, error: &h2::Error| Gone { is_unsent, is_connect: false, why: error.to_string() };
        poll_fn(|context| self.requests.poll_ready(context)).await.map_err(|error| gone(true, &error))?;
        let (response, mut sending) = self.requests.send_request(request, false).map_err(|e| gone(true, &e))?;
        let piped = match body {
            Payload::Whole(bytes) => {
                // It fails when the stream has ended already, and then the answer says why.
                let _ = sending.send_data(bytes.clone(), true);
                drop(sending);
                None
            }
            Payload::Stream(place) => {
                let dropped = CancellationToken::new();
                let body = place.take().unwrap_or_else(Body::empty);
                self.tasks.spawn(dropped.clone().run_until_cancelled_owned(pipe(body, sending)));
                Some(dropped.drop_guard())
            }
        };
        let response = response.await.map_err(|error| gone(is_unseen(&error), &error))?;
        self.is_heard.store(true, Ordering::Relaxed);
        Ok(response.map(|stream| Incoming { stream, has_data: true, _piped: piped }))
    }
}

/// Whether the peer has said that it did not look at the call (RFC 9113 section 8.7).
fn is_unseen(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

/// Sends a body while it is made, no faster than the service takes it.
async fn pipe(mut body: Body, mut sending: SendStream<Bytes>) {
    loop {
        sending.reserve_capacity(1);
        let next = poll_fn(|context| {
            if let Poll::Ready(_reset) = sending.poll_reset(context) {
                return Poll::Ready(None);
            }
            while sending.capacity() == 0 {
                if !matches!(ready!(sending.poll_capacity(context)), Some(Ok(_))) {
                    return Poll::Ready(None);
                }
            }
            Pin::new(&mut body).poll_frame(context).map(Some)
        });
        let sent = match next.await {
            // The service wants no more of it.
            None => return,
            Some(None) => {
                let _ = sending.send_data(Bytes::new(), true);
                return;
            }
            Some(Some(Err(_))) => return sending.send_reset(Reason::CANCEL),
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => sending.send_data(data, false),
                // A request of gRPC has no trailers.
                Err(_) => continue,
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The body of an answer.
pub(super) struct Incoming {
    stream: RecvStream,
    has_data: bool,
    /// What is still being sent has no meaning without the answer.
    _piped: Option<DropGuard>,
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.has_data {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // The service has said all that it wants to (RFC 9113 section 8.1); without a status it said too little.
                Some(Err(error)) if matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL)) => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.has_data = false,
            }
        }
        match ready!(self.stream.poll_trailers(context)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_answers_nothing_is_given_up() {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let mute = tokio::spawn(async move {
            let mut server = h2::server::handshake(theirs).await.unwrap();
            let _asked = timeout(Duration::from_secs(1), server.accept()).await;
            // It is there, and reads no more.
            std::future::pending::<()>().await;
            drop(server);
        });
        let mut sender = handshake(ours, &Ground::default()).await.unwrap();
        sleep(PING_EVERY).await;
        assert!(!sender.is_closed());
        sleep(PING_TIMEOUT + Duration::from_secs(1)).await;
        assert!(sender.is_closed());
        mute.abort();
    }

    #[tokio::test]
    async fn a_connection_that_nobody_holds_ends() {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let ended = tokio::spawn(async move { h2::server::handshake(theirs).await.unwrap().accept().await });
        drop(handshake(ours, &Ground::default()).await.unwrap());
        assert!(!matches!(ended.await.unwrap(), Some(Ok(_))));
    }
}
