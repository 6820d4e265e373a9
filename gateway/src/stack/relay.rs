//! The service's half of a stream: what it sends becomes what the client's protocol has for it, as it comes.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};

use super::{
    connect,
    frames::{Frames, envelope},
    line::Line,
    metadata,
    protocol::Protocol,
    seen::Seen,
    slots::Slot,
};
use crate::{
    errors::{Refusal, status_of},
    routes::Route,
    transcode::Codec,
    upstreams::{Failed, Loaded, UpstreamBody, expired, remap},
    usage::UseOf,
};

/// An error that ends a body where no other end is possible.
pub(super) type Broken = Box<dyn std::error::Error + Send + Sync>;

const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");
/// A stream that is silent this long while the edge drains is ended: its client finds another edge.
const DRAIN_SILENCE: Duration = Duration::from_secs(1);

/// A call that waits for the first word of its service.
pub(super) type Opening = Pin<Box<dyn Future<Output = Result<Response<UpstreamBody>, Failed>> + Send>>;

/// How the messages of a stream are written.
pub(super) enum Shape {
    /// As they come.
    Frames(Protocol),
    /// Connect's envelopes, of JSON or from some size on compressed.
    Envelopes { codec: Option<Arc<Codec>>, zip_from: Option<usize> },
    /// JSON of a route.
    Json(Form, Arc<Route>),
    /// Pieces of a body of the service's own media type.
    Raw(Arc<Route>),
}

/// How a stream of JSON looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One message a line.
    Lines,
    /// Server-sent events.
    Events,
    /// One array.
    Array,
}

impl Form {
    pub(super) fn media(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
            Self::Array => "application/json",
        })
    }
}

/// An answer while it is under way.
pub(super) struct Relay {
    pub(super) body: UpstreamBody,
    /// Until the service has said something: the answer began without it.
    pub(super) opening: Option<Opening>,
    pub(super) shape: Shape,
    pub(super) line: Arc<Line>,
    pub(super) deadline: Option<Instant>,
    /// Nothing, for a call that ends by itself.
    pub(super) draining: Option<CancellationToken>,
    /// How often a silent event stream says that it lives.
    pub(super) beat: Option<Duration>,
    pub(super) loaded: Arc<Loaded>,
    /// Counted until the stream ends.
    pub(super) slot: Option<Slot>,
    /// What is counted if it ends well.
    pub(super) use_of: Option<UseOf>,
    /// What the end waits for when it was counted.
    pub(super) counted: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// The request that it answers: logged when the stream has ended, also by the client's going away.
    pub(super) seen: Option<Seen>,
    pub(super) frames: Frames,
    pub(super) out: VecDeque<Frame<Bytes>>,
    pub(super) written: bool,
    pub(super) ended: bool,
    pub(super) broken: bool,
}

enum Event {
    Opened(Result<Response<UpstreamBody>, Failed>),
    Frame(Option<Result<Frame<Bytes>, Status>>),
    Beat,
    Failed(Refusal),
}

impl Relay {
    pub(super) fn new(loaded: Arc<Loaded>, shape: Shape, line: Arc<Line>, deadline: Option<Instant>) -> Self {
        Self {
            body: UpstreamBody::new(Body::empty()),
            opening: None,
            shape,
            line,
            deadline,
            draining: None,
            beat: None,
            loaded,
            slot: None,
            use_of: None,
            counted: None,
            seen: None,
            frames: Frames::default(),
            out: VecDeque::new(),
            written: false,
            ended: false,
            broken: false,
        }
    }

    /// An answer that begins before its service has said anything: with a sign of life.
    pub(super) fn begun_without(mut self, opening: Opening) -> Self {
        self.opening = Some(opening);
        self.write(KEEP_ALIVE);
        self
    }

    /// Whether all of it is there already.
    pub(super) fn is_over(&self) -> bool {
        self.ended
    }

    /// The body of the answer.
    pub(super) fn into_body(self) -> UnsyncBoxBody<Bytes, Broken> {
        let frames = futures::stream::unfold(Box::new(self), |mut relay| async move {
            let frame = relay.next().await?;
            Some((frame, relay))
        });
        StreamBody::new(frames).boxed_unsync()
    }

