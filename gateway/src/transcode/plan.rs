//! Descriptors compiled once: for each message its fields by name and by number, as reading and writing need them.

use std::{
    cmp::Ordering,
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, ExtensionDescriptor, FieldDescriptor, Kind as Declared,
    MessageDescriptor,
};

use super::wire;

/// A message and all that it leads to; the message itself is the first.
#[derive(Debug)]
pub(super) struct Plans {
    pub(super) messages: Vec<Plan>,
    pub(super) enums: Vec<Names>,
    pool: DescriptorPool,
    /// What an Any held so far; bounded by the types that the pool knows.
    others: RwLock<HashMap<Box<str>, Arc<Plans>>>,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) form: Form,
    pub(super) fields: Vec<Field>,
    /// Both spellings of each field, sorted by [`order`].
    names: Vec<(Box<str>, usize)>,
    /// Sorted.
    numbers: Vec<(u32, usize)>,
}

/// What a message looks like in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Fields,
    /// The value of its one field.
    Wrapper,
    Timestamp,
    Duration,
    FieldMask,
    Struct,
    Value,
    List,
    Any,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: Box<str>,
    /// The name in quotes, and a colon.
    pub(super) key: Box<str>,
    pub(super) kind: Kind,
    pub(super) label: Label,
    /// Whether not being set differs from having the default value.
    pub(super) presence: bool,
    pub(super) oneof: Option<usize>,
    /// Not written when it is empty: other messages know nothing of it.
    pub(super) is_extension: bool,
    pub(super) declared: Declared,
}

#[derive(Debug)]
pub(super) enum Label {
    Single,
    List {
        packed: bool,
    },
    /// Key and value.
    Map(Box<(Field, Field)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    /// The place in `enums`.
    Enum(usize),
    /// The place in `messages`.
    Message {
        plan: usize,
        group: bool,
    },
}

/// The names of an enum.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) descriptor: EnumDescriptor,
    /// google.protobuf.NullValue, whose one value is null.
    pub(super) is_null: bool,
    /// By number; of aliases the first.
    by_number: Vec<(i32, Box<str>)>,
}

impl Kind {
    /// How it stands on the wire.
    pub(super) fn form(self) -> u8 {
        match self {
            Self::Double | Self::Fixed64 | Self::Sfixed64 => wire::FIXED64,
            Self::Float | Self::Fixed32 | Self::Sfixed32 => wire::FIXED32,
            Self::String | Self::Bytes | Self::Message { group: false, .. } => wire::LENGTH,
            Self::Message { group: true, .. } => wire::GROUP,
            _ => wire::VARINT,
        }
    }
}

impl Names {
    pub(super) fn name(&self, number: i32) -> Option<&str> {
        let at = self.by_number.binary_search_by_key(&number, |(known, _)| *known).ok()?;
        Some(&self.by_number[at].1)
    }
}

impl Plan {
    /// The field of this name, in either spelling; `guess` is looked at first.
    pub(super) fn by_name(&self, name: &str, guess: usize) -> Option<usize> {
        if self.fields.get(guess).is_some_and(|field| *field.name == *name) {
            return Some(guess);
        }
        let at = self.names.binary_search_by(|(known, _)| order(known, name)).ok()?;
        Some(self.names[at].1)
    }

    /// The field of this number; `guess` is looked at first.
    pub(super) fn by_number(&self, number: u32, guess: usize) -> Option<usize> {
        if self.fields.get(guess).is_some_and(|field| field.number == number) {
            return Some(guess);
        }
        let at = self.numbers.binary_search_by_key(&number, |(known, _)| *known).ok()?;
        Some(self.numbers[at].1)
    }
}

/// By length first: most comparisons then are of two integers.
fn order(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes()))
}

impl Plans {
    pub(super) fn of(root: &MessageDescriptor) -> Self {
        let mut builder = Builder::default();
        builder.message(root);
        // Those that were named on the way are compiled in their turn.
        let mut at = 0;
        let mut messages = Vec::new();
        while at < builder.open.len() {
            let descriptor = builder.open[at].clone();
            messages.push(builder.compile(&descriptor));
            at += 1;
        }
        let (enums, pool) = (builder.enums, root.parent_pool().clone());
        Self { messages, enums, pool, others: RwLock::default() }
    }

    /// The plans of a message that an Any holds.
    pub(super) fn other(&self, name: &str) -> Option<Arc<Self>> {
        if let Some(known) = self.others.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Some(known.clone());
        }
        let plans = Arc::new(Self::of(&self.pool.get_message_by_name(name)?));
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        Some(others.entry(name.into()).or_insert(plans).clone())
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<MessageDescriptor>,
    places: HashMap<String, usize>,
    enums: Vec<Names>,
    enum_places: HashMap<String, usize>,
}

impl Builder {
    fn message(&mut self, descriptor: &MessageDescriptor) -> usize {
        if let Some(place) = self.places.get(descriptor.full_name()) {
            return *place;
        }
        self.open.push(descriptor.clone());
        self.places.insert(descriptor.full_name().to_owned(), self.open.len() - 1);
        self.open.len() - 1
    }

