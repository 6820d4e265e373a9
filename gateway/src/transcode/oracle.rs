//! The codec beside the library's messages: whatever one reads or writes, the other reads or writes the same.

use std::sync::LazyLock;

use proptest::prelude::*;
use prost::Message;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind as Declared, MapKey, MessageDescriptor, ReflectMessage, SerializeOptions,
    Value,
};
use serde_json::Value as Json;

use super::*;
use crate::testing::contract;

fn everything() -> &'static MessageDescriptor {
    static EVERYTHING: LazyLock<MessageDescriptor> =
        LazyLock::new(|| contract().pool.get_message_by_name("everything.v1.Everything").unwrap());
    &EVERYTHING
}

fn plans() -> &'static Plans {
    static PLANS: LazyLock<Plans> = LazyLock::new(|| Plans::of(everything()));
    &PLANS
}

fn read(json: &str) -> Result<DynamicMessage, Refusal> {
    let mut out = Vec::new();
    read::message(plans(), json.as_bytes(), &mut out)?;
    Ok(DynamicMessage::decode(everything().clone(), out.as_slice()).expect("what was read is a message"))
}

fn write(bytes: &[u8]) -> Option<String> {
    let mut writer = Writer::new(plans(), 0);
    writer.root(bytes).ok()?;
    Some(String::from_utf8(writer.out).expect("JSON is UTF-8"))
}

