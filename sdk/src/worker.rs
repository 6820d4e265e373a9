//! A worker: where it connects, what it does for each queue, and how it comes back after a stream has ended.

use std::{collections::HashMap, future::Future, pin::pin, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde_json::Value;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    session::{Desk, Ended},
    task::{Task, TaskError},
};

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The pauses between two tries to connect.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Tasks at once, when nothing else is said; and at most.
const CONCURRENCY: usize = 16;
const CONCURRENCY_MAX: usize = 1_000;
/// How long tasks get to end when the worker stops.
const DRAIN: Duration = Duration::from_secs(30);

pub(crate) type Handler = Arc<dyn Fn(Task) -> BoxFuture<'static, Result<Value, TaskError>> + Send + Sync>;

/// Where access tokens come from. It is asked before each connection, so that an expired one is never sent twice.
pub trait TokenSource: Send + Sync + 'static {
    fn token(&self) -> BoxFuture<'_, Result<String, BoxError>>;
}

impl<F, T> TokenSource for F
where
    F: Fn() -> T + Send + Sync + 'static,
    T: Future<Output = Result<String, BoxError>> + Send + 'static,
{
    fn token(&self) -> BoxFuture<'_, Result<String, BoxError>> {
        Box::pin(self())
    }
}

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{url} is not the URL of a workflow service, like http://127.0.0.1:9104")]
    Url { url: String, source: tonic::transport::Error },
    #[error("the worker has no queue: call Worker::queue")]
    NoQueue,
    /// PERMISSION_DENIED or INVALID_ARGUMENT: trying again would not help.
    #[error("the workflow service refuses this worker: {0}")]
    Refused(#[source] Box<Status>),
}

/// Works on tasks until it is stopped.
pub struct Worker {
    channel: Channel,
    tokens: Box<dyn TokenSource>,
    name: String,
    concurrency: usize,
    drain: Duration,
    queues: HashMap<String, Handler>,
}

impl Worker {
    /// A worker of the workflow service at `url`; the connection is made by `run`.
    ///
    /// # Errors
    /// When the URL is malformed.
    pub fn connect(url: &str, tokens: impl TokenSource) -> Result<Self, Error> {
        let endpoint = Endpoint::from_shared(url.to_owned());
        let endpoint = endpoint.map_err(|source| Error::Url { url: url.to_owned(), source })?;
        let channel = endpoint
            .connect_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            // A server that is gone without a word is found out.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .connect_lazy();
        let (name, queues) = (format!("rust-{}", std::process::id()), HashMap::new());
        Ok(Self { channel, tokens: Box::new(tokens), name, concurrency: CONCURRENCY, drain: DRAIN, queues })
    }

    /// Who this is, for people who look. At most 128 characters.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Tasks at once, 1 to 1,000; 16 when nothing is said.
    #[must_use]
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.concurrency = tasks.clamp(1, CONCURRENCY_MAX);
        self
    }

    /// How long tasks get to end when the worker stops; 30 s when nothing is said. What is not done then is given back.
    #[must_use]
    pub fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// What to do with the tasks of a queue.
    #[must_use]
    pub fn queue<F, T>(mut self, queue: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Task) -> T + Send + Sync + 'static,
        T: Future<Output = Result<Value, TaskError>> + Send + 'static,
    {
        self.queues.insert(queue.into(), Arc::new(move |task| Box::pin(handler(task))));
        self
    }

    /// Works for ever.
    ///
    /// # Errors
    /// When the service refuses the worker for good.
    pub async fn run(self) -> Result<(), Error> {
        self.run_until(std::future::pending()).await
    }

    /// Works until `stop` returns; then takes nothing more, lets tasks end and gives back what does not.
    ///
    /// # Errors
    /// When the service refuses the worker for good.
    pub async fn run_until(self, stop: impl Future<Output = ()> + Send) -> Result<(), Error> {
        if self.queues.is_empty() {
            return Err(Error::NoQueue);
        }
        let mut stop = pin!(stop);
        let (concurrency, drain) = (self.concurrency, self.drain);
        let mut desk = Desk::new(self.channel, self.name, self.queues, concurrency, drain);
        let mut pause = PAUSE_MIN;
        loop {
            let ended = match self.tokens.token().await {
                Ok(token) => desk.session(&token, stop.as_mut()).await,
                Err(error) => Ended::Broken { why: Status::unauthenticated(error.to_string()), stood: false },
            };
            let (why, stood) = match ended {
                Ended::Stopped => return Ok(()),
                Ended::Broken { why, stood } => (why, stood),
            };
            if matches!(why.code(), Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented) {
                return Err(Error::Refused(Box::new(why)));
            }
            // A stream that stood and ended, because its token or the server did, is made again at once.
            pause = if stood { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            tracing::debug!(code = ?why.code(), message = why.message(), ?pause, "the stream ended; it is made again");
            let jittered = pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                () = stop.as_mut(), if !desk.is_stopping() => desk.stop(),
            }
            if desk.is_stopping() && desk.is_clear() {
                return Ok(());
            }
        }
    }
}