    /// Reads until a message is whole; for an answer whose headers depend on its first message.
    ///
    /// # Errors
    /// What ended the stream instead.
    pub(super) async fn first(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            if let Some(message) = self.message()? {
                return Ok(Some(message));
            }
            match self.event().await {
                Event::Frame(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.frames.push(&data),
                    Err(frame) => {
                        return self.status(frame.into_trailers().ok()).map(|_| None);
                    }
                },
                Event::Frame(Some(Err(status))) => return Err(self.refused(&status)),
                Event::Frame(None) => return self.status(None).map(|_| None),
                Event::Opened(_) | Event::Beat => {}
                Event::Failed(refusal) => return Err(refusal),
            }
        }
    }

    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Broken>> {
        loop {
            if let Some(counted) = self.counted.take() {
                counted.await;
            }
            if let Some(frame) = self.out.pop_front() {
                if let (Some(seen), Some(data)) = (&mut self.seen, frame.data_ref()) {
                    seen.gave(data.len());
                }
                return Some(Ok(frame));
            }
            if self.broken {
                self.broken = false;
                return Some(Err("the service's answer ended before it was complete".into()));
            }
            if self.ended {
                return None;
            }
            match self.event().await {
                Event::Frame(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.line.touch();
                        if let Err(refusal) = self.data(data) {
                            self.end(Err(refusal));
                        }
                    }
                    Err(frame) => {
                        let outcome = self.status(frame.into_trailers().ok());
                        self.end(outcome);
                    }
                },
                Event::Frame(Some(Err(status))) => {
                    let refusal = self.refused(&status);
                    self.end(Err(refusal));
                }
                Event::Frame(None) => {
                    let outcome = self.status(None);
                    self.end(outcome);
                }
                Event::Opened(opened) => self.opened(opened),
                Event::Beat => self.write(KEEP_ALIVE),
                Event::Failed(refusal) => self.end(Err(refusal)),
            }
        }
    }

    /// The service has begun to answer, or refused to, behind an answer that had begun without it.
    fn opened(&mut self, opened: Result<Response<UpstreamBody>, Failed>) {
        self.opening = None;
        match opened {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                self.body = body;
                if let Some(status) = status_of(&parts.headers) {
                    let outcome =
                        if status.code() == Code::Ok { Ok(HeaderMap::new()) } else { Err(self.refused(&status)) };
                    self.end(outcome);
                }
            }
            Err(failed) => self.end(Err(self.line.fault().unwrap_or_else(|| failed.into()))),
        }
    }

    async fn event(&mut self) -> Event {
        let Self { body, opening, line, deadline, draining, beat, .. } = self;
        let (deadline, beat) = (*deadline, *beat);
        let next = async {
            match opening {
                Some(opening) => Event::Opened(opening.await),
                None => Event::Frame(body.frame().await),
            }
        };
        tokio::select! {
            biased;
            event = next => event,
            () = at(deadline) => Event::Failed(expired().into()),
            refusal = line.ended() => Event::Failed(refusal),
            () = drained(line, draining.as_ref()) => Event::Failed(leaving()),
            () = at(beat.map(|beat| Instant::now() + beat)) => Event::Beat,
        }
    }

    /// Writes what the service sent.
    pub(super) fn data(&mut self, data: Bytes) -> Result<(), Refusal> {
        match &self.shape {
            Shape::Frames(Protocol::Web { text: true }) => {
                self.write(super::frames::base64(&data));
                return Ok(());
            }
            Shape::Frames(_) => {
                self.write(data);
                return Ok(());
            }
            _ => self.frames.push(&data),
        }
        while let Some(message) = self.message()? {
            self.put(&message)?;
        }
        Ok(())
    }

    fn message(&mut self) -> Result<Option<Bytes>, Refusal> {
        let broken =
            |what: &str| Refusal::new(Code::Internal, "INVALID_RESPONSE", format!("the service's answer {what}"));
        match self.frames.next().map_err(|_| broken("has a message of more than 4 MiB"))? {
            None => Ok(None),
            Some((0, message)) => Ok(Some(message)),
            Some(_) => Err(broken("is compressed, and nobody asked for that")),
        }
    }

    /// Writes one message.
    pub(super) fn put(&mut self, message: &Bytes) -> Result<(), Refusal> {
        let out = match &self.shape {
            Shape::Frames(_) => envelope(0, message),
            Shape::Envelopes { codec, zip_from } => {
                let json = codec.as_ref().map(|codec| codec.json(message)).transpose()?;
                connect::wrapped(json.as_ref().unwrap_or(message), *zip_from)
            }
            Shape::Raw(route) => route.binding.response(message)?.data,
            Shape::Json(form, route) => {
                let json = route.binding.response(message)?.data;
                let id = if *form == Form::Events { route.binding.event_id(message) } else { None };
                self.framed(*form, &json, None, id.as_deref())
            }
        };
        if !out.is_empty() {
            self.write(out);
        }
        Ok(())
    }

    fn framed(&self, form: Form, json: &[u8], event: Option<&str>, id: Option<&str>) -> Bytes {
        let mut out = BytesMut::with_capacity(json.len() + 64);
        match form {
            Form::Lines => {}
            Form::Array => out.put_u8(if self.written { b',' } else { b'[' }),
            Form::Events => {
                for (name, value) in [("event", event), ("id", id)] {
                    if let Some(value) = value {
                        out.put_slice(format!("{name}: {value}\n").as_bytes());
                    }
                }
                out.put_slice(b"data: ");
            }
        }
        out.put_slice(json);
        match form {
            Form::Lines => out.put_u8(b'\n'),
            Form::Array => {}
            Form::Events => out.put_slice(b"\n\n"),
        }
        out.freeze()
    }

    fn write(&mut self, data: Bytes) {
        self.written = true;
        self.out.push_back(Frame::data(data));
    }

    /// How the service ended its answer.
    fn status(&self, trailers: Option<HeaderMap>) -> Result<HeaderMap, Refusal> {
        let Some(status) = trailers.as_ref().and_then(status_of) else {
            let why = "the service's answer ended without a status";
            return Err(self.refused(&Status::unavailable(why)));
        };
        if status.code() != Code::Ok {
            return Err(self.refused(&status));
        }
        if !self.frames.is_between() {
            let why = "the service's answer ended inside a message";
            return Err(Refusal::new(Code::Internal, "INVALID_RESPONSE", why));
        }
        Ok(metadata::outward(&trailers.unwrap_or_default()))
    }

    fn refused(&self, status: &Status) -> Refusal {
        refused(status, &self.line, self.deadline)
    }

    /// Writes the end, in the way of the protocol; nothing comes after it.
    pub(super) fn end(&mut self, outcome: Result<HeaderMap, Refusal>) {
        self.ended = true;
        let loaded = self.loaded.clone();
        let pool = &loaded.contract.pool;
        let (trailers, told) = match outcome {
            Ok(trailers) => (trailers, None),
            Err(refusal) => (HeaderMap::new(), Some(refusal.told())),
        };
        if let Some(seen) = &mut self.seen {
            seen.ended(told.as_ref());
        }
        if let (None, Some(use_of)) = (&told, self.use_of.take()) {
            self.counted = Some(Box::pin(use_of.count(self.deadline)));
        }
        let result = told.as_ref().map_or(Ok(()), Err);
        match &self.shape {
            Shape::Frames(Protocol::Grpc) => {
                let mut all = trailers;
                match &told {
                    None => drop(all.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"))),
                    Some(told) => told.grpc(&mut all),
                }
                self.out.push_back(Frame::trailers(all));
            }
            Shape::Frames(protocol) => self.out.push_back(Frame::data(protocol.end(result, trailers, pool))),
            Shape::Envelopes { .. } => {
                let end = Protocol::ConnectStream { json: true }.end(result, trailers, pool);
                self.out.push_back(Frame::data(end));
            }
            // Its bytes are not ours: there is no place for an error but a body that breaks off.
            Shape::Raw(_) => self.broken = told.is_some(),
            Shape::Json(form, _) => {
                let form = *form;
                if let Some(told) = told {
                    let out = self.error(form, &told.json(pool));
                    self.write(out);
                }
                if form == Form::Array {
                    self.write(Bytes::from_static(if self.written { b"]" } else { b"[]" }));
                }
            }
        }
        self.slot = None;
    }

    fn error(&self, form: Form, status: &serde_json::Value) -> Bytes {
        if form == Form::Events {
            return self.framed(form, status.to_string().as_bytes(), Some("error"), None);
        }
        self.framed(form, serde_json::json!({ "error": status }).to_string().as_bytes(), None, None)
    }
}

