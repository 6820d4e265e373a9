//! The edge: HTTP/JSON and native gRPC through the whole chain, in turns with a bare axum -> tonic hop to the same bare
//! service and with nginx as a plain proxy; what it adds to a call at half its load; how long a route takes to find.

use std::{
    collections::BTreeSet,
    fs,
    hint::black_box,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use http::Method;
use tenon_gateway::routes::{Found, Routes};
use tenon_proto::{
    policy::Contract,
    workflow::v1::{GetRunRequest, run_service_client::RunServiceClient},
};
use tokio::task::JoinSet;
use tonic::{Request, metadata::AsciiMetadataValue, transport::Endpoint};

use crate::{
    load::{Connection, Round, drive, drive_at, due, pace},
    mesh::answers,
    process::{Cores, Started, cpu, family, rss},
    report::{Figure, Rounds},
    scenarios::{Ground, Plan, finished_run, get},
};

const CONTROL_EDGE: u16 = 12_480;
const CONTROL_UPSTREAM: u16 = 12_481;
const NGINX: u16 = 12_482;
/// Requests in flight where throughput is measured.
const IN_FLIGHT: usize = 32;
/// Of the rate at which requests follow each other without a pause, what keeps the cores half busy: each request that comes
/// alone wakes every process on its way, and costs three times as much.
const HALF: f64 = 0.125;
/// Connections that have nothing to do.
const IDLE: usize = 10_000;
/// Connections that gRPC calls go over.
const CHANNELS: usize = 4;
/// Routes that one is looked for among, and how often.
const ROUTES: usize = 1_000;
const FINDS: usize = 200_000;

/// The edge's figures, CPU of its process alone. In the second one the real service and its database are behind: they share
/// the cores, so the edge waits, wakes and costs more.
pub(crate) async fn run(plan: &Plan, ground: &Ground) -> Result<Vec<Figure>> {
    let run = finished_run(ground).await?;
    let (upstream, bare) = control().await?;
    let nginx = nginx(CONTROL_EDGE).await?;
    let (edge, url) = ground.mesh.edge(Some(CONTROL_UPSTREAM)).await?;
    let (whole, whole_url) = ground.mesh.edge(None).await?;
    let mut turns = vec![
        Turn::new("edge: GET a run", "the edge's process", (&url, &edge)),
        Turn::new("edge: GET a run, all behind", "the edge's process", (&whole_url, &whole)),
        Turn::new("control: axum -> tonic", "the axum process", (&format!("http://127.0.0.1:{CONTROL_EDGE}"), &bare)),
    ];
    if let Some((nginx, _folder)) = &nginx {
        let of = "nginx alone, HTTP/1.1 to HTTP/1.1 and nothing read or checked";
        turns.push(Turn::new("control: nginx as a plain proxy", of, (&format!("http://127.0.0.1:{NGINX}"), nginx)));
    }
    let mut native = Rounds::default();
    for _ in 0..plan.rounds {
        for turn in &mut turns {
            let ask = get(format!("/v1/{run}"), &ground.token);
            let before = cpu(&family(turn.process));
            let round = drive(&turn.url, IN_FLIGHT, plan.round, move |_| ask.clone()).await?;
            turn.rounds.add(round, cpu(&family(turn.process)).saturating_sub(before));
        }
        let ids = BTreeSet::from([edge.id()]);
        let before = cpu(&ids);
        let round = calls(&url, &ground.token, &run, (plan.round, None)).await?;
        native.add(round, cpu(&ids).saturating_sub(before));
    }
    let control = turns[2].rounds.figure("", "", 0).cpu_us_per_operation.max(0.1);
    let mut figures: Vec<Figure> =
        turns.iter().map(|turn| turn.rounds.figure(turn.name, turn.of, rss(turn.process))).collect();
    figures.insert(1, native.figure("edge: GetRun by native gRPC", "the edge's process", rss(edge.id())));
    for figure in figures.iter_mut().take(2) {
        figure.times_control = Some(figure.cpu_us_per_operation / control);
    }
    let fastest = (figures[0].operations_per_s, figures[1].operations_per_s);
    figures.extend(half(plan, ground, (&turns, &run), fastest).await?);
    figures.push(idle(ground, (&url, &run), &edge).await?);
    drop(upstream);
    Ok(figures)
}

/// Memory of an edge that holds connections with nothing to do, each of which has had an answer.
async fn idle(ground: &Ground, (url, run): (&str, &str), edge: &Started) -> Result<Figure> {
    let (ask, began) = (get(format!("/v1/{run}"), &ground.token), Instant::now());
    let mut connections = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        let mut connection = Connection::open(url).await.context("raise the limit of open files: ulimit -n 20000")?;
        let (status, _) = connection.send(&ask).await?;
        ensure!(status.is_success(), "the edge answered {status}");
        connections.push(connection);
    }
    let round = Round { operations: IDLE, took: began.elapsed(), latencies: Vec::new() };
    // Until the last of them rests too.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let held = rss(edge.id());
    ensure!(connections[0].send(&ask).await?.0.is_success(), "the first connection is open still");
    let mut rounds = Rounds::default();
    rounds.add(round, Duration::ZERO);
    Ok(rounds.figure("edge: 10,000 idle connections", "the edge's process", held))
}

