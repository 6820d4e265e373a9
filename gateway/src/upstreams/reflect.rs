//! A contract asked of the service itself: gRPC server reflection, v1 and where that is not served v1alpha.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Uri, header};
use http_body_util::BodyExt;
use prost::Message;
use tenon_proto::foreign;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::call::{Failed, MAX_MESSAGE, Target, UpstreamBody, frame_of, unframe_first};

/// A whole look at a service.
const WITHIN: Duration = Duration::from_secs(5);
/// Files of one service; more is no contract but an attack.
const MAX_FILES: usize = 2_000;
const PACKAGES: [&str; 2] = ["grpc.reflection.v1", "grpc.reflection.v1alpha"];

/// ServerReflectionRequest; both versions have the same fields.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(oneof = "Ask", tags = "3, 4, 7")]
    ask: Option<Ask>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Ask {
    #[prost(string, tag = "3")]
    FileByFilename(String),
    #[prost(string, tag = "4")]
    FileContainingSymbol(String),
    #[prost(string, tag = "7")]
    ListServices(String),
}

/// ServerReflectionResponse
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "4")]
    files: Option<Files>,
    #[prost(message, optional, tag = "6")]
    services: Option<Services>,
    #[prost(message, optional, tag = "7")]
    error: Option<Error>,
}

#[derive(Clone, PartialEq, Message)]
struct Files {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct Services {
    #[prost(message, repeated, tag = "1")]
    service: Vec<Service>,
}

#[derive(Clone, PartialEq, Message)]
struct Service {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Error {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// Why a service did not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Silent {
    /// It cannot be reached just now: worth another try.
    Away(String),
    /// It answers, and not what is asked.
    Refuses(String),
}

impl Silent {
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Away(why) | Self::Refuses(why) => why,
        }
    }
}

/// The descriptor set of the services that a server says it has; all but gRPC's own.
pub(crate) async fn descriptors(target: &Target, only: Option<&[String]>) -> Result<Vec<u8>, Silent> {
    let deadline = Instant::now() + WITHIN;
    let mut asked = Asked { target, deadline, package: PACKAGES[0] };
    let listed = match asked.ask(Ask::ListServices(String::new())).await {
        Err(Unanswered::Unimplemented) => {
            asked.package = PACKAGES[1];
            asked.ask(Ask::ListServices(String::new())).await
        }
        answer => answer,
    };
    let listed = listed.map_err(Silent::from)?.services.unwrap_or_default().service;
    let mut names: Vec<_> = listed.into_iter().map(|service| service.name).collect();
    names.retain(|name| !name.starts_with("grpc.") && only.is_none_or(|only| only.contains(name)));
    let (mut files, mut known, mut wanted) = (Vec::new(), HashSet::new(), Vec::new());
    wanted.extend(names.into_iter().map(Ask::FileContainingSymbol));
    while let Some(ask) = wanted.pop() {
        if matches!(&ask, Ask::FileByFilename(name) if known.contains(name)) {
            continue;
        }
        let optional = matches!(&ask, Ask::FileByFilename(name) if is_ours(name));
        let answer = match asked.ask(ask).await {
            // Servers often leave the well-known files out; we have them.
            Err(Unanswered::NotFound(_)) if optional => continue,
            answer => answer.map_err(Silent::from)?,
        };
        for file in answer.files.unwrap_or_default().file {
            let (name, imports) = foreign::imports(&file).map_err(Silent::Refuses)?;
            if known.insert(name) {
                files.push(file);
                wanted.extend(imports.into_iter().map(Ask::FileByFilename));
            }
        }
        if files.len() > MAX_FILES {
            return Err(Silent::Refuses(format!("it has more than {MAX_FILES} proto files")));
        }
    }
    Ok(foreign::set_of(files))
}

fn is_ours(name: &str) -> bool {
    ["google/protobuf/", "google/api/", "tenon/options/"].iter().any(|folder| name.starts_with(folder))
}

enum Unanswered {
    Unimplemented,
    NotFound(String),
    Away(String),
    Other(String),
}

impl From<Unanswered> for Silent {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Unimplemented => Self::Refuses(
                "it does not serve grpc.reflection: add it to the service, or give descriptors = \"file.binpb\""
                    .to_owned(),
            ),
            Unanswered::Away(why) => Self::Away(why),
            Unanswered::NotFound(why) | Unanswered::Other(why) => Self::Refuses(why),
        }
    }
}

struct Asked<'t> {
    target: &'t Target,
    deadline: Instant,
    package: &'static str,
}

impl Asked<'_> {
    /// One question on a stream of its own; a server may answer as soon as it has it.
    async fn ask(&self, ask: Ask) -> Result<Response, Unanswered> {
        let path = format!("/{}.ServerReflection/ServerReflectionInfo", self.package);
        let path = Uri::try_from(path).expect("the names are plain");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let body = frame_of(&Request { ask: Some(ask) });
        let opened = self.target.whole(&path, headers, body, self.deadline, true).await;
        let response = opened.map_err(|failed| match failed {
            Failed::Refused(status) => Unanswered::Other(status.message().to_owned()),
            Failed::Expired => Unanswered::Away("it did not answer in time".to_owned()),
            Failed::Unreachable | Failed::Overloaded => Unanswered::Away("it cannot be reached".to_owned()),
        })?;
        if let Some(status) = Status::from_header_map(response.headers()) {
            return Err(refused(&status));
        }
        let message = tokio::time::timeout_at(self.deadline, first_message(response.into_body())).await;
        let message = message.map_err(|_| Unanswered::Away("it did not answer in time".to_owned()))??;
        let answer = Response::decode(message).map_err(|why| Unanswered::Other(format!("its answer: {why}")))?;
        match answer.error {
            Some(error) if error.code == Code::NotFound as i32 => Err(Unanswered::NotFound(error.message)),
            Some(error) => Err(Unanswered::Other(error.message)),
            None => Ok(answer),
        }
    }
}

async fn first_message(mut body: UpstreamBody) -> Result<Bytes, Unanswered> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|status| refused(&status))?;
        match frame.into_data() {
            Ok(data) => read.extend_from_slice(&data),
            Err(frame) => {
                let status = frame.trailers_ref().and_then(Status::from_header_map);
                return Err(
                    status.map_or_else(|| Unanswered::Other("it ended without a status".to_owned()), |s| refused(&s))
                );
            }
        }
        if let Some(message) = unframe_first(&read) {
            return Ok(message);
        }
        if read.len() > MAX_MESSAGE {
            return Err(Unanswered::Other("its answer is larger than 4 MiB".to_owned()));
        }
    }
    Err(Unanswered::Other("it ended without an answer".to_owned()))
}

fn refused(status: &Status) -> Unanswered {
    match status.code() {
        Code::Unimplemented => Unanswered::Unimplemented,
        Code::NotFound => Unanswered::NotFound(status.message().to_owned()),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Unanswered::Away(status.message().to_owned()),
        _ => Unanswered::Other(status.message().to_owned()),
    }
}