/// What a client is told of a status that a service ended a call with.
pub(super) fn refused(status: &Status, line: &Line, deadline: Option<Instant>) -> Refusal {
    line.fault().unwrap_or_else(|| of_service(status, deadline))
}

/// As [`refused`], when the client's half cannot be to blame.
pub(super) fn of_service(status: &Status, deadline: Option<Instant>) -> Refusal {
    let metadata = metadata::outward(status.metadata().as_ref());
    let status = status.clone();
    Refusal::from(match deadline {
        Some(deadline) => remap(status, deadline),
        None => status,
    })
    .metadata(metadata)
}

fn leaving() -> Refusal {
    let fault = tenon_chassis::Fault::new(Code::Unavailable, "DRAINING", "this edge is about to stop; connect again");
    fault.retry_after(Duration::from_secs(1)).into()
}

pub(super) async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Waits for the edge to drain, and then for the stream to be silent.
async fn drained(line: &Line, draining: Option<&CancellationToken>) {
    let Some(draining) = draining else { return std::future::pending().await };
    draining.cancelled().await;
    let begun = Instant::now();
    loop {
        let silent = line.touched_at().max(begun) + DRAIN_SILENCE;
        if silent <= Instant::now() {
            return;
        }
        sleep_until(silent).await;
    }
}