    fn names(&mut self, descriptor: &EnumDescriptor) -> usize {
        if let Some(place) = self.enum_places.get(descriptor.full_name()) {
            return *place;
        }
        let mut by_number: Vec<(i32, Box<str>)> =
            descriptor.values().map(|value| (value.number(), value.name().into())).collect();
        by_number.sort_by_key(|(number, _)| *number);
        by_number.dedup_by_key(|(number, _)| *number);
        let is_null = descriptor.full_name() == "google.protobuf.NullValue";
        self.enums.push(Names { descriptor: descriptor.clone(), is_null, by_number });
        self.enum_places.insert(descriptor.full_name().to_owned(), self.enums.len() - 1);
        self.enums.len() - 1
    }

    fn compile(&mut self, descriptor: &MessageDescriptor) -> Plan {
        let mut fields: Vec<Field> = descriptor.fields().map(|field| self.field(&field)).collect();
        // The first of one name counts, also when another field is declared by it: the names of JSON go first.
        let mut names: Vec<(Box<str>, usize)> = Vec::with_capacity(fields.len() * 2);
        names.extend(descriptor.fields().enumerate().map(|(at, field)| (field.json_name().into(), at)));
        names.extend(descriptor.fields().enumerate().map(|(at, field)| (field.name().into(), at)));
        for extension in descriptor.extensions() {
            names.push((extension.json_name().into(), fields.len()));
            fields.push(self.extension(&extension));
        }
        names.sort_by(|(a, _), (b, _)| order(a, b));
        names.dedup_by(|(later, _), (first, _)| later == first);
        let mut numbers: Vec<_> = fields.iter().enumerate().map(|(at, field)| (field.number, at)).collect();
        numbers.sort_unstable();
        Plan { form: form(descriptor), fields, names, numbers }
    }

    fn field(&mut self, field: &FieldDescriptor) -> Field {
        let declared = field.kind();
        let label = match declared.as_message().filter(|_| field.is_map()) {
            Some(entry) => {
                let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
                Label::Map(Box::new((self.field(&key), self.field(&value))))
            }
            None if field.is_list() => Label::List { packed: field.is_packed() },
            None => Label::Single,
        };
        let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
        let oneof = oneof.and_then(|of| field.parent_message().oneofs().position(|known| known == of));
        let name: Box<str> = field.json_name().into();
        Field {
            number: field.number(),
            key: key(&name),
            name,
            kind: self.kind(&declared, field.is_group()),
            label,
            presence: field.supports_presence(),
            oneof,
            is_extension: false,
            declared,
        }
    }

    fn extension(&mut self, extension: &ExtensionDescriptor) -> Field {
        let (declared, name): (_, Box<str>) = (extension.kind(), extension.json_name().into());
        let list = extension.cardinality() == Cardinality::Repeated;
        Field {
            number: extension.number(),
            key: key(&name),
            name,
            kind: self.kind(&declared, extension.is_group()),
            label: if list { Label::List { packed: extension.is_packed() } } else { Label::Single },
            presence: true,
            oneof: None,
            is_extension: true,
            declared,
        }
    }

    fn kind(&mut self, declared: &Declared, group: bool) -> Kind {
        match declared {
            Declared::Double => Kind::Double,
            Declared::Float => Kind::Float,
            Declared::Int32 => Kind::Int32,
            Declared::Int64 => Kind::Int64,
            Declared::Uint32 => Kind::Uint32,
            Declared::Uint64 => Kind::Uint64,
            Declared::Sint32 => Kind::Sint32,
            Declared::Sint64 => Kind::Sint64,
            Declared::Fixed32 => Kind::Fixed32,
            Declared::Fixed64 => Kind::Fixed64,
            Declared::Sfixed32 => Kind::Sfixed32,
            Declared::Sfixed64 => Kind::Sfixed64,
            Declared::Bool => Kind::Bool,
            Declared::String => Kind::String,
            Declared::Bytes => Kind::Bytes,
            Declared::Enum(descriptor) => Kind::Enum(self.names(descriptor)),
            Declared::Message(descriptor) => Kind::Message { plan: self.message(descriptor), group },
        }
    }
}

/// A name as it stands in an object. Names of fields are identifiers, and those of extensions in brackets.
fn key(name: &str) -> Box<str> {
    format!("{}:", serde_json::Value::from(name)).into()
}

fn form(descriptor: &MessageDescriptor) -> Form {
    match descriptor.full_name().strip_prefix("google.protobuf.").unwrap_or_default() {
        "Timestamp" => Form::Timestamp,
        "Duration" => Form::Duration,
        "FieldMask" => Form::FieldMask,
        "Struct" => Form::Struct,
        "Value" => Form::Value,
        "ListValue" => Form::List,
        "Any" => Form::Any,
        "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value" | "BoolValue"
        | "StringValue" | "BytesValue" => Form::Wrapper,
        _ => Form::Fields,
    }
}
