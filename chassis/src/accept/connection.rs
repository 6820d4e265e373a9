//! One connection: served by hyper while there is something to serve, and next to nothing between its requests.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::Rng;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{
    Limits,
    calls::{Calls, Held},
    rewound::{self, Rewound},
};

/// From the end of an answer over HTTP/1.1 to the headers of the next request: longer than load balancers, which keep a
/// connection for 60 s, would send one on it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long such a one may take to hear that he is to go.
const FAREWELL: Duration = Duration::from_secs(1);
/// An HTTP/2 connection that does not answer a ping in time is dead.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 1_000;
/// Bytes of all headers of one request.
const MAX_HEADERS: u32 = 32 * 1024;

/// Where a client of HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A connection that has been without a request for so long, or twice that, gives back the memory it was served with.
const REST: Duration = Duration::from_millis(500);
/// Bytes of an HTTP/1.1 request that are read ahead; its headers must fit in.
const MAX_BUFFER: usize = 64 * 1024;

/// How each protocol is spoken.
pub(super) struct Builders {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Builders {
    pub(super) fn new(pending_resets: usize) -> Self {
        let (mut http1, mut http2) = (http1::Builder::new(), http2::Builder::new(TokioExecutor::new()));
        http1.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).max_buf_size(MAX_BUFFER);
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(pending_resets)
            .max_header_list_size(MAX_HEADERS)
            .adaptive_window(true);
        Self { http1, http2 }
    }
}

/// A connection is served by hyper while there is something to serve. Between its requests it is a socket and this task:
/// what hyper reads into and writes from would be most of an idle connection's memory.
pub(super) async fn serve<T, S, B>(
    builders: &Builders,
    mut stream: T,
    peer: SocketAddr,
    service: S,
    limits: Limits,
    stop: CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + Unpin + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let calls = Arc::new(Calls::default());
    let counted = calls.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let (mut service, held) = (service.clone(), Held::new(counted.clone()));
        // On the heap, and only while it is served: an idle connection would keep its room.
        Box::pin(async move {
            let response = service.call(request).await?;
            Ok::<_, Infallible>(response.map(|body| held.with(body)))
        })
    });
    let mut leaving = pin!(leaving(limits, &calls, &stop));
    let mut read = Bytes::new();
    loop {
        let is_first = calls.begun() == 0;
        let Some(woken) = awake(&mut stream, read, is_first, leaving.as_mut()).await else {
            // TLS says goodbye.
            let _ = timeout(FAREWELL, stream.shutdown()).await;
            return;
        };
        let is_http2 = is_first && woken.starts_with(PREFACE);
        let io = TokioIo::new(Rewound::new(woken, stream));
        if is_http2 {
            let mut serving = Box::pin(builders.http2.serve_connection(io, service));
            let patience = tokio::select! {
                _ = serving.as_mut() => return,
                patience = leaving => patience,
            };
            // GOAWAY; what is in flight goes on.
            serving.as_mut().graceful_shutdown();
            let _ = timeout(patience, serving).await;
            return;
        }
        let serving = Box::new(builders.http1.serve_connection(io, service.clone()));
        match until_rest(serving, &calls, leaving.as_mut()).await {
            Some((unread, socket)) => (read, stream) = (unread, socket),
            None => return,
        }
    }
}

/// Returns when a connection is to go, and with how much patience: little for one that never said anything.
async fn leaving(limits: Limits, calls: &Calls, stop: &CancellationToken) -> Duration {
    let age = limits.connection_age.mul_f64(rand::rng().random_range(0.9..1.1));
    let mut end = pin!(timeout(age, stop.cancelled()));
    if timeout(limits.first_request, end.as_mut()).await.is_err() {
        if calls.begun() == 0 {
            return FAREWELL;
        }
        let _ = end.await;
    }
    Duration::MAX
}

/// Waits for bytes: the first tell which protocol it is, later ones that there is a request. `None` is the end.
async fn awake<T: AsyncRead + Unpin>(
    stream: &mut T,
    mut read: Bytes,
    is_first: bool,
    mut leaving: Pin<&mut impl Future<Output = Duration>>,
) -> Option<Bytes> {
    while read.is_empty() || is_first && read.len() < PREFACE.len() && PREFACE.starts_with(&read) {
        let more = tokio::select! {
            more = timeout(IDLE_TIMEOUT, rewound::read(stream)) => more.ok()?.ok()?,
            _ = leaving.as_mut() => return None,
        };
        if more.is_empty() {
            return None;
        }
        read = if read.is_empty() { more } else { [read, more].concat().into() };
    }
    Some(read)
}

