//! Transcoding: an HTTP request to the bytes of the request message, the bytes of the response message to JSON.
//!
//! JSON is the proto3 mapping: lowerCamelCase out, both spellings in, 64-bit integers as strings. Fields that have their
//! default value are written (an empty list is [] and no riddle), but for those of a message that is not set. A field that
//! nothing is known about is refused by name.

mod plan;

mod wire;

mod known;

mod text;

mod read;

mod query;

mod write;

use std::{fmt, ops::Range, sync::OnceLock};

use bytes::Bytes;
use http::StatusCode;
use prost_reflect::{FieldDescriptor, Kind as Prost, MessageDescriptor, MethodDescriptor};
use tonic::Code;

use self::{
    plan::{Kind, Label, Plans},
    query::Query,
    wire::Wire,
    write::Writer,
};
use crate::{
    errors::Refusal,
    template::{self, Template},
};

/// The deepest JSON that is read.
pub const JSON_DEPTH: usize = 100;

/// Bytes of one message at most, as everywhere in the mesh.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Compressed flag and length in front of a gRPC message.
const PREFIX: usize = 5;
/// The message whose bytes are the HTTP body itself, whatever its media type.
const HTTP_BODY: &str = "google.api.HttpBody";

/// How one HTTP binding maps to the messages of its method.
pub struct Binding {
    input: Compiled,
    output: Compiled,
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
        write!(f, "Binding({} -> {})", self.input.descriptor.full_name(), self.output.descriptor.full_name())
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
            if variable.multi && !matches!(last.kind(), Prost::String) {
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
        let (input, output) = (Compiled::new(input), Compiled::new(output));
        Ok(Self { input, output, captures, body, response_body })
    }

    /// Whether a request of this binding may carry a body.
    #[must_use]
    pub fn takes_body(&self) -> bool {
        self.body != Body::Nothing
    }

    /// The request message.
    pub(crate) fn input(&self) -> &MessageDescriptor {
        &self.input.descriptor
    }

    /// The response message.
    pub(crate) fn output(&self) -> &MessageDescriptor {
        &self.output.descriptor
    }

    /// Whether all fields that the path does not bind come from the body.
    pub(crate) fn takes_whole_body(&self) -> bool {
        self.body == Body::Whole
    }

    /// The one field that comes from the body.
    pub(crate) fn body_field(&self) -> Option<&FieldDescriptor> {
        if let Body::Field(field) = &self.body { Some(field) } else { None }
    }

    /// The one field that is the answer.
    pub(crate) fn response_field(&self) -> Option<&FieldDescriptor> {
        self.response_body.as_ref()
    }

    /// The field that a variable of the path is copied to.
    pub(crate) fn captured(&self, name: &str) -> Option<&FieldDescriptor> {
        self.captures.iter().find(|capture| capture.name == name)?.fields.last()
    }

    /// Whether a variable of the path is copied to this very field.
    pub(crate) fn is_captured(&self, name: &str, fields: &[FieldDescriptor]) -> bool {
        self.captures.iter().any(|capture| capture.name == name && capture.fields == fields)
    }

    /// The fields of the request itself that the path binds.
    pub(crate) fn captured_fields(&self) -> Vec<FieldDescriptor> {
        let own = self.captures.iter().filter(|capture| capture.fields.len() == 1);
        own.map(|capture| capture.fields[0].clone()).collect()
    }

    /// Whether the body is handed on as it comes, of any media type.
    #[must_use]
    pub fn takes_any_media(&self) -> bool {
        match &self.body {
            Body::Nothing => false,
            Body::Whole => is_http_body(&self.input.descriptor),
            Body::Field(field) => is_raw(field),
        }
    }

    /// Whether the answer is of the service's own media type.
    #[must_use]
    pub fn gives_any_media(&self) -> bool {
        self.response_body.as_ref().map_or(is_http_body(&self.output.descriptor), is_raw)
    }

