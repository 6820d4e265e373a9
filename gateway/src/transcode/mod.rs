//! Transcoding: an HTTP request to the bytes of the request message, the bytes of the response message to JSON.
//!
//! JSON is the proto3 mapping: lowerCamelCase out, both spellings in, 64-bit integers as strings. Fields that have their
//! default value are written (an empty list is [] and no riddle), but for those of a message that is not set. A field that
//! nothing is known about is refused by name.

mod body;
mod query;
mod text;
mod write;

use std::{fmt, ops::Range};

use bytes::Bytes;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value};
use tonic::Code;

use prost::Message;

use crate::{
    errors::Refusal,
    template::{self, Template},
    upstreams::frame,
};

/// The deepest JSON that is read.
pub const JSON_DEPTH: usize = 100;

/// The message whose bytes are the HTTP body itself, whatever its media type.
const HTTP_BODY: &str = "google.api.HttpBody";

/// How one HTTP binding maps to the messages of its method.
pub struct Binding {
    input: MessageDescriptor,
    output: MessageDescriptor,
    captures: Vec<Capture>,
    body: Body,
    response_body: Option<FieldDescriptor>,
}

/// An HTTP body with its media type.
#[derive(Debug, PartialEq, Eq)]
pub struct Media {
    /// The Content-Type; empty when the sender named none.
    pub kind: String,
    pub data: Bytes,
}

/// Where the fields that the path does not bind come from.
#[derive(PartialEq)]
enum Body {
    /// All from the query; there is no body.
    Nothing,
    /// All from the body; there is no query.
    Whole,
    /// This one from the body, the rest from the query.
    Field(FieldDescriptor),
}

struct Capture {
    /// From the request message down to the field.
    fields: Vec<FieldDescriptor>,
    name: String,
    covers: Range<usize>,
    multi: bool,
}

/// By name only: descriptors print all that they lead to, and a recursive message leads to itself.
impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Binding({} -> {})", self.input.full_name(), self.output.full_name())
    }
}

