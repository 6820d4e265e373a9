//! An edge on a free port, the service behind it, two tenants and their tokens.
#![expect(clippy::unwrap_used, reason = "a broken house is a failed test")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use clap::Parser;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use prost::Message;
use prost_reflect::{DynamicMessage, Value};
use serde_json::{Value as Json, json};
use tenon_chassis::{Clock, Fault, Mesh, accept};
use tenon_gateway::{Gateway, Upstream, usage::Used};
use tenon_proto::{
    auth::v1::{Jwk, Jwks},
    policy::Contract,
    tenant::v1::{DirectoryEntry, LookupTenantRequest, lookup_tenant_request::Key, tenant::Status as TenantStatus},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc::Receiver},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};

use crate::{keyring::Keyring, talker};

pub(crate) const ACME: &str = "ten_01890000000070008000000000000001";
pub(crate) const GLOBEX: &str = "ten_01890000000070008000000000000002";
pub(crate) const OPERATOR: &str = "the-operator";
/// The key pair of RFC 8037 appendix A.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    mesh: tenon_chassis::config::Config,
    #[command(flatten)]
    edge: tenon_gateway::Config,
}

pub(crate) struct House {
    pub(crate) address: SocketAddr,
    /// The port of plain HTTP beside TLS.
    pub(crate) plain: Option<SocketAddr>,
    pub(crate) clock: Clock,
    pub(crate) stop: CancellationToken,
    pub(crate) edge: tokio::task::JoinHandle<()>,
    /// Calls that the service was made to drop before it had answered.
    pub(crate) cut: Arc<AtomicUsize>,
    /// Calls of `things/slow` and `things/held` that the service has seen.
    pub(crate) slow: Arc<AtomicUsize>,
    /// Lets one call of `things/held` be answered.
    pub(crate) gate: Arc<Notify>,
    pub(crate) keyring: Arc<Keyring>,
    used: Mutex<Receiver<Used>>,
}

/// What this process has counted.
static METRICS: LazyLock<PrometheusHandle> = LazyLock::new(|| PrometheusBuilder::new().install_recorder().unwrap());

/// How often something has come to a result: a counter with that label alone.
pub(crate) fn counted(name: &str, result: &str) -> u64 {
    let line = format!("{name}{{result=\"{result}\"}} ");
    METRICS.render().lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
}

/// An answer: HTTP status, headers, JSON.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Json,
}

impl Answer {
    /// The reason in the ErrorInfo.
    pub(crate) fn reason(&self) -> &str {
        let details = self.json["details"].as_array();
        let info = details.and_then(|all| all.iter().find(|detail| detail["reason"].is_string()));
        info.map_or("", |info| info["reason"].as_str().unwrap())
    }

    /// A header that the service saw.
    pub(crate) fn seen(&self, name: &str) -> Option<String> {
        let prefix = format!("{name}: ");
        let seen = self.json["texts"].as_array()?.iter();
        seen.filter_map(Json::as_str).find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
    }
}

pub(crate) fn contract() -> Arc<Contract> {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut compiler = protox::Compiler::new([format!("{root}/tests/proto"), format!("{root}/../proto")]).unwrap();
    compiler.include_imports(true).open_file("everything.proto").unwrap();
    Arc::new(Contract::load(&compiler.encode_file_descriptor_set()).unwrap())
}

impl House {
    pub(crate) async fn open(flags: &[&str]) -> Self {
        Self::try_open(flags).await.unwrap()
    }

    /// Why an edge does not start.
    pub(crate) async fn refused(flags: &[&str]) -> String {
        Self::try_open(flags).await.err().map(|error| error.to_string()).unwrap_or_default()
    }

