//! Services of somebody else's behind the edge: real servers that can be killed, told to leave, slowed down.
#![expect(clippy::unwrap_used, reason = "a broken shop is a failed test")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tenon_chassis::accept;
use tokio::{net::TcpStream, sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};
use tower::ServiceExt;

use crate::{house::reply, patience::until, ports::Ports};

/// shop.v1.Order
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Order {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) seen: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) server: String,
}

/// What a shop does with a call, beside counting it.
type Manner = Arc<dyn Fn(usize, &HeaderMap) -> BoxFuture<'static, Result<(), Status>> + Send + Sync>;

/// A server with a runtime of its own: when that ends, everything of it is gone at once, as when a process is killed.
pub(crate) struct Shop {
    pub(crate) address: SocketAddr,
    /// Calls that it has seen.
    pub(crate) calls: Arc<AtomicUsize>,
    /// Asks every connection to leave; calls in flight end.
    leave: Arc<Mutex<CancellationToken>>,
    runtime: Option<tokio::runtime::Runtime>,
    /// Its port is nobody else's while it is closed.
    _ports: Option<Ports>,
}

/// Which reflection a shop serves.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Reflection {
    None,
    V1,
    V1Alpha,
}

impl Shop {
    pub(crate) fn open(name: &str) -> Self {
        Self::with(name, Reflection::None, |_, _| Ok(Duration::ZERO))
    }

    /// Refuses, or answers after a while, by how many calls came before and by their headers.
    pub(crate) fn with(
        name: &str,
        reflection: Reflection,
        manner: impl Fn(usize, &HeaderMap) -> Result<Duration, Status> + Send + Sync + 'static,
    ) -> Self {
        let manner = move |count, headers: &HeaderMap| -> BoxFuture<'static, Result<(), Status>> {
            let delay = manner(count, headers);
            Box::pin(async move {
                match delay? {
                    Duration::ZERO => {}
                    delay => tokio::time::sleep(delay).await,
                }
                Ok(())
            })
        };
        Self::anywhere(name, reflection, Arc::new(manner))
    }

    /// Answers when this is over.
    pub(crate) fn after<F: Future<Output = ()> + Send + 'static>(
        name: &str,
        wait: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        let manner = move |_: usize, _: &HeaderMap| -> BoxFuture<'static, Result<(), Status>> {
            let wait = wait();
            Box::pin(async move {
                wait.await;
                Ok(())
            })
        };
        Self::anywhere(name, Reflection::None, Arc::new(manner))
    }

    /// Answers nobody until it is let: a call takes one permit of the gate.
    pub(crate) fn held(name: &str) -> (Self, Arc<Semaphore>) {
        let gate = Arc::new(Semaphore::new(0));
        let permits = gate.clone();
        let shop = Self::after(name, move || {
            let permits = permits.clone();
            async move { permits.acquire_owned().await.unwrap().forget() }
        });
        (shop, gate)
    }

    /// One that answers, on a port that the caller holds.
    pub(crate) fn on(name: &str, port: u16, reflection: Reflection) -> Self {
        Self::at(name, port, reflection, Arc::new(|_, _| Box::pin(std::future::ready(Ok(())))))
    }

    fn anywhere(name: &str, reflection: Reflection, manner: Manner) -> Self {
        let ports = Ports::take();
        let mut shop = Self::at(name, ports.next(), reflection, manner);
        shop._ports = Some(ports);
        shop
    }

    fn at(name: &str, port: u16, reflection: Reflection, manner: Manner) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let (counted, name) = (calls.clone(), name.to_owned());
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let (calls, manner, name) = (counted.clone(), manner.clone(), name.clone());
            async move {
                if request.uri().path().starts_with("/grpc.reflection") {
                    return Ok(reflect(reflection, request).await);
                }
                let answer = serve(&name, &calls, &manner, request).await;
                Ok::<_, Infallible>(answer.unwrap_or_else(Status::into_http))
            }
        });
        let leave = Arc::new(Mutex::new(CancellationToken::new()));
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, tokens) = (listener.local_addr().unwrap(), leave.clone());
        runtime.spawn(async move {
            // A round for each time that it is asked to leave: the same port, new connections, beside those that leave.
            loop {
                let listener = tokio::net::TcpListener::from_std(listener.try_clone().unwrap()).unwrap();
                let token = tokens.lock().unwrap().clone();
                tokio::spawn(accept::serve(listener, service.clone(), limits(), token.clone()));
                token.cancelled().await;
            }
        });
        Self { address, calls, leave, runtime: Some(runtime), _ports: None }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn count(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// GOAWAY on every connection.
    pub(crate) fn goaway(&self) {
        std::mem::take(&mut *self.leave.lock().unwrap()).cancel();
    }

    /// When this returns its port is closed and every connection is cut.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not within the test's own runtime, which must not be waited in.
            let ended = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(60)));
            ended.join().unwrap();
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.kill();
    }
}

fn limits() -> accept::Limits {
    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        mesh: tenon_chassis::config::Config,
    }
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let settings = Settings::parse_from(["x", "--mesh-key", key, "--master-key", key, "--operator-key", "x"]);
    accept::Limits::from(&settings.mesh)
}

async fn serve(
    name: &str,
    calls: &AtomicUsize,
    manner: &Manner,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|error| Status::internal(error.to_string()))?.to_bytes();
    let count = calls.fetch_add(1, Ordering::SeqCst);
    manner(count, &parts.headers).await?;
    let mut order = Order::decode(body.slice(5..)).unwrap();
    order.seen = parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    order.server = name.to_owned();
    Ok(reply(&order.encode_to_vec()))
}

