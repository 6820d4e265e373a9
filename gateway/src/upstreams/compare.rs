//! What one contract says and another does not: what clients would see of a change.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use prost_reflect::{Cardinality, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use tenon_proto::{
    options::v1::policy::Access,
    policy::{Contract, Method},
};

use crate::routes::Routes;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// `+`, `-` or `~`.
    pub sign: char,
    /// `crm.v1.Contact.email`, or a method's full name.
    pub what: String,
    pub how: String,
    /// A client that works today would not.
    pub is_breaking: bool,
}

/// Everything that differs from `old` to `new`, by name.
#[must_use]
pub fn compare(old: &Contract, new: &Contract) -> Vec<Change> {
    let mut changes = Changes::default();
    let methods: BTreeSet<_> = old.methods().chain(new.methods()).map(|method| method.path.clone()).collect();
    let (old_routes, new_routes) = (routes(old), routes(new));
    for path in methods {
        match (old.method(&path), new.method(&path)) {
            (Some(old), None) => changes.note('-', name(old), "method removed", true),
            (None, Some(new)) => changes.note('+', name(new), "method added", false),
            (Some(old), Some(new)) => {
                changes.policy(old, new);
                let none = BTreeSet::new();
                let of = |routes: &BTreeMap<String, BTreeSet<String>>| routes.get(&path).unwrap_or(&none).clone();
                let (before, after) = (of(&old_routes), of(&new_routes));
                before
                    .difference(&after)
                    .for_each(|r| changes.note('-', name(old), &format!("route {r} removed"), true));
                after
                    .difference(&before)
                    .for_each(|r| changes.note('+', name(old), &format!("route {r} added"), false));
                changes.shape(old, new);
            }
            (None, None) => {}
        }
    }
    changes.found.sort();
    changes.found.dedup();
    changes.found
}

fn name(method: &Method) -> &str {
    method.descriptor.full_name()
}

/// The routes of each method by path; a contract that cannot be served has none.
fn routes(contract: &Contract) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    if let Ok(routes) = Routes::load(contract) {
        for route in routes.iter() {
            found.entry(route.method.path.clone()).or_default().insert(route.label.to_string());
        }
    }
    found
}

#[derive(Default)]
struct Changes {
    found: Vec<Change>,
    seen: HashSet<(String, String)>,
}

impl Changes {
    fn note(&mut self, sign: char, what: &str, how: &str, is_breaking: bool) {
        self.found.push(Change { sign, what: what.to_owned(), how: how.to_owned(), is_breaking });
    }

    fn policy(&mut self, old: &Method, new: &Method) {
        let name = name(old);
        if old.access != new.access {
            let how = format!("access {} -> {}", old.access.as_str_name(), new.access.as_str_name());
            self.note('~', name, &how, !opens(old.access, new.access));
        }
        let none = || "none".to_owned();
        for (what, old, new) in
            [("permission", &old.permission, &new.permission), ("feature", &old.feature, &new.feature)]
        {
            if old != new {
                let show = |value: &Option<String>| value.clone().unwrap_or_else(none);
                self.note('~', name, &format!("{what} {} -> {}", show(old), show(new)), new.is_some());
            }
        }
        if old.meter != new.meter {
            let show = |value: &Option<String>| value.clone().unwrap_or_else(none);
            self.note('~', name, &format!("meter {} -> {}", show(&old.meter), show(&new.meter)), false);
        }
        if old.rate != new.rate {
            let how = format!("rate {} -> {}", old.rate.as_str_name(), new.rate.as_str_name());
            self.note('~', name, &how, false);
        }
        if old.step_up != new.step_up {
            self.note('~', name, &format!("step_up {} -> {}", old.step_up, new.step_up), new.step_up);
        }
        if old.timeout != new.timeout {
            let ms = |method: &Method| method.timeout.map_or(0, |timeout| timeout.as_millis());
            let is_less = new.timeout.is_some_and(|less| old.timeout.is_none_or(|more| less < more));
            self.note('~', name, &format!("timeout_ms {} -> {}", ms(old), ms(new)), is_less);
        }
        if old.allow_unpaid != new.allow_unpaid {
            let how = format!("allow_unpaid {} -> {}", old.allow_unpaid, new.allow_unpaid);
            self.note('~', name, &how, old.allow_unpaid);
        }
        if old.effect != new.effect {
            self.note('~', name, &format!("idempotency {:?} -> {:?}", old.effect, new.effect), false);
        }
    }

    fn shape(&mut self, old: &Method, new: &Method) {
        let (old, new) = (&old.descriptor, &new.descriptor);
        let streams = |is_old: bool, side: &str, old: bool, new: bool| {
            (old != new && is_old).then(|| format!("{side} stream {old} -> {new}"))
        };
        let client = streams(true, "client", old.is_client_streaming(), new.is_client_streaming());
        let server = streams(true, "server", old.is_server_streaming(), new.is_server_streaming());
        for how in client.into_iter().chain(server) {
            self.note('~', old.full_name(), &how, true);
        }
        self.message(&old.input(), &new.input());
        self.message(&old.output(), &new.output());
    }