    async fn try_open(flags: &[&str]) -> Result<Self, tenon_gateway::Error> {
        LazyLock::force(&METRICS);
        let contract = contract();
        let stop = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let fixed = ["tenon", "--mesh-key", key, "--master-key", key, "--operator-key", OPERATOR, "--edge-port", "0"];
        let urls = ["--auth-url", &url, "--tenant-url", &url];
        let settings = Settings::parse_from(fixed.iter().chain(&urls).chain(flags));
        let limits = accept::Limits::from(&settings.mesh);
        let (pool, cut) = (contract.clone(), Arc::new(AtomicUsize::new(0)));
        let (dropped, clock) = (cut.clone(), Clock::standing());
        let keyring = Keyring::new(clock.clone());
        let keys = keyring.clone();
        let (slow, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let manner = Manner { slow: slow.clone(), gate: gate.clone() };
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let (pool, dropped, keys, manner) = (pool.clone(), dropped.clone(), keys.clone(), manner.clone());
            let cut = Cut::new(&dropped);
            async move {
                let answer = serve(&pool, request, &dropped, (&keys, &manner)).await.unwrap_or_else(Status::into_http);
                cut.answered();
                Ok::<_, Infallible>(answer)
            }
        });
        tokio::spawn(accept::serve(listener, service, limits, CancellationToken::new()));
        let mesh = Mesh::join(settings.mesh, clock.clone()).await.unwrap();
        let upstream = |prefix: &str, url: &str| Upstream::new(prefix, "everything", url).unwrap();
        let upstreams = vec![upstream("everything.v1.", &url), upstream("", "http://127.0.0.1:1")];
        let mut gateway = Gateway::bind(settings.edge, &mesh, contract, &upstreams).await?;
        let (address, used) = (gateway.address().unwrap(), Mutex::new(gateway.usage().unwrap()));
        let plain = gateway.plain_address();
        let edge = tokio::spawn(gateway.serve(stop.clone()));
        Ok(Self { address, plain, clock, stop, edge, cut, slow, gate, keyring, used })
    }

    /// What the edge has counted since this was asked last.
    pub(crate) fn used(&self) -> Vec<Used> {
        let mut used = self.used.lock().unwrap();
        std::iter::from_fn(|| used.try_recv().ok()).collect()
    }

    pub(crate) async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = request.body(Full::new(body.into())).unwrap();
        let host = HeaderValue::from_static("localhost");
        request.headers_mut().entry("host").or_insert(host);
        read(sender.send_request(request).await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Json) -> Answer {
        let mut request = Request::post(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request, body.to_string()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path), "").await
    }

    /// A request over HTTP/2 of its own connection, and the answer as it comes.
    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response<Incoming>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    }

    /// The address of a path over HTTP/2, at the host of no tenant or of one.
    pub(crate) fn uri(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.address.port())
    }

    pub(crate) async fn h2(&self, request: http::request::Builder) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.unwrap();
        tokio::spawn(connection);
        read(sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()).await
    }

    /// Sends bytes as they are; the first bytes of the answer.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8(answer[..length].to_vec()).unwrap()
    }

    pub(crate) fn token(&self, tenant: &str, roles: &[&str]) -> String {
        let now = self.clock.unix();
        let claims = json!({
            "iss": "tenon", "sub": "usr_01890000000070008000000000000009", "aud": "tenon", "tid": tenant,
            "sid": "ses_01890000000070008000000000000009", "roles": roles, "amr": ["pwd"], "auth_time": now,
            "iat": now, "exp": now + 900,
        });
        format!("Bearer {}", sign(&claims))
    }
}

/// A token with these claims, under the key of every tenant here.
pub(crate) fn sign(claims: &Json) -> String {
    let seed = (0..32).map(|at| u8::from_str_radix(&SEED[2 * at..2 * at + 2], 16).unwrap());
    let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    der.extend(seed);
    let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::EdDSA) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_ed_der(&der)).unwrap()
}

/// Counts when it is dropped without an answer.
pub(crate) struct Cut(Option<Arc<AtomicUsize>>);

impl Cut {
    pub(crate) fn new(count: &Arc<AtomicUsize>) -> Self {
        Self(Some(count.clone()))
    }