impl Binding {
    /// Checks a binding against the messages of its method.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn new(
        method: &MethodDescriptor,
        template: &Template,
        body: Option<&str>,
        response_body: Option<&str>,
    ) -> Result<Self, String> {
        let (input, output) = (method.input(), method.output());
        let mut captures: Vec<Capture> = Vec::with_capacity(template.variables.len());
        for variable in &template.variables {
            let fields = resolve(&input, &variable.field)?;
            let name = &variable.field;
            if captures.iter().any(|capture| capture.fields == fields) {
                return Err(format!("{name} is bound twice"));
            }
            let last = fields.last().expect("resolve yields at least one field");
            if last.is_list() || last.is_map() || !text::is_leaf(&last.kind()) {
                return Err(format!("{name} is not a single value"));
            }
            if variable.multi && !matches!(last.kind(), Kind::String) {
                return Err(format!("{name} covers several segments and is not a string"));
            }
            let (covers, multi) = (variable.covers.clone(), variable.multi);
            captures.push(Capture { fields, name: name.clone(), covers, multi });
        }
        let field = |of: &MessageDescriptor, name: &str| {
            of.get_field_by_name(name).ok_or_else(|| format!("{} has no field {name}", of.full_name()))
        };
        let body = match body {
            None => Body::Nothing,
            Some("*") => Body::Whole,
            Some(name) => Body::Field(field(&input, name)?),
        };
        let response_body = response_body.map(|name| field(&output, name)).transpose()?;
        Ok(Self { input, output, captures, body, response_body })
    }

    /// Whether a request of this binding may carry a body.
    #[must_use]
    pub fn takes_body(&self) -> bool {
        self.body != Body::Nothing
    }

    /// Whether the body is handed on as it comes, of any media type.
    #[must_use]
    pub fn takes_any_media(&self) -> bool {
        match &self.body {
            Body::Nothing => false,
            Body::Whole => is_http_body(&self.input),
            Body::Field(field) => is_raw(field),
        }
    }

    /// Whether the answer is of the service's own media type.
    #[must_use]
    pub fn gives_any_media(&self) -> bool {
        self.response_body.as_ref().map_or(is_http_body(&self.output), is_raw)
    }

    /// The request message. `path` and `query` are raw; an empty body leaves its fields unset.
    ///
    /// # Errors
    /// INVALID_ARGUMENT that names the field.
    pub fn request(
        &self,
        template: &Template,
        path: &str,
        query: Option<&str>,
        body: Media,
    ) -> Result<DynamicMessage, Refusal> {
        let raw = self.takes_any_media();
        let Media { kind, data } = body;
        let mut message = match &self.body {
            _ if data.is_empty() => DynamicMessage::new(self.input.clone()),
            Body::Field(field) if raw => {
                let mut message = DynamicMessage::new(self.input.clone());
                set_media(descend(&mut message, std::slice::from_ref(field)), kind, data);
                message
            }
            Body::Whole if raw => {
                let mut message = DynamicMessage::new(self.input.clone());
                set_media(&mut message, kind, data);
                message
            }
            Body::Nothing => {
                return Err(Refusal::invalid("UNEXPECTED_BODY", "", "this route takes no body"));
            }
            Body::Whole => body::parse(&self.input, None, &data)?,
            Body::Field(field) => body::parse(&self.input, Some(field), &data)?,
        };
        let query = query.unwrap_or_default();
        if !query.is_empty() {
            query::apply(&mut message, query, |fields| self.refuses(fields))?;
        }
        self.capture(&mut message, template, path)?;
        Ok(message)
    }

    /// Why a query key may not set these fields.
    fn refuses(&self, fields: &[FieldDescriptor]) -> Option<&'static str> {
        match &self.body {
            Body::Whole => return Some("this route takes its fields from the body"),
            Body::Field(field) if fields.first() == Some(field) => return Some("is taken from the body"),
            _ => {}
        }
        self.captures.iter().any(|capture| capture.fields == fields).then_some("is taken from the path")
    }

    fn capture(&self, message: &mut DynamicMessage, template: &Template, path: &str) -> Result<(), Refusal> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = &path[..path.len() - template.verb.as_ref().map_or(0, |verb| verb.len() + 1)];
        for Capture { fields, name, covers, multi } in &self.captures {
            let refuse = |why: String| Refusal::invalid("INVALID_PATH", name.as_str(), why);
            let raw = template.part(path, covers);
            let Some(value) = template::decode(raw, *multi) else {
                return Err(refuse("is not percent-encoded UTF-8".to_owned()));
            };
            let (last, parents) = fields.split_last().expect("a capture has at least one field");
            let value = text::parse(&last.kind(), &value).ok_or_else(|| refuse(text::expects(&last.kind())))?;
            descend(message, parents).set_field(last, value);
        }
        Ok(())
    }

    /// What a response message is called in a stream of events: its field `event_id`, a string or an integer.
    #[must_use]
    pub fn event_id(&self, message: &[u8]) -> Option<String> {
        let field = self.output.get_field_by_name("event_id").filter(|field| !field.is_list())?;
        let message = DynamicMessage::decode(self.output.clone(), message).ok()?;
        let id = match message.get_field(&field).as_ref() {
            Value::String(id) => id.clone(),
            Value::I32(id) => id.to_string(),
            Value::I64(id) => id.to_string(),
            Value::U32(id) => id.to_string(),
            Value::U64(id) => id.to_string(),
            _ => return None,
        };
        // A line break would end the line that it stands in.
        Some(id).filter(|id| !id.is_empty() && !id.contains(['\r', '\n', '\0']))
    }

    /// The body of a response message: JSON, unless the contract says that it is the service's own.
    ///
    /// # Errors
    /// INTERNAL when the bytes are not the message that the contract says.
    pub fn response(&self, message: Bytes) -> Result<Media, Refusal> {
        let broken = |what: &str| Refusal::new(Code::Internal, "INVALID_RESPONSE", format!("the response {what}"));
        let size = message.len();
        let message = DynamicMessage::decode(self.output.clone(), message).map_err(|_| broken("cannot be decoded"))?;
        if self.gives_any_media() {
            let field = self.response_body.as_ref().map(|field| message.get_field(field));
            return Ok(get_media(field.as_ref().and_then(|value| value.as_message()).unwrap_or(&message)));
        }
        let mut json = Vec::with_capacity(size * 2 + 64);
        let written = match &self.response_body {
            None => write::message(&mut json, &message),
            Some(field) => write::field(&mut json, &message, field),
        };
        written.map_err(|_| broken("has no JSON form"))?;
        Ok(Media { kind: "application/json".to_owned(), data: json.into() })
    }
}