    /// The request message as a gRPC frame. `path` and `query` are raw; an empty body leaves its fields unset.
    ///
    /// # Errors
    /// INVALID_ARGUMENT that names the field.
    pub fn request(&self, template: &Template, path: &str, query: Option<&str>, body: Media) -> Result<Bytes, Refusal> {
        let plans = self.input.plans();
        let Media { kind, data } = body;
        let mut out = Vec::with_capacity(PREFIX + data.len() + path.len() + 32);
        out.resize(PREFIX, 0);
        let mut asked = Query::new(plans);
        match &self.body {
            _ if data.is_empty() => {}
            Body::Nothing => return Err(Refusal::invalid("UNEXPECTED_BODY", "", "this route takes no body")),
            Body::Whole if self.takes_any_media() => put_media(&kind, &data, &mut out),
            Body::Whole => read::message(plans, &data, &mut out)?,
            Body::Field(field) => {
                let at = plans.messages[0].by_number(field.number(), 0).expect("a field is in the plan of its message");
                asked.set_elsewhere(at);
                if self.takes_any_media() {
                    wire::put_tag(&mut out, field.number(), wire::LENGTH);
                    let start = wire::begin(&mut out);
                    put_media(&kind, &data, &mut out);
                    wire::end(&mut out, start);
                } else {
                    read::field(plans, at, &data, &mut out)?;
                }
            }
        }
        if let Some(query) = query.filter(|query| !query.is_empty()) {
            asked.apply(query, &mut out, |numbers| self.refuses(numbers))?;
        }
        self.capture(plans, template, path, &mut out)?;
        framed(out)
    }

    /// Why a query key may not set these fields.
    fn refuses(&self, numbers: &[u32]) -> Option<&'static str> {
        match &self.body {
            Body::Whole => return Some("this route takes its fields from the body"),
            Body::Field(field) if numbers.first() == Some(&field.number()) => return Some("is taken from the body"),
            _ => {}
        }
        let taken = |capture: &Capture| capture.fields.iter().map(FieldDescriptor::number).eq(numbers.iter().copied());
        self.captures.iter().any(taken).then_some("is taken from the path")
    }

    /// What stands last on the wire counts: the path outranks the body.
    fn capture(&self, plans: &Plans, template: &Template, path: &str, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = &path[..path.len() - template.verb.as_ref().map_or(0, |verb| verb.len() + 1)];
        for Capture { fields, name, covers, multi } in &self.captures {
            let refuse = |why: String| Refusal::invalid("INVALID_PATH", name.as_str(), why);
            let raw = template.part(path, covers);
            let Some(value) = template::decode(raw, *multi) else {
                return Err(refuse("is not percent-encoded UTF-8".to_owned()));
            };
            let way = query::way(plans, name).expect("the path was resolved when the route was loaded");
            if !query::put(plans, &way, &value, out) {
                let last = fields.last().expect("a capture has at least one field");
                return Err(refuse(text::expects(&last.kind())));
            }
        }
        Ok(())
    }

    /// What a response message is called in a stream of events: its field `event_id`, a string or an integer.
    #[must_use]
    pub fn event_id(&self, message: &[u8]) -> Option<String> {
        let plans = self.output.plans();
        let at = plans.messages[0].by_name("event_id", 0)?;
        let field = &plans.messages[0].fields[at];
        let fits = matches!(field.kind, Kind::String | Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64);
        if !fits || !matches!(field.label, Label::Single) {
            return None;
        }
        let mut writer = Writer::new(plans, 32);
        writer.root_field(at, message).ok()?;
        let id: serde_json::Value = serde_json::from_slice(&writer.out).ok()?;
        let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        // What is not set is no id, and a line break would end the line that it stands in.
        Some(id).filter(|id| !id.is_empty() && id != "0" && !id.contains(['\r', '\n', '\0']))
    }

    /// The body of a response message: JSON, unless the contract says that it is the service's own.
    ///
    /// # Errors
    /// INTERNAL when the bytes are not the message that the contract says.
    pub fn response(&self, message: &Bytes) -> Result<Media, Refusal> {
        if self.gives_any_media() {
            let inside = self.response_body.as_ref().map(|field| last_bytes(message, field.number()));
            let body = inside.unwrap_or(Some(message)).ok_or_else(|| broken("cannot be decoded"))?;
            return get_media(message, body).ok_or_else(|| broken("cannot be decoded"));
        }
        let plans = self.output.plans();
        let mut writer = Writer::new(plans, message.len() * 2 + 256);
        let written = match &self.response_body {
            None => writer.root(message),
            Some(field) => {
                let at = plans.messages[0].by_number(field.number(), 0).expect("a field is in the plan of its message");
                writer.root_field(at, message)
            }
        };
        written.map_err(|_| broken("has no JSON form"))?;
        Ok(Media { kind: "application/json".to_owned(), data: writer.out.into() })
    }
}