    pub(crate) fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn read(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let is_json =
        parts.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let json = if is_json && !body.is_empty() { serde_json::from_slice(&body).unwrap() } else { Json::Null };
    Answer { status: parts.status.as_u16(), headers: parts.headers, json }
}

/// Every service behind the edge: the directory, the keys, and the echo.
async fn serve(
    contract: &Arc<Contract>,
    request: Request<Incoming>,
    cut: &Arc<AtomicUsize>,
    (keys, manner): (&Keyring, &Manner),
) -> Result<Response<Body>, Status> {
    let (parts, body) = request.into_parts();
    if parts.uri.path().starts_with("/everything.v1.StreamService/") {
        return talker::talk(contract, &parts, body, cut, &manner.gate).await;
    }
    let body = body.collect().await.map_err(|error| Status::internal(error.to_string()))?.to_bytes();
    let message = body.slice(5..);
    match parts.uri.path() {
        "/tenon.tenant.v1.DirectoryService/LookupTenant" => lookup(message).map(|entry| reply(&entry.encode_to_vec())),
        "/tenon.auth.v1.KeyService/GetJwks" => {
            let (kty, crv, alg) = ("OKP".to_owned(), "Ed25519".to_owned(), "EdDSA".to_owned());
            let (x, kid, r#use) = (PUBLIC.to_owned(), "k1".to_owned(), "sig".to_owned());
            Ok(reply(&Jwks { keys: vec![Jwk { kty, crv, x, kid, alg, r#use }] }.encode_to_vec()))
        }
        path => {
            if let Some(answer) = keys.serve(path, message.clone()).await {
                return answer;
            }
            let Some(method) = contract.method(path) else { return Err(Status::unimplemented("no such method")) };
            echo(DynamicMessage::decode(method.descriptor.input(), message).unwrap(), &parts.headers, manner).await
        }
    }
}

/// How the service takes its time.
#[derive(Clone)]
struct Manner {
    slow: Arc<AtomicUsize>,
    gate: Arc<Notify>,
}

async fn echo(mut message: DynamicMessage, headers: &HeaderMap, manner: &Manner) -> Result<Response<Body>, Status> {
    let text = message.get_field_by_name("text").unwrap().as_str().unwrap().to_owned();
    match text.trim_start_matches("things/") {
        "missing" => return Err(Fault::new(Code::NotFound, "THING_NOT_FOUND", "no such thing").into()),
        "crash" => return Err(Status::internal("panicked at /src/secret.rs")),
        "cancelled" => return Err(Status::cancelled("Timeout expired")),
        "slow" => {
            manner.slow.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(300)).await;
        }
        "held" => {
            manner.slow.fetch_add(1, Ordering::SeqCst);
            manner.gate.notified().await;
        }
        _ => {}
    }
    let lines = headers.iter().map(|(name, value)| Value::String(format!("{name}: {}", value.to_str().unwrap())));
    message.get_field_by_name_mut("texts").unwrap().as_list_mut().unwrap().extend(lines);
    Ok(reply(&message.encode_to_vec()))
}

fn lookup(message: Bytes) -> Result<DirectoryEntry, Status> {
    let (id, slug, status) = match LookupTenantRequest::decode(message).unwrap().key.unwrap() {
        Key::Id(id) if id == ACME => (ACME, "acme", TenantStatus::Active),
        Key::Slug(slug) if slug == "acme" => (ACME, "acme", TenantStatus::Active),
        Key::Id(id) if id == GLOBEX => (GLOBEX, "globex", TenantStatus::Suspended),
        Key::Slug(slug) if slug == "globex" => (GLOBEX, "globex", TenantStatus::Suspended),
        _ => return Err(Fault::new(Code::NotFound, "TENANT_NOT_FOUND", "no such tenant").into()),
    };
    let limits = [("rate.read".to_owned(), 120)].into();
    let mut entry = DirectoryEntry { id: id.to_owned(), slug: slug.to_owned(), limits, ..DirectoryEntry::default() };
    entry.set_status(status);
    Ok(entry)
}

pub(crate) fn reply(message: &[u8]) -> Response<Body> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    let mut trailers = HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static("0"))]);
    trailers.insert("x-final", HeaderValue::from_static("done"));
    let frames = [Ok::<_, Infallible>(Frame::data(frame.freeze())), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(Body::new(StreamBody::new(futures::stream::iter(frames))));
    talker::head(response.headers_mut());
    response
}