/// The JSON that the library writes, with defaults.
fn by_library(message: &DynamicMessage) -> Option<Json> {
    let options = SerializeOptions::new().skip_default_fields(false);
    // By way of a text: a float has fewer digits there than as a double.
    let mut text = Vec::new();
    message.serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Numbers of one value are one, however they are written; what is null or absent in a message the library may also
/// leave out.
fn same(ours: &Json, theirs: &Json) -> bool {
    match (ours, theirs) {
        (Json::Number(ours), Json::Number(theirs)) => ours.as_f64() == theirs.as_f64(),
        (Json::Array(ours), Json::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
        }
        (Json::Object(ours), Json::Object(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().all(|(key, ours)| theirs.get(key).is_some_and(|theirs| same(ours, theirs)))
        }
        _ => ours == theirs,
    }
}

/// Makes messages out of bytes: every field of every kind may be set.
struct Dice<'d>(std::slice::Iter<'d, u8>);

impl Dice<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn wide(&mut self) -> u64 {
        let width = self.byte() % 9;
        (0..width).fold(0, |value, _| value << 8 | u64::from(self.byte()))
    }

    fn text(&mut self) -> String {
        let letters = ["a", "B", "\u{e9}", "\"", "\\", "\n", "\u{1}", "\u{1f600}", "/", "\u{7f}", "</"];
        (0..self.byte() % 5).map(|_| letters[usize::from(self.byte()) % letters.len()]).collect()
    }

    fn message(&mut self, descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        let set = |message: &mut DynamicMessage, number, value| message.set_field_by_number(number, value);
        match descriptor.full_name() {
            "google.protobuf.Timestamp" => {
                set(&mut message, 1, Value::I64((self.wide() % 253_402_300_800).cast_signed()));
                set(&mut message, 2, Value::I32(self.nanos()));
            }
            "google.protobuf.Duration" => {
                let negative = self.byte() % 2 == 1;
                let (seconds, nanos) = ((self.wide() % 315_576_000_000).cast_signed(), self.nanos());
                set(&mut message, 1, Value::I64(if negative { -seconds } else { seconds }));
                set(&mut message, 2, Value::I32(if negative { -nanos } else { nanos }));
            }
            "google.protobuf.FieldMask" => {
                let paths = ["text", "inner.count_of_things", "a_b.c_d"].map(|path| Value::String(path.to_owned()));
                let count = usize::from(self.byte() % 4);
                set(&mut message, 1, Value::List(paths.into_iter().take(count).collect()));
            }
            // The library writes null for one that is infinite.
            "google.protobuf.FloatValue" => set(&mut message, 1, Value::F32(0.1)),
            "google.protobuf.DoubleValue" => set(&mut message, 1, Value::F64(self.finite())),
            "google.protobuf.Value" => self.value(&mut message, depth),
            "google.protobuf.Any" => {
                let name = ["everything.v1.Inner", "google.protobuf.Duration", "google.protobuf.StringValue"];
                let name = name[usize::from(self.byte()) % 3];
                let inner = descriptor.parent_pool().get_message_by_name(name).unwrap();
                set(&mut message, 1, Value::String(format!("type.googleapis.com/{name}")));
                set(&mut message, 2, Value::Bytes(self.message(&inner, depth + 1).encode_to_vec().into()));
            }
            _ => {
                for field in descriptor.fields() {
                    let taken = field
                        .containing_oneof()
                        .is_some_and(|oneof| oneof.fields().any(|other| message.has_field(&other)));
                    let likely = if depth == 0 { 3 } else { 6 };
                    let required = field.cardinality() == prost_reflect::Cardinality::Required;
                    if (self.byte().is_multiple_of(likely) && !taken && depth < 5) || required {
                        let value = self.field(&field, depth);
                        message.set_field(&field, value);
                    }
                }
            }
        }
        message
    }

    fn nanos(&mut self) -> i32 {
        [0, 1, 1_000, 500_000_000, 999_999_999][usize::from(self.byte()) % 5]
    }

    fn value(&mut self, message: &mut DynamicMessage, depth: usize) {
        let descriptor = message.descriptor();
        let number = if depth > 4 { u32::from(self.byte() % 4) + 1 } else { u32::from(self.byte() % 6) + 1 };
        let field = descriptor.get_field(number).unwrap();
        let value = match number {
            1 => Value::EnumNumber(0),
            2 => Value::F64(self.finite()),
            _ => self.single(&field.kind(), depth),
        };
        message.set_field(&field, value);
    }

    fn finite(&mut self) -> f64 {
        [0.0, -0.0, 1.0, -1.5, 1e300, 0.1, 9_007_199_254_740_993.0, 5e-324][usize::from(self.byte()) % 8]
    }

    fn field(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        let kind = field.kind();
        if let Some(entry) = kind.as_message().filter(|_| field.is_map()) {
            let entries = (0..self.byte() % 4).map(|_| {
                let key = match self.single(&entry.map_entry_key_field().kind(), depth) {
                    Value::Bool(key) => MapKey::Bool(key),
                    Value::I32(key) => MapKey::I32(key),
                    Value::I64(key) => MapKey::I64(key),
                    Value::U32(key) => MapKey::U32(key),
                    Value::U64(key) => MapKey::U64(key),
                    Value::String(key) => MapKey::String(key),
                    other => panic!("{other:?} is no key"),
                };
                (key, self.single(&entry.map_entry_value_field().kind(), depth))
            });
            return Value::Map(entries.collect());
        }
        if field.is_list() {
            return Value::List((0..self.byte() % 4).map(|_| self.single(&kind, depth)).collect());
        }
        self.single(&kind, depth)
    }

    fn single(&mut self, kind: &Declared, depth: usize) -> Value {
        match kind {
            Declared::Bool => Value::Bool(self.byte() % 2 == 1),
            Declared::Int32 | Declared::Sint32 | Declared::Sfixed32 => Value::I32(self.wide() as i32),
            Declared::Int64 | Declared::Sint64 | Declared::Sfixed64 => Value::I64(self.wide().cast_signed()),
            Declared::Uint32 | Declared::Fixed32 => Value::U32(self.wide() as u32),
            Declared::Uint64 | Declared::Fixed64 => Value::U64(self.wide()),
            Declared::Float => {
                Value::F32([0.0, 1.5, 0.1, 3e38, f32::INFINITY, f32::NEG_INFINITY][usize::from(self.byte()) % 6])
            }
            Declared::Double => {
                Value::F64([self.finite(), f64::INFINITY, f64::NEG_INFINITY][usize::from(self.byte()) % 3])
            }
            Declared::String => Value::String(self.text()),
            Declared::Bytes => Value::Bytes((0..self.byte() % 5).map(|_| self.byte()).collect::<Vec<_>>().into()),
            Declared::Enum(names) if names.full_name() == "google.protobuf.NullValue" => Value::EnumNumber(0),
            Declared::Enum(names) => {
                Value::EnumNumber(names.values().nth(usize::from(self.byte()) % 2).unwrap().number())
            }
            Declared::Message(descriptor) => Value::Message(self.message(descriptor, depth + 1)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_message_has_the_same_json_by_both_and_reads_back(dice in proptest::collection::vec(any::<u8>(), 0..400)) {
        let message = Dice(dice.iter()).message(everything(), 0);
        let bytes = message.encode_to_vec();
        // The library keeps -0.0 apart from the default, and so do the bytes.
        let ours = write(&bytes);
        let theirs = by_library(&message);
        prop_assert_eq!(ours.is_some(), theirs.is_some(), "{:?}", ours);
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            let parsed: Json = serde_json::from_str(&ours).unwrap();
            prop_assert!(same(&parsed, &theirs), "ours {ours}\ntheirs {theirs}");
            let back = read(&ours).map_err(|refusal| TestCaseError::fail(format!("{} in {ours}", refusal.status.message())))?;
            let again = write(&back.encode_to_vec()).unwrap();
            prop_assert!(same(&serde_json::from_str(&again).unwrap(), &theirs), "{again}");
            // What the library reads of its own JSON and what we read of ours have the same JSON again.
            let library = DynamicMessage::deserialize(everything().clone(), &theirs).unwrap();
            prop_assert!(same(&by_library(&back).unwrap(), &by_library(&library).unwrap()), "{again}");
        }
    }

    #[test]
    fn any_bytes_are_a_message_to_both_or_to_none(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let theirs = DynamicMessage::decode(everything().clone(), bytes.as_slice()).ok();
        match (write(&bytes), theirs.as_ref().and_then(by_library)) {
            (Some(ours), Some(theirs)) => {
                prop_assert!(same(&serde_json::from_str(&ours).unwrap(), &theirs), "ours {ours}\ntheirs {theirs}");
            }
            // The library stops at a wrong form of a field that it does not write in the end, or at a wrong UTF-8 there.
            (Some(_), None) => prop_assert!(true),
            (None, Some(theirs)) => prop_assert!(false, "only the library has {theirs}"),
            (None, None) => {}
        }
    }

    #[test]
    fn what_the_library_reads_is_read_the_same(json in "[ \\{\\}\\[\\]:,\"a-fxtun0-9.eE+-]{0,40}", key in 0_usize..60) {
        let fields: Vec<_> = everything().fields().collect();
        let text = format!("{{\"{}\":{json}}}", fields[key % fields.len()].name());
        let theirs = DynamicMessage::deserialize(everything().clone(), &mut serde_json::Deserializer::from_str(&text));
        let whole: Result<Json, _> = serde_json::from_str(&text);
        // The library is more lenient with "inf" and a field that comes twice, and less with "1e3" for an integer.
        if let (Ok(ours), Some(theirs)) = (read(&text), theirs.ok().filter(|_| whole.is_ok())) {
            prop_assert!(by_library(&ours) == by_library(&theirs), "{text}");
        }
    }

    #[test]
    fn nothing_that_is_read_panics(json in "\\PC{0,60}") {
        let _ = read(&json);
        let _ = read(&format!("{{\"any\":{json}}}"));
    }
}
