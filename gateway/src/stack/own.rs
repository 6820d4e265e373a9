//! What the edge answers itself: its health, and the contract of what it serves (server reflection).

use std::{collections::HashMap, pin::Pin, sync::Arc};

use futures::{Stream, StreamExt, stream};
use http::{Request, Response};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FileDescriptor, Value};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, body::Body};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};
use tonic_reflection::pb::v1::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse,
    server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
    server_reflection_server::{ServerReflection, ServerReflectionServer},
};
use tower::Service;

use crate::upstreams::{Loaded, UpstreamBody};

const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
/// The same messages under an older name, which some clients try first.
const REFLECTION_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
const REFLECTION_PATH: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// Whether a path is answered by the edge itself, and by what name it is seen then.
pub(super) fn label(path: &str) -> Option<&'static str> {
    ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", REFLECTION_PATH, REFLECTION_ALPHA]
        .into_iter()
        .find(|known| *known == path)
}

/// Answers a call whose path has a [`label`].
pub(super) async fn call(
    loaded: &Arc<Loaded>,
    draining: &CancellationToken,
    path: &'static str,
    mut request: Request<Body>,
) -> Response<UpstreamBody> {
    *request.uri_mut() = http::Uri::from_static(if path == REFLECTION_ALPHA { REFLECTION_PATH } else { path });
    let Ok(response) = if path.contains(HEALTH) {
        HealthServer::new(Pulse { loaded: loaded.clone(), draining: draining.clone() }).call(request).await
    } else {
        ServerReflectionServer::new(Mirror(loaded.clone())).call(request).await
    };
    response.map(UpstreamBody::new)
}

/// Whether the edge takes calls.
struct Pulse {
    loaded: Arc<Loaded>,
    draining: CancellationToken,
}

impl Pulse {
    fn now(&self) -> HealthCheckResponse {
        answer(if self.draining.is_cancelled() { ServingStatus::NotServing } else { ServingStatus::Serving })
    }

    fn knows(&self, service: &str) -> bool {
        service.is_empty()
            || [HEALTH, REFLECTION].contains(&service)
            || services(&self.loaded).iter().any(|known| known == service)
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Health for Pulse {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        if self.knows(&request.get_ref().service) {
            return Ok(tonic::Response::new(self.now()));
        }
        Err(Status::not_found("no such service is served here"))
    }

    type WatchStream = Answers<HealthCheckResponse>;

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let known = self.knows(&request.get_ref().service);
        let first = if known { self.now() } else { answer(ServingStatus::ServiceUnknown) };
        let drained = known && self.draining.is_cancelled();
        let draining = self.draining.clone();
        let then = stream::once(async move {
            if drained || !known {
                std::future::pending::<()>().await;
            }
            draining.cancelled().await;
            Ok(answer(ServingStatus::NotServing))
        });
        let forever = stream::pending();
        Ok(tonic::Response::new(stream::once(async move { Ok(first) }).chain(then).chain(forever).boxed()))
    }
}