/// Serves HTTP/1.1 until there is nothing to serve for a while: then the socket comes back, with what was read of it.
async fn until_rest<T, S, B>(
    mut serving: Box<http1::Connection<TokioIo<Rewound<T>>, S>>,
    calls: &Calls,
    mut leaving: Pin<&mut impl Future<Output = Duration>>,
) -> Option<(Bytes, T)>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Unpin> + Unpin,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let before = calls.begun();
    let mut quiet_since = None;
    loop {
        // In this order: what has happened to the connection meanwhile comes before its rest.
        tokio::select! {
            biased;
            _ = serving.as_mut() => return None,
            patience = leaving.as_mut() => {
                // `connection: close`; what is in flight goes on.
                Pin::new(serving.as_mut()).graceful_shutdown();
                let _ = timeout(patience, serving).await;
                return None;
            }
            () = sleep(REST) => {}
        }
        // One whose headers have only begun to come goes on under the time that they have.
        let quiet = Some(calls.begun()).filter(|begun| calls.are_over() && *begun > before);
        if quiet.is_some() && quiet == quiet_since {
            break;
        }
        quiet_since = quiet;
    }
    // Hyper is done with a call by now, its body read or the connection closed: what is left in the socket is no body's.
    Pin::new(serving.as_mut()).graceful_shutdown();
    match poll_fn(|context| Poll::Ready(serving.poll_without_shutdown(context))).await {
        Poll::Ready(Ok(())) => {
            let parts = serving.into_parts();
            let (unread, socket) = parts.io.into_inner().into_parts();
            Some(([parts.read_buf, unread].concat().into(), socket))
        }
        Poll::Ready(Err(_)) => None,
        Poll::Pending => {
            // Its last answer is not with the client yet.
            let _ = serving.await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use http_body_util::Full;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::{
        super::{HEADER_TIMEOUT, PENDING_RESETS},
        *,
    };

    const LIMITS: Limits = Limits {
        max_connections: 1,
        connection_age: Duration::from_secs(3_600),
        drain: Duration::from_secs(1),
        pending_resets: PENDING_RESETS,
        first_request: HEADER_TIMEOUT,
    };

    /// A client's end of a connection, and how many calls it made.
    fn open() -> (DuplexStream, Arc<AtomicU64>) {
        let (ours, theirs) = duplex(64 * 1024);
        let calls = Arc::new(AtomicU64::new(0));
        let counted = calls.clone();
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let path = request.uri().path().to_owned();
            let counted = counted.clone();
            async move {
                counted.fetch_add(1, Ordering::Relaxed);
                if path == "/slow" {
                    sleep(Duration::from_secs(30)).await;
                }
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(path))))
            }
        });
        tokio::spawn(async move {
            let peer = ([127, 0, 0, 1], 1).into();
            serve(&Builders::new(PENDING_RESETS), theirs, peer, service, LIMITS, CancellationToken::new()).await;
        });
        (ours, calls)
    }

    async fn hears(stream: &mut DuplexStream, end: &str) -> String {
        let mut heard = Vec::new();
        while !heard.ends_with(end.as_bytes()) {
            assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "{}", String::from_utf8_lossy(&heard));
        }
        String::from_utf8(heard).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_rested_is_served_again() {
        let (mut client, calls) = open();
        for (number, path) in ["/a", "/slow", "/b"].iter().enumerate() {
            // In pieces, between which it would rest if it could.
            for piece in ["GET ", path, " HTTP/1.1\r\nhost:", " x\r\n\r\n"] {
                client.write_all(piece.as_bytes()).await.unwrap();
                sleep(REST * 3).await;
            }
            let answer = hears(&mut client, path).await;
            assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("connection: close"), "{answer}");
            assert_eq!(calls.load(Ordering::Relaxed), number as u64 + 1);
            sleep(REST * 10).await;
        }
        // Two at once, and the half of a third.
        client.write_all(b"GET /c HTTP/1.1\r\nhost: x\r\n\r\nGET /d HTTP/1.1\r\nhost: x\r\n\r\nGET /e").await.unwrap();
        hears(&mut client, "/d").await;
        sleep(REST * 3).await;
        client.write_all(b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(hears(&mut client, "/e").await.contains("connection: close"));
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_let_go() {
        let began = tokio::time::Instant::now();
        let (mut silent, _) = open();
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        assert!(began.elapsed() < HEADER_TIMEOUT + FAREWELL * 2);
        let (mut halting, _) = open();
        halting.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        assert_eq!(halting.read(&mut [0]).await.unwrap(), 0);
        // One that was served may be silent for longer, and then goes too.
        let (mut idle, _) = open();
        idle.write_all(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        hears(&mut idle, "/a").await;
        let began = tokio::time::Instant::now();
        assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
        assert!(began.elapsed() > HEADER_TIMEOUT && began.elapsed() < IDLE_TIMEOUT + REST * 4);
        // And one whose next headers never end.
        let (mut slow, _) = open();
        slow.write_all(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        hears(&mut slow, "/a").await;
        sleep(REST * 4).await;
        let began = tokio::time::Instant::now();
        slow.write_all(b"GET /b HTT").await.unwrap();
        let _ = slow.read_to_end(&mut Vec::new()).await;
        assert!(began.elapsed() < IDLE_TIMEOUT + REST * 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_body_is_no_request() {
        // Answered at once, within a rest, and at the very moment of one; the body comes when nobody reads it any more.
        for path in ["/a", "/slow"] {
            for late in [Duration::ZERO, REST, REST * 7] {
                let (mut client, calls) = open();
                let smuggled = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
                let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", smuggled.len() + 9);
                client.write_all(format!("{head}123456789").as_bytes()).await.unwrap();
                hears(&mut client, path).await;
                sleep(late).await;
                let _ = client.write_all(smuggled.as_bytes()).await;
                let mut rest = Vec::new();
                let _ = client.read_to_end(&mut rest).await;
                assert_eq!(calls.load(Ordering::Relaxed), 1, "{path} {late:?} {}", String::from_utf8_lossy(&rest));
            }
        }
    }
}