fn broken(what: &str) -> Refusal {
    Refusal::new(Code::Internal, "INVALID_RESPONSE", format!("the response {what}"))
}

/// A message type, compiled when it is first used.
struct Compiled {
    descriptor: MessageDescriptor,
    plans: OnceLock<Plans>,
}

impl Compiled {
    fn new(descriptor: MessageDescriptor) -> Self {
        Self { descriptor, plans: OnceLock::new() }
    }

    fn plans(&self) -> &Plans {
        self.plans.get_or_init(|| Plans::of(&self.descriptor))
    }
}

/// The messages of a method as JSON, without a route: every field stands for itself.
pub struct Codec {
    input: Compiled,
    output: Compiled,
}

impl Codec {
    #[must_use]
    pub fn of(method: &MethodDescriptor) -> Self {
        Self { input: Compiled::new(method.input()), output: Compiled::new(method.output()) }
    }

    /// A request message in JSON as a gRPC frame.
    ///
    /// # Errors
    /// INVALID_ARGUMENT that names the field.
    pub fn frame(&self, json: &[u8]) -> Result<Bytes, Refusal> {
        let mut out = Vec::with_capacity(PREFIX + json.len());
        out.resize(PREFIX, 0);
        if !json.is_empty() {
            read::message(self.input.plans(), json, &mut out)?;
        }
        framed(out)
    }

    /// The bytes of a response message as JSON.
    ///
    /// # Errors
    /// INTERNAL when the bytes are not the message that the contract says.
    pub fn json(&self, message: &[u8]) -> Result<Bytes, Refusal> {
        let mut writer = Writer::new(self.output.plans(), message.len() * 2 + 256);
        writer.root(message).map_err(|_| broken("has no JSON form"))?;
        Ok(writer.out.into())
    }
}

/// Bytes with room for the prefix in front, as a frame.
fn framed(mut out: Vec<u8>) -> Result<Bytes, Refusal> {
    let length = out.len() - PREFIX;
    // A list of zeros has two bytes each in JSON and eight on the wire.
    if length > MAX_MESSAGE {
        let why = "the message has more than 4 MiB when it is encoded";
        let refusal = Refusal::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", why);
        return Err(refusal.http(StatusCode::PAYLOAD_TOO_LARGE));
    }
    let length = u32::try_from(length).expect("4 MiB is less than 4 GiB");
    out[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    Ok(out.into())
}

fn is_http_body(message: &MessageDescriptor) -> bool {
    message.full_name() == HTTP_BODY
}

fn is_raw(field: &FieldDescriptor) -> bool {
    !field.is_list() && matches!(field.kind(), Prost::Message(message) if is_http_body(&message))
}

/// Writes a google.api.HttpBody.
fn put_media(kind: &str, data: &[u8], out: &mut Vec<u8>) {
    for (number, bytes) in [(1, kind.as_bytes()), (2, data)] {
        wire::put_tag(out, number, wire::LENGTH);
        wire::put_bytes(out, bytes);
    }
}

/// Reads a google.api.HttpBody that is a part of `message`.
fn get_media(message: &Bytes, body: &[u8]) -> Option<Media> {
    let kind = String::from_utf8(last_bytes(body, 1)?.to_vec()).ok()?;
    let data = last_bytes(body, 2)?;
    Some(Media { kind, data: if data.is_empty() { Bytes::new() } else { message.slice_ref(data) } })
}

/// The last value of a field that is bytes; empty when there is none.
fn last_bytes(message: &[u8], number: u32) -> Option<&[u8]> {
    let (mut wire, mut found) = (Wire::new(message), &[][..]);
    while !wire.is_end() {
        match wire.tag()? {
            (at, wire::LENGTH) if at == number => found = wire.bytes()?,
            (at, form) => wire.skip(at, form)?,
        }
    }
    Some(found)
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
            Prost::Message(inner) if !field.is_list() && !field.is_map() => Some(inner),
            _ => None,
        };
        fields.push(field);
    }
    Ok(fields)
}

#[cfg(test)]
mod oracle;

#[cfg(test)]
mod letter;

#[cfg(test)]
mod tests;