/// The services that a client may call.
fn services(loaded: &Loaded) -> Vec<String> {
    let mut names: Vec<String> = loaded.served().map(|served| served.method.service().to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

/// The contract as a client may see it.
struct Mirror(Arc<Loaded>);

#[tonic::async_trait]
impl ServerReflection for Mirror {
    type ServerReflectionInfoStream = Answers<ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        request: tonic::Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<tonic::Response<Self::ServerReflectionInfoStream>, Status> {
        let loaded = self.0.clone();
        let answers = request.into_inner().map(move |asked| {
            let asked = asked?;
            let message = asked.message_request.as_ref().map(|asked| reflect(&loaded, asked));
            let message = message.ok_or_else(|| Status::invalid_argument("the request asks for nothing"))?;
            let message_response = Some(message.unwrap_or_else(|why| {
                MessageResponse::ErrorResponse(ErrorResponse {
                    error_code: tonic::Code::NotFound as i32,
                    error_message: why,
                })
            }));
            let valid_host = asked.host.clone();
            Ok(ServerReflectionResponse { valid_host, original_request: Some(asked), message_response })
        });
        Ok(tonic::Response::new(answers.boxed()))
    }
}

fn reflect(loaded: &Loaded, asked: &MessageRequest) -> Result<MessageResponse, String> {
    let pool = &loaded.contract.pool;
    let unknown = |name: &str| format!("{name} is not known here");
    let extendee = |name: &str| pool.get_message_by_name(name).ok_or_else(|| unknown(name));
    let file = match asked {
        MessageRequest::ListServices(_) => {
            let names = services(loaded).into_iter().chain([HEALTH, REFLECTION].map(str::to_owned));
            let service = names.map(|name| ServiceResponse { name }).collect();
            return Ok(MessageResponse::ListServicesResponse(ListServiceResponse { service }));
        }
        MessageRequest::AllExtensionNumbersOfType(name) => {
            let extension_number =
                extendee(name)?.extensions().map(|of| i32::try_from(of.number()).unwrap_or(0)).collect();
            let base_type_name = name.clone();
            return Ok(MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                base_type_name,
                extension_number,
            }));
        }
        MessageRequest::FileByFilename(name) => pool.get_file_by_name(name).ok_or_else(|| unknown(name))?,
        MessageRequest::FileContainingSymbol(name) => containing(pool, name).ok_or_else(|| unknown(name))?,
        MessageRequest::FileContainingExtension(asked) => {
            let number = u32::try_from(asked.extension_number).unwrap_or(0);
            let extension = extendee(&asked.containing_type)?.get_extension(number);
            extension.ok_or_else(|| unknown(&asked.containing_type))?.parent_file()
        }
    };
    // The files that it imports too: many clients ask for no more.
    let mut open = vec![file];
    let mut taken: HashMap<String, Vec<u8>> = HashMap::new();
    let mut file_descriptor_proto = Vec::new();
    while let Some(file) = open.pop() {
        if taken.contains_key(file.name()) {
            continue;
        }
        file_descriptor_proto.push(visible(loaded, &file));
        taken.insert(file.name().to_owned(), Vec::new());
        open.extend(file.dependencies());
    }
    Ok(MessageResponse::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto }))
}

fn containing(pool: &DescriptorPool, name: &str) -> Option<FileDescriptor> {
    let service = |name: &str| pool.get_service_by_name(name).map(|found| found.parent_file());
    let of = |name: &str| {
        let message = pool.get_message_by_name(name).map(|found| found.parent_file());
        let either = message.or_else(|| pool.get_enum_by_name(name).map(|found| found.parent_file()));
        either.or_else(|| service(name)).or_else(|| pool.get_extension_by_name(name).map(|found| found.parent_file()))
    };
    // A method or a field is in the file of what it is of.
    of(name).or_else(|| of(name.rsplit_once('.')?.0))
}

/// A file's descriptor without the methods that nobody outside may call.
fn visible(loaded: &Loaded, file: &FileDescriptor) -> Vec<u8> {
    let is_hidden = |service: &str, method: &str| loaded.by_path(&format!("/{service}/{method}")).is_none();
    let all = file.encode_to_vec();
    let hides =
        file.services().any(|service| service.methods().any(|method| is_hidden(service.full_name(), method.name())));
    let descriptor = file.parent_pool().get_message_by_name("google.protobuf.FileDescriptorProto");
    let descriptor =
        descriptor.or_else(|| DescriptorPool::global().get_message_by_name("google.protobuf.FileDescriptorProto"));
    let (true, Some(descriptor)) = (hides, descriptor) else { return all };
    let Ok(mut message) = DynamicMessage::decode(descriptor, all.as_slice()) else { return Vec::new() };
    let name_of = |value: &Value| value.as_message()?.get_field_by_name("name")?.as_str().map(str::to_owned);
    let Some(services) = message.get_field_by_name_mut("service").and_then(Value::as_list_mut) else { return all };
    services.retain_mut(|service| {
        let name = format!("{}.{}", file.package_name(), name_of(service).unwrap_or_default());
        let name = name.trim_start_matches('.').to_owned();
        let methods = service.as_message_mut().and_then(|service| service.get_field_by_name_mut("method"));
        let Some(methods) = methods.and_then(Value::as_list_mut) else { return true };
        methods.retain(|method| !is_hidden(&name, &name_of(method).unwrap_or_default()));
        !methods.is_empty()
    });
    message.encode_to_vec()
}