/// One who takes the same load in its turn.
struct Turn {
    name: &'static str,
    of: &'static str,
    url: String,
    process: u32,
    rounds: Rounds,
}

impl Turn {
    fn new(name: &'static str, of: &'static str, (url, process): (&str, &Started)) -> Self {
        Self { name, of, url: url.to_owned(), process: process.id(), rounds: Rounds::default() }
    }
}

/// The same requests at a rate that leaves the cores half idle: JSON through it and through the bare hop, gRPC through it
/// and past it.
async fn half(
    plan: &Plan,
    ground: &Ground,
    (turns, run): (&[Turn], &str),
    (json, native): (f64, f64),
) -> Result<[Figure; 4]> {
    let direct = format!("http://127.0.0.1:{CONTROL_UPSTREAM}");
    let [edge, _, hop, ..] = turns else { unreachable!("these are always measured") };
    let mut all: [(Rounds, u64); 4] = Default::default();
    for _ in 0..plan.rounds {
        let places =
            [(&edge.url, edge.process), (&hop.url, hop.process), (&edge.url, edge.process), (&direct, edge.process)];
        for (at, ((rounds, busy), (url, process))) in all.iter_mut().zip(places).enumerate() {
            let (cores, before) = (Cores::now(), cpu(&family(process)));
            let round = if at < 2 {
                let ask = get(format!("/v1/{run}"), &ground.token);
                drive_at(Some(json * HALF), url, IN_FLIGHT, plan.round, move |_| ask.clone()).await?
            } else {
                calls(url, &ground.token, run, (plan.round, Some(native * HALF))).await?
            };
            rounds.add(round, cpu(&family(process)).saturating_sub(before));
            *busy = Cores::now().busy_since(cores);
        }
    }
    let names = [
        ("edge: GET at half load", "latency through the edge"),
        ("control: axum at half load", "latency through the bare hop"),
        ("edge: gRPC at half load", "latency through the edge"),
        ("control: gRPC past the edge", "latency to the service itself"),
    ];
    let mut named = names.into_iter().zip(all);
    Ok(std::array::from_fn(|_| {
        let ((name, of), (rounds, busy)) = named.next().expect("as many names as places");
        rounds.figure(name, &format!("{of}; the cores are {busy} % busy with all of it"), 0)
    }))
}

/// Calls GetRun over gRPC as fast as it goes, or at a rate: then each call counts from when it was due.
async fn calls(url: &str, token: &str, run: &str, (time, rate): (Duration, Option<f64>)) -> Result<Round> {
    let bearer: AsciiMetadataValue = format!("Bearer {token}").parse()?;
    let mut channels = Vec::new();
    for _ in 0..CHANNELS {
        channels.push(Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).connect().await?);
    }
    let mut paces = rate.map(|rate| pace(IN_FLIGHT, rate, time)).unwrap_or_default().into_iter();
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for lane in 0..IN_FLIGHT {
        let (mut client, bearer) = (RunServiceClient::new(channels[lane % CHANNELS].clone()), bearer.clone());
        let (name, mut pace) = (run.to_owned(), paces.next());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while let Some(sent) = due(&mut pace, started + time).await {
                let mut request = Request::new(GetRunRequest { name: name.clone() });
                request.metadata_mut().insert("authorization", bearer.clone());
                client.get_run(request).await?;
                latencies.push(sent.elapsed());
            }
            Ok::<_, anyhow::Error>(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done??);
    }
    latencies.sort_unstable();
    Ok(Round { operations: latencies.len(), took: started.elapsed(), latencies })
}

