//! Load: connections that each send the next request when the last was answered, for a time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinSet,
};

/// One kept-alive HTTP/1.1 connection.
pub(crate) struct Connection {
    send: SendRequest<Full<Bytes>>,
    host: String,
}

/// A request: verb, path, bearer token, body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    pub(crate) post: bool,
    pub(crate) path: String,
    pub(crate) token: String,
    pub(crate) body: String,
    /// One header more.
    pub(crate) header: Option<(&'static str, String)>,
}

impl Connection {
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let host = url.trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(&host).await.with_context(|| format!("{url} does not answer"))?;
        stream.set_nodelay(true)?;
        let (send, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { send, host })
    }

    pub(crate) async fn send(&mut self, ask: &Ask) -> Result<(StatusCode, Bytes)> {
        let method = if ask.post { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(&ask.path).header("host", &self.host);
        if !ask.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", ask.token));
        }
        if let Some((name, value)) = &ask.header {
            request = request.header(*name, value);
        }
        if ask.post {
            request = request.header("content-type", "application/json");
        }
        self.send.ready().await?;
        let response = self.send.send_request(request.body(Full::from(ask.body.clone()))?).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// Sends, and reads the answer of a request that must not fail.
    pub(crate) async fn json(&mut self, ask: &Ask) -> Result<Value> {
        let (status, body) = self.send(ask).await?;
        if !status.is_success() {
            bail!("{} answered {status}: {}", ask.path, String::from_utf8_lossy(&body));
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

/// What a round of load measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Round {
    pub(crate) operations: usize,
    pub(crate) took: Duration,
    /// Sorted.
    pub(crate) latencies: Vec<Duration>,
}

/// Tells lanes, in turns, when a request is due, at even distances for a time. A thread of its own does: the runtime's timers
/// are a millisecond apart, so that all that is due within one would be sent at once.
pub(crate) fn pace(lanes: usize, rate: f64, time: Duration) -> Vec<UnboundedReceiver<Instant>> {
    let (tell, told): (Vec<_>, Vec<_>) = (0..lanes).map(|_| unbounded_channel()).unzip();
    let every = Duration::from_secs_f64(1.0 / rate);
    std::thread::spawn(move || {
        let started = Instant::now();
        let mut due = started;
        for lane in tell.iter().cycle() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if due - started >= time || lane.send(due).is_err() {
                break;
            }
            due += every;
        }
    });
    told
}

/// When the next request of a lane is to be sent: as the pace has it, or at once until the time is over.
pub(crate) async fn due(pace: &mut Option<UnboundedReceiver<Instant>>, until: Instant) -> Option<Instant> {
    match pace {
        Some(pace) => pace.recv().await,
        None => Some(Instant::now()).filter(|now| *now < until),
    }
}

/// Sends requests on some connections for a time; any answer but a success ends the bench.
pub(crate) async fn drive(
    url: &str,
    connections: usize,
    time: Duration,
    ask: impl Fn(usize) -> Ask + Send + Sync + 'static,
) -> Result<Round> {
    drive_at(None, url, connections, time, ask).await
}

/// As `drive`, so many a second; then each request counts from when it was due.
pub(crate) async fn drive_at(
    rate: Option<f64>,
    url: &str,
    connections: usize,
    time: Duration,
    ask: impl Fn(usize) -> Ask + Send + Sync + 'static,
) -> Result<Round> {
    let ask = Arc::new(ask);
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(Connection::open(url).await?);
    }
    let mut paces = rate.map(|rate| pace(connections, rate, time)).unwrap_or_default().into_iter();
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for (lane, mut connection) in open.into_iter().enumerate() {
        let (ask, mut pace) = (ask.clone(), paces.next());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let mut number = lane;
            while let Some(sent) = due(&mut pace, started + time).await {
                let ask = ask(number);
                number += connections;
                let (status, body) = connection.send(&ask).await?;
                latencies.push(sent.elapsed());
                if !status.is_success() {
                    bail!("{} answered {status}: {}", ask.path, String::from_utf8_lossy(&body));
                }
            }
            Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(lane) = tasks.join_next().await {
        latencies.extend(lane??);
    }
    latencies.sort_unstable();
    Ok(Round { operations: latencies.len(), took: started.elapsed(), latencies })
}
