//! What strangers' bytes reach first, as functions of bytes: for the fuzz targets in `fuzz/`, and for a short run of random
//! bytes in the tests. Each panics when something is wrong.

use std::sync::LazyLock;

use bytes::Bytes;
use http::Method as Verb;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tenon_proto::policy::Contract;

use crate::{
    routes::{Found, Routes},
    stack,
    template::Template,
    transcode::{Codec, Media},
};

const RICH: &str = "/tenon.workflow.v1.RunService/CreateRun";

static CONTRACT: LazyLock<Contract> = LazyLock::new(Contract::embedded);
static ROUTES: LazyLock<Routes> = LazyLock::new(|| Routes::load(&CONTRACT).expect("a test loads the same contract"));
static CODEC: LazyLock<Codec> =
    LazyLock::new(|| Codec::of(&CONTRACT.method(RICH).expect("the workflow service has it").descriptor));

fn nothing() -> Media {
    Media { kind: String::new(), data: Bytes::new() }
}

/// A path: it finds a route or none, and fills its fields or is refused.
pub fn path(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else { return };
    let _template = Template::parse(path);
    for verb in [Verb::GET, Verb::POST, Verb::HEAD] {
        if let Found::Route(route) = ROUTES.find(&verb, path) {
            let _frame = route.binding.request(&route.template, path, None, nothing());
        }
    }
}

/// A query.
pub fn query(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else { return };
    for route in ROUTES.iter().filter(|route| !route.binding.takes_body() && route.template.variables.is_empty()) {
        if let Ok(frame) = route.binding.request(&route.template, "/", Some(query), nothing()) {
            let _message = decoded(route.method.descriptor.input(), &frame);
        }
    }
}

/// A body: what is read is a message to the library too, and reads back from the JSON that is written of it.
pub fn json(data: &[u8]) {
    let Ok(frame) = CODEC.frame(data) else { return };
    let input = CONTRACT.method(RICH).expect("the codec is of it").descriptor.input();
    let message = decoded(input, &frame);
    let text = serde_json::to_vec(&message).expect("a message that was JSON is JSON");
    let again = CODEC.frame(&text).expect("what the library writes is read");
    assert_eq!(serde_json::to_value(decoded(message_type(), &again)).ok(), serde_json::to_value(&message).ok());
}

fn message_type() -> MessageDescriptor {
    CONTRACT.method(RICH).expect("the codec is of it").descriptor.input()
}

fn decoded(descriptor: MessageDescriptor, frame: &[u8]) -> DynamicMessage {
    DynamicMessage::decode(descriptor, &frame[5..]).expect("what was read is a message")
}

/// Frames of gRPC, gRPC-Web and Connect, and base64: however they are cut, what comes out is the same.
pub fn frames(data: &[u8]) {
    let Some((cut, data)) = data.split_first() else { return };
    assert_eq!(stack::split(data, data.len().max(1)), stack::split(data, usize::from(*cut) % 7 + 1));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// What a fuzzer begins with, and what one has found.
    #[test]
    fn the_seeds_break_nothing() {
        type Target = fn(&[u8]);
        let targets = ["path", "query", "json", "frames"];
        for (name, target) in targets.into_iter().zip([super::path as Target, super::query, super::json, super::frames])
        {
            let folder = format!("{}/../fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
            let seeds = std::fs::read_dir(&folder).unwrap();
            let run = seeds.map(|seed| target(&std::fs::read(seed.unwrap().path()).unwrap()));
            assert!(run.count() > 0, "{folder} has seeds");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_break_nothing(data in proptest::collection::vec(any::<u8>(), 0..80)) {
            super::path(&data);
            super::query(&data);
            super::json(&data);
            super::frames(&data);
        }

        #[test]
        fn what_looks_right_breaks_nothing(
            path in "/v1/[a-z]{2,9}(/[ -~]{0,9}){0,2}(:[a-z]{3,6})?",
            query in "([a-z_A-Z.]{1,12}=[ -~]{0,9}&?){0,4}",
            json in r#"\{("(workflow|input|entityId|attributes)":("[ -~]{0,5}"|[0-9.e-]{1,4}|null|\[\]|\{("[a-z]{0,2}":(1|"x"|null))?\}),?){0,3}\}"#,
        ) {
            super::path(path.as_bytes());
            super::query(query.as_bytes());
            super::json(json.as_bytes());
        }
    }
}