async fn reflect(version: Reflection, request: Request<Incoming>) -> Response<Body> {
    let builder = || {
        let set = set(&["shop.proto"], true);
        // The builder borrows what it is given for as long as the server lives.
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(Box::leak(set.into_boxed_slice()))
    };
    let path = request.uri().path().to_owned();
    match version {
        Reflection::V1 if path.contains(".v1.") => builder().build_v1().unwrap().oneshot(request).await.unwrap(),
        Reflection::V1Alpha if path.contains(".v1alpha.") => {
            builder().build_v1alpha().unwrap().oneshot(request).await.unwrap()
        }
        _ => Status::unimplemented("no such service").into_http(),
    }
}

/// A FileDescriptorSet of protos of tests/proto.
pub(crate) fn set(files: &[&str], imports: bool) -> Vec<u8> {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut compiler = protox::Compiler::new([format!("{root}/tests/proto"), format!("{root}/../proto")]).unwrap();
    compiler.include_imports(imports).open_files(files).unwrap();
    compiler.encode_file_descriptor_set()
}

/// The shop with one more route.
pub(crate) fn with_route(route: &str) -> Vec<u8> {
    let root = env!("CARGO_MANIFEST_DIR");
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(format!("{root}/tests/proto/shop.proto")).unwrap();
    let old = "{ get: \"/v1/{name=orders/*}\" }";
    assert!(text.contains(old));
    let text =
        text.replace(old, &format!("{{ get: \"/v1/{{name=orders/*}}\" additional_bindings {{ get: \"{route}\" }} }}"));
    std::fs::write(folder.path().join("shop.proto"), text).unwrap();
    let mut compiler = protox::Compiler::new([folder.path().to_owned(), format!("{root}/../proto").into()]).unwrap();
    compiler.include_imports(true).open_file("shop.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

/// A folder with an upstreams file and descriptors.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    /// Behind the shop's descriptors stand these endpoints.
    pub(crate) fn of(endpoints: &[String], more: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("shop.binpb", set(&["shop.proto"], true));
        folder.write("upstreams.toml", entry(endpoints, &format!("descriptors = \"shop.binpb\"\n{more}")));
        folder
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    pub(crate) fn upstreams(&self) -> String {
        self.path("upstreams.toml").to_str().unwrap().to_owned()
    }

    /// As editors do it: the file is there whole, or as it was.
    pub(crate) fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path("new"), content).unwrap();
        std::fs::rename(self.path("new"), self.path(file)).unwrap();
    }
}

pub(crate) fn entry(endpoints: &[String], more: &str) -> String {
    format!("[[upstream]]\nname = \"shop\"\nendpoints = {endpoints:?}\n{more}\n")
}

/// What a crowd saw.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Crowd {
    pub(crate) ok: usize,
    /// The first answers that were no success.
    pub(crate) failed: Vec<String>,
}

impl Crowd {
    /// Somebody called, and nobody saw a failure.
    #[track_caller]
    pub(crate) fn is_served(&self) {
        assert!(self.failed.is_empty() && self.ok > 0, "{} ok, failed {:?}", self.ok, self.failed.first());
    }
}

/// Calls that are in flight all the time, until it is told to end.
pub(crate) struct Load {
    stop: CancellationToken,
    answered: Arc<AtomicUsize>,
    running: JoinHandle<Crowd>,
}

impl Load {
    /// Each of the crowd calls over an HTTP/2 connection of its own, one call after the other.
    pub(crate) fn start(
        edge: SocketAddr,
        size: usize,
        request: impl Fn() -> Request<Full<Bytes>> + Clone + Send + 'static,
    ) -> Self {
        let (stop, answered) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let running = tokio::spawn(crowd(edge, size, request, stop.clone(), answered.clone()));
        Self { stop, answered, running }
    }

    /// Waits for so many more answers, whatever they say.
    pub(crate) async fn goes_on(&self, answers: usize) {
        let enough = self.answered.load(Ordering::SeqCst) + answers;
        until(&format!("{enough} answers"), async || self.answered.load(Ordering::SeqCst) >= enough).await;
    }

    /// Ends it, once every call is answered.
    pub(crate) async fn end(self) -> Crowd {
        self.stop.cancel();
        self.running.await.unwrap()
    }
}

async fn crowd(
    edge: SocketAddr,
    size: usize,
    request: impl Fn() -> Request<Full<Bytes>> + Clone + Send + 'static,
    stop: CancellationToken,
    answered: Arc<AtomicUsize>,
) -> Crowd {
    let members = (0..size).map(|_| {
        let (request, stop, answered) = (request.clone(), stop.clone(), answered.clone());
        tokio::spawn(async move {
            let stream = TcpStream::connect(edge).await.unwrap();
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (mut sender, connection) = handshake.unwrap();
            tokio::spawn(connection);
            let mut seen = Crowd::default();
            // Until it is told to go away.
            while !stop.is_cancelled() && sender.ready().await.is_ok() {
                match sender.send_request(request()).await {
                    Ok(response) if response.status().is_success() => {
                        response.into_body().collect().await.unwrap();
                        seen.ok += 1;
                    }
                    Ok(response) => {
                        let body = response.into_body().collect().await.unwrap().to_bytes();
                        seen.failed.push(String::from_utf8_lossy(&body).into_owned());
                    }
                    Err(error) => seen.failed.push(error.to_string()),
                }
                answered.fetch_add(1, Ordering::SeqCst);
            }
            seen
        })
    });
    let mut all = Crowd::default();
    for member in members.collect::<Vec<_>>() {
        let seen = member.await.unwrap();
        all.ok += seen.ok;
        all.failed.extend(seen.failed);
    }
    all
}