/// What it takes to find a route among many.
pub(crate) fn routes(plan: &Plan) -> Result<Figure> {
    let routes = Routes::load(&many()?)?;
    let paths: Vec<String> =
        (0..ROUTES).step_by(7).map(|n| format!("/v1/group{}/things{n}/thing_0191d7a2/parts/p-1", n % 10)).collect();
    ensure!(matches!(routes.find(&Method::GET, &paths[3]), Found::Route(_)), "the bench's own route is not found");
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds.max(3) {
        let began = Instant::now();
        for n in 0..FINDS {
            black_box(routes.find(&Method::GET, &paths[n % paths.len()]));
        }
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        rounds.push(began.elapsed().as_secs_f64() * 1e6 / FINDS as f64);
    }
    let micros = crate::report::median(rounds.into_iter());
    Ok(Figure {
        scenario: format!("route: among {ROUTES}"),
        operations_per_s: 1e6 / micros,
        cpu_us_per_operation: micros,
        p50_ms: 0.0,
        p99_ms: 0.0,
        rss_mib: 0.0,
        times_control: None,
        measured: format!("one core, {:.0} ns", micros * 1e3),
    })
}

/// A contract with many routes of five segments.
fn many() -> Result<Contract> {
    let method = |n: usize| {
        format!(
            "rpc M{n}(M) returns (M) {{ option idempotency_level = NO_SIDE_EFFECTS;
             option (google.api.http) = {{ get: \"/v1/group{}/{{a=things{n}/*}}/parts/{{b}}\" }};
             option (tenon.options.v1.policy) = {{ access: PUBLIC }}; }}",
            n % 10
        )
    };
    let methods: String = (0..ROUTES).map(method).collect();
    let source = format!(
        "syntax = \"proto3\"; package many.v1; import \"google/api/annotations.proto\";
         import \"tenon/options/v1/policy.proto\"; service Many {{ {methods} }} message M {{ string a = 1; string b = 2; }}"
    );
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("many.proto"), source)?;
    let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    let mut compiler = protox::Compiler::new([folder.path(), protos.as_ref()])?;
    compiler.include_imports(true).open_file("many.proto")?;
    Ok(Contract::load(&compiler.encode_file_descriptor_set())?)
}

async fn control() -> Result<(Started, Started)> {
    let start = |arguments: &[String]| -> Result<Started> {
        let mut command = Command::new(std::env::current_exe()?);
        Ok(Started(command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))
    };
    let upstream = start(&["control-upstream".to_owned(), CONTROL_UPSTREAM.to_string()])?;
    answers(CONTROL_UPSTREAM).await?;
    let edge = start(&["control-edge".to_owned(), CONTROL_EDGE.to_string(), CONTROL_UPSTREAM.to_string()])?;
    answers(CONTROL_EDGE).await?;
    Ok((upstream, edge))
}

/// nginx in front of a port, where it is installed.
async fn nginx(behind: u16) -> Result<Option<(Started, Arc<tempfile::TempDir>)>> {
    if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
        return Ok(None);
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().display().to_string();
    let config = format!(
        "daemon off; pid {path}/pid; error_log {path}/error.log; worker_processes 2; events {{ worker_connections 1024; }}
         http {{ access_log {path}/access.log; client_body_temp_path {path}/b; proxy_temp_path {path}/p;
           fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;
           upstream it {{ server 127.0.0.1:{behind}; keepalive 64; }}
           server {{ listen 127.0.0.1:{NGINX}; keepalive_requests 100000000;
             location / {{ proxy_pass http://it; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}"
    );
    let file = folder.path().join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = Started(command.spawn().context("nginx did not start")?);
    answers(NGINX).await?;
    Ok(Some((started, Arc::new(folder))))
}