/// The messages of a method as JSON, without a route: every field stands for itself.
pub struct Codec {
    input: MessageDescriptor,
    output: MessageDescriptor,
}

impl Codec {
    #[must_use]
    pub fn of(method: &MethodDescriptor) -> Self {
        Self { input: method.input(), output: method.output() }
    }

    /// A request message in JSON as a gRPC frame.
    ///
    /// # Errors
    /// INVALID_ARGUMENT that names the field.
    pub fn frame(&self, json: &[u8]) -> Result<Bytes, Refusal> {
        let json = if json.is_empty() { b"{}" } else { json };
        Ok(frame(&body::parse(&self.input, None, json)?))
    }

    /// The bytes of a response message as JSON.
    ///
    /// # Errors
    /// INTERNAL when the bytes are not the message that the contract says.
    pub fn json(&self, message: &[u8]) -> Result<Bytes, Refusal> {
        let broken = |what: &str| Refusal::new(Code::Internal, "INVALID_RESPONSE", format!("the response {what}"));
        let message = DynamicMessage::decode(self.output.clone(), message).map_err(|_| broken("cannot be decoded"))?;
        let mut json = Vec::with_capacity(message.encoded_len() * 2 + 64);
        write::message(&mut json, &message).map_err(|_| broken("has no JSON form"))?;
        Ok(json.into())
    }
}

fn is_http_body(message: &MessageDescriptor) -> bool {
    message.full_name() == HTTP_BODY
}

fn is_raw(field: &FieldDescriptor) -> bool {
    !field.is_list() && matches!(field.kind(), Kind::Message(message) if is_http_body(&message))
}

fn set_media(message: &mut DynamicMessage, kind: String, data: Bytes) {
    message.set_field_by_name("content_type", Value::String(kind));
    message.set_field_by_name("data", Value::Bytes(data));
}

fn get_media(message: &DynamicMessage) -> Media {
    let field = |name| message.get_field_by_name(name).map(std::borrow::Cow::into_owned);
    let kind = field("content_type").and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
    let data = field("data").and_then(|data| data.as_bytes().cloned()).unwrap_or_default();
    Media { kind, data }
}

/// The message that `parents` lead to, made on the way.
fn descend<'m>(message: &'m mut DynamicMessage, parents: &[FieldDescriptor]) -> &'m mut DynamicMessage {
    parents.iter().fold(message, |message, field| {
        message.get_field_mut(field).as_message_mut().expect("resolve admits only messages on the way")
    })
}

/// Follows a dotted field path, in either spelling, through single messages.
fn resolve(message: &MessageDescriptor, path: &str) -> Result<Vec<FieldDescriptor>, String> {
    let (mut fields, mut message) = (Vec::new(), Some(message.clone()));
    for name in path.split('.') {
        let Some(parent) = message else { return Err(format!("{path}: nothing is inside a single value")) };
        let Some(field) = parent.get_field_by_json_name(name).or_else(|| parent.get_field_by_name(name)) else {
            return Err(format!("{} has no field {name}", parent.full_name()));
        };
        message = match field.kind() {
            Kind::Message(inner) if !field.is_list() && !field.is_map() => Some(inner),
            _ => None,
        };
        fields.push(field);
    }
    Ok(fields)
}

/// Refuses a second member of a oneof.
fn oneof_taken(message: &DynamicMessage, field: &FieldDescriptor) -> Option<String> {
    let oneof = field.containing_oneof()?;
    let other = oneof.fields().find(|other| other != field && message.has_field(other))?;
    Some(format!("{} is set already", other.json_name()))
}

#[cfg(test)]
mod tests;