    /// By field number, as the wire does; the name counts too, since JSON goes by it.
    fn message(&mut self, old: &MessageDescriptor, new: &MessageDescriptor) {
        if !self.seen.insert((old.full_name().to_owned(), new.full_name().to_owned())) {
            return;
        }
        for before in old.fields() {
            let what = before.full_name();
            let Some(after) = new.get_field(before.number()) else {
                self.note('-', what, &format!("field {} removed", before.number()), true);
                continue;
            };
            if before.json_name() != after.json_name() {
                self.note('~', what, &format!("renamed {} -> {}", before.name(), after.name()), true);
            }
            let (kind, other) = (shown(&before), shown(&after));
            if kind != other {
                self.note('~', what, &format!("{kind} -> {other}"), true);
            }
            match (before.kind(), after.kind()) {
                (Kind::Message(before), Kind::Message(after)) => self.message(&before, &after),
                (Kind::Enum(before), Kind::Enum(after)) => self.enumeration(&before, &after),
                _ => {}
            }
        }
        for after in new.fields().filter(|field| old.get_field(field.number()).is_none()) {
            self.note('+', after.full_name(), &format!("field {} added", after.number()), false);
        }
    }

    fn enumeration(&mut self, old: &EnumDescriptor, new: &EnumDescriptor) {
        if !self.seen.insert((old.full_name().to_owned(), new.full_name().to_owned())) {
            return;
        }
        for before in old.values() {
            match new.get_value(before.number()) {
                None => self.note('-', before.full_name(), "value removed", true),
                Some(after) if after.name() != before.name() => {
                    let how = format!("renamed {} -> {}", before.name(), after.name());
                    self.note('~', before.full_name(), &how, true);
                }
                Some(_) => {}
            }
        }
        for after in new.values().filter(|value| old.get_value(value.number()).is_none()) {
            self.note('+', after.full_name(), "value added", false);
        }
    }
}

/// Whether everybody who could call before still can.
fn opens(old: Access, new: Access) -> bool {
    let rank = |access| match access {
        Access::Public => 0,
        Access::Tenant => 1,
        Access::Operator => 2,
        Access::Mesh | Access::Unspecified => 3,
    };
    // An operator's key is no user's token: only PUBLIC lets everybody in.
    new == Access::Public || (rank(new) < rank(old) && old == Access::Mesh)
}

fn shown(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        // A message of another name with the same fields is the same on the wire.
        Kind::Message(_) if field.is_map() => "map".to_owned(),
        Kind::Message(_) => "message".to_owned(),
        Kind::Enum(_) => "enum".to_owned(),
        kind => format!("{kind:?}").to_lowercase(),
    };
    let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
    let within = oneof.map(|oneof| format!(" in oneof {}", oneof.name())).unwrap_or_default();
    let label = match field.cardinality() {
        Cardinality::Repeated if !field.is_map() => "repeated ",
        Cardinality::Required => "required ",
        _ => "",
    };
    format!("{label}{kind}{within}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract(service: &str, messages: &str) -> Contract {
        let source = format!(
            r#"syntax = "proto3"; package made.v1;
            import "google/api/annotations.proto"; import "tenon/options/v1/policy.proto";
            service Made {{ {service} }} {messages}"#
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("made.proto"), source).unwrap();
        let protos = format!("{}/../proto", env!("CARGO_MANIFEST_DIR"));
        let mut compiler = protox::Compiler::new([folder.path().to_owned(), protos.into()]).unwrap();
        compiler.include_imports(true).open_file("made.proto").unwrap();
        Contract::load(&compiler.encode_file_descriptor_set()).unwrap()
    }

    fn method(name: &str, http: &str, policy: &str) -> String {
        format!(
            "rpc {name}(M) returns (M) {{ option (google.api.http) = {{ {http} }};
             option (tenon.options.v1.policy) = {{ {policy} }}; }}"
        )
    }

    #[test]
    fn each_kind_of_change_is_told_and_judged() {
        let tenant = "access: TENANT";
        let (get, list) = ("get: \"/v1/{a}\"", "get: \"/v1\"");
        let m =
            "message M { string a = 1; N n = 2; E e = 3; repeated string r = 4; } message N { int32 x = 1; N n = 2; }
                 enum E { E0 = 0; E1 = 1; }";
        let old = contract(&(method("Get", get, tenant) + &method("List", list, "access: PUBLIC")), m);
        let lines = |service: &str, messages: &str| {
            {
                let changes = compare(&old, &contract(service, messages));
                changes
                    .into_iter()
                    .map(|c| format!("{} {} {}{}", c.sign, c.what, c.how, if c.is_breaking { " !" } else { "" }))
            }
            .collect::<Vec<_>>()
        };
        let both = method("Get", get, tenant) + &method("List", list, "access: PUBLIC");
        assert!(lines(&both, m).is_empty());
        assert_eq!(lines(&method("Get", get, tenant), m), ["- made.v1.Made.List method removed !"]);
        let stricter =
            method("Get", get, "access: TENANT permission: \"x.y.get\"") + &method("List", "get: \"/v2\"", tenant);
        assert_eq!(
            lines(&stricter, m),
            [
                "+ made.v1.Made.List route GET /v2 added",
                "- made.v1.Made.List route GET /v1 removed !",
                "~ made.v1.Made.Get permission none -> x.y.get !",
                "~ made.v1.Made.List access PUBLIC -> TENANT !",
            ]
        );
        let other = "message M { string b = 1; N n = 2; E e = 3; string r = 4; bool more = 5; }
                     message N { string x = 1; } enum E { E0 = 0; E2 = 2; }";
        let get = method("Get", "get: \"/v1/{b}\"", tenant) + &method("List", list, "access: PUBLIC");
        let lines = lines(&get, other);
        for expected in [
            "+ made.v1.M.more field 5 added",
            "+ made.v1.E2 value added",
            "- made.v1.E1 value removed !",
            "- made.v1.N.n field 2 removed !",
            "~ made.v1.M.a renamed a -> b !",
            "~ made.v1.M.r repeated string -> string !",
            "~ made.v1.N.x int32 -> string !",
            "- made.v1.Made.Get route GET /v1/{a} removed !",
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}\n{}", lines.join("\n"));
        }
    }
}
