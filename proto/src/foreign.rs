//! Contracts that are not the mesh's own: descriptor sets of the services that others bring.

use std::collections::{BTreeSet, HashMap, HashSet};

use prost::{Message, bytes::Bytes};
use prost_reflect::DescriptorPool;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto};

use crate::{
    options::v1::policy::Access,
    policy::{Contract, Effect},
};

/// Services that every gRPC server may carry; they are of no use to clients of the edge.
const ALWAYS: &str = "grpc.";
/// The folder of the options that are read here: its files are always ours.
const OPTIONS: &str = "tenon/options/";
/// Characters of a meter.
const MAX_METER: usize = 64;

/// The protos that a contract of others imports, by the name that it imports them by.
pub const SOURCES: [(&str, &str); 4] = [
    ("google/api/annotations.proto", include_str!("../google/api/annotations.proto")),
    ("google/api/http.proto", include_str!("../google/api/http.proto")),
    ("google/api/httpbody.proto", include_str!("../google/api/httpbody.proto")),
    ("tenon/options/v1/policy.proto", include_str!("../tenon/options/v1/policy.proto")),
];

/// What stands beside a descriptor set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// Who may call methods that don't say so themselves.
    pub default_access: Option<Access>,
    /// The full names of the services that are taken; `None` takes all.
    pub services: Option<Vec<String>>,
    /// Role, and the permissions that it grants here beside what roles always grant; `crm.contacts.*` is all that begin so.
    pub grants: Vec<(String, String)>,
}

/// A FileDescriptorSet whose files are left as they are: prost's own types drop custom options.
#[derive(Clone, PartialEq, Message)]
struct Files {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

/// Puts files that came one by one (from server reflection) together as a FileDescriptorSet.
#[must_use]
pub fn set_of(files: Vec<Bytes>) -> Vec<u8> {
    Files { file: files }.encode_to_vec()
}

/// The names of the files that a serialised FileDescriptorProto imports, and its own.
///
/// # Errors
/// When it is none.
pub fn imports(file: &[u8]) -> Result<(String, Vec<String>), String> {
    let file = FileDescriptorProto::decode(file).map_err(|why| why.to_string())?;
    Ok((file.name().to_owned(), file.dependency))
}

/// Reads the descriptor set of a service that is not of the mesh.
///
/// Files that the set lacks are added when they are ours or the well-known types; the files of `tenon/options` are
/// always ours, and a copy that says something else is refused.
///
/// # Errors
/// What cannot be served, and what to write instead.
pub fn load(set: &[u8], rules: &Rules) -> Result<Contract, String> {
    let set = complete(set)?;
    let pool = DescriptorPool::decode(set.as_slice()).map_err(|why| format!("the descriptors don't fit: {why}"))?;
    let known: BTreeSet<_> = pool.services().map(|service| service.full_name().to_owned()).collect();
    let known: Vec<_> = known.into_iter().filter(|name| !name.starts_with(ALWAYS)).collect();
    if let Some(unknown) = rules.services.iter().flatten().find(|name| !known.contains(name)) {
        return Err(format!(
            "services names {unknown:?}, which the descriptors don't have; they have: {}",
            known.join(", ")
        ));
    }
    let taken = |name: &str| match &rules.services {
        Some(wanted) => wanted.iter().any(|wanted| wanted == name),
        None => !name.starts_with(ALWAYS),
    };
    if known.is_empty() {
        return Err("the descriptors have no service".to_owned());
    }
    let mut contract = Contract::of(pool, taken, rules.default_access).map_err(|undeclared| {
        format!(
            "{} without option (tenon.options.v1.policy).access: {}. Write in the proto\n    import \"tenon/options/v1/policy.proto\";\n    option (tenon.options.v1.policy) = {{ access: TENANT }};\nin the method, or default_access = \"TENANT\" (or \"PUBLIC\") in the upstream's entry",
            if undeclared.len() == 1 { "a method" } else { "methods" },
            undeclared.join(", ")
        )
    })?;
    contract.grant(&rules.grants);
    check(&contract)?;
    Ok(contract)
}

/// Refuses what would not do what it says.
fn check(contract: &Contract) -> Result<(), String> {
    let mut methods: Vec<_> = contract.methods().collect();
    methods.sort_by(|a, b| a.path.cmp(&b.path));
    for method in methods {
        let name = method.descriptor.full_name();
        let asks = [
            ("permission", method.permission.is_some()),
            ("step_up", method.step_up),
            ("feature", method.feature.is_some()),
        ];
        if let (Access::Public, Some((what, _))) = (method.access, asks.iter().find(|(_, is_set)| *is_set)) {
            return Err(format!("{name} is PUBLIC and asks for a {what}: nobody signs in there; use access: TENANT"));
        }
        if let Some(meter) = &method.meter {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            if meter.len() > MAX_METER || !meter.bytes().all(plain) {
                return Err(format!("{name}: meter {meter:?} must be 1 to {MAX_METER} of a-z, 0-9 and _"));
            }
            if method.access != Access::Tenant {
                return Err(format!("{name} has a meter and no tenant to count for: use access: TENANT"));
            }
            if method.effect == Effect::None {
                return Err(format!(
                    "{name} has a meter and idempotency_level NO_SIDE_EFFECTS, which is never metered"
                ));
            }
        }
    }
    Ok(())
}

/// The set with what it imports.
fn complete(set: &[u8]) -> Result<Vec<u8>, String> {
    let sent = Files::decode(set).map_err(|why| format!("no FileDescriptorSet: {why}"))?;
    let ours = ours();
    let (mut files, mut names, mut wanted) = (Vec::new(), HashSet::new(), Vec::new());
    for bytes in sent.file {
        let file = FileDescriptorProto::decode(bytes.clone()).map_err(|why| format!("no FileDescriptorSet: {why}"))?;
        let name = file.name().to_owned();
        if name.is_empty() || !names.insert(name.clone()) {
            return Err(format!("no FileDescriptorSet: the file {name:?} stands in it twice"));
        }
        if !name.starts_with(OPTIONS) {
            wanted.extend(file.dependency.into_iter().map(|dependency| (dependency, name.clone())));
            files.push(bytes);
            continue;
        }
        let Some(own) = ours.get(&name) else { return Err(format!("{name} is none of this version's options")) };
        let own_file = FileDescriptorProto::decode(own.clone()).expect("the embedded set was read before");
        differs(&file, &own_file).map_or(Ok(()), |what| {
            Err(format!("its copy of {name} is another than this version's ({what}): compile against what `tenon edge protos` writes"))
        })?;
        wanted.extend(own_file.dependency.into_iter().map(|dependency| (dependency, name.clone())));
        files.push(own.clone());
    }
    if files.is_empty() {
        return Err("the FileDescriptorSet is empty".to_owned());
    }
    while let Some((name, by)) = wanted.pop() {
        if names.contains(&name) {
            continue;
        }
        let Some(bytes) = ours.get(&name) else {
            return Err(format!(
                "{by} imports {name}, which the set does not have: build it with `protoc --include_imports` or `buf build`"
            ));
        };
        let file = FileDescriptorProto::decode(bytes.clone()).expect("the embedded set was read before");
        wanted.extend(file.dependency.into_iter().map(|dependency| (dependency, name.clone())));
        files.push(bytes.clone());
        names.insert(name);
    }
    Ok(set_of(files))
}

/// Our own files and the well-known types, by name.
fn ours() -> HashMap<String, Bytes> {
    let embedded =
        Files::decode(crate::DESCRIPTOR_SET).expect("the embedded descriptor set was checked by a test").file;
    let name = |bytes: &Bytes| FileDescriptorProto::decode(bytes.clone()).unwrap_or_default().name().to_owned();
    let well_known = DescriptorPool::global();
    let well_known = well_known.files().map(|file| (file.name().to_owned(), file.encode_to_vec().into()));
    well_known.chain(embedded.into_iter().map(|bytes| (name(&bytes), bytes))).collect()
}

/// The first thing that one file says and the other does not; an older copy that says less is no other.
fn differs(theirs: &FileDescriptorProto, ours: &FileDescriptorProto) -> Option<String> {
    if theirs.package() != ours.package() {
        return Some(format!("package {}", theirs.package()));
    }
    let messages = theirs.message_type.iter().find_map(|message| {
        let own = ours.message_type.iter().find(|own| own.name() == message.name());
        own.map_or_else(|| Some(format!("message {}", message.name())), |own| message_differs(message, own))
    });
    let extensions = || theirs.extension.iter().find_map(|field| field_differs(field, &ours.extension));
    messages.or_else(extensions).or_else(|| enums_differ(&theirs.enum_type, &ours.enum_type))
}

fn message_differs(theirs: &DescriptorProto, ours: &DescriptorProto) -> Option<String> {
    let fields = theirs.field.iter().find_map(|field| field_differs(field, &ours.field));
    let nested = || {
        theirs.nested_type.iter().find_map(|message| {
            let own = ours.nested_type.iter().find(|own| own.name() == message.name());
            own.map_or_else(|| Some(format!("message {}", message.name())), |own| message_differs(message, own))
        })
    };
    fields.or_else(nested).or_else(|| enums_differ(&theirs.enum_type, &ours.enum_type))
}

fn field_differs(theirs: &FieldDescriptorProto, ours: &[FieldDescriptorProto]) -> Option<String> {
    let same = |own: &FieldDescriptorProto| {
        own.name() == theirs.name()
            && own.number() == theirs.number()
            && own.r#type() == theirs.r#type()
            && own.label() == theirs.label()
            && own.type_name() == theirs.type_name()
    };
    (!ours.iter().any(same)).then(|| format!("field {} = {}", theirs.name(), theirs.number()))
}

fn enums_differ(theirs: &[EnumDescriptorProto], ours: &[EnumDescriptorProto]) -> Option<String> {
    theirs.iter().find_map(|theirs| {
        let own = ours.iter().find(|own| own.name() == theirs.name());
        let known = |name: &str, number| {
            own.is_some_and(|own| own.value.iter().any(|value| value.name() == name && value.number() == number))
        };
        let value = theirs.value.iter().find(|value| !known(value.name(), value.number()))?;
        Some(format!("{} = {}", value.name(), value.number()))
    })
}

#[cfg(test)]
mod tests {
    use prost_types::{FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto, field_descriptor_proto::Type};

    use super::*;

    /// `shop.v1.Shop/Buy`, without a policy.
    fn shop(dependency: &[&str]) -> FileDescriptorProto {
        let message = DescriptorProto { name: Some("Order".to_owned()), ..DescriptorProto::default() };
        let order = Some(".shop.v1.Order".to_owned());
        let buy = MethodDescriptorProto {
            name: Some("Buy".to_owned()),
            input_type: order.clone(),
            output_type: order,
            ..MethodDescriptorProto::default()
        };
        FileDescriptorProto {
            name: Some("shop.proto".to_owned()),
            package: Some("shop.v1".to_owned()),
            syntax: Some("proto3".to_owned()),
            dependency: dependency.iter().map(|&name| name.to_owned()).collect(),
            message_type: vec![message],
            service: vec![ServiceDescriptorProto { name: Some("Shop".to_owned()), method: vec![buy], options: None }],
            ..FileDescriptorProto::default()
        }
    }

    fn policy() -> FileDescriptorProto {
        FileDescriptorProto::decode(ours()["tenon/options/v1/policy.proto"].clone()).unwrap()
    }

    fn read(file: Vec<FileDescriptorProto>, rules: &Rules) -> Result<Contract, String> {
        load(&FileDescriptorSet { file }.encode_to_vec(), rules)
    }

    fn open() -> Rules {
        Rules { default_access: Some(Access::Tenant), ..Rules::default() }
    }

    #[test]
    fn a_method_without_a_policy_needs_a_default() {
        let why = read(vec![shop(&[])], &Rules::default()).unwrap_err();
        assert!(why.contains("shop.v1.Shop.Buy") && why.contains("default_access"), "{why}");
        let contract = read(vec![shop(&[])], &open()).unwrap();
        assert_eq!(contract.method("/shop.v1.Shop/Buy").unwrap().access, Access::Tenant);
    }

    #[test]
    fn what_we_know_is_added_and_what_nobody_knows_is_named() {
        let known =
            ["google/api/annotations.proto", "tenon/options/v1/policy.proto", "google/protobuf/timestamp.proto"];
        read(vec![shop(&known)], &open()).unwrap();
        let why = read(vec![shop(&["money.proto"])], &open()).unwrap_err();
        assert!(why.contains("shop.proto imports money.proto") && why.contains("--include_imports"), "{why}");
    }

    #[test]
    fn an_older_copy_of_the_options_is_taken_and_another_one_is_not() {
        let with = |change: &dyn Fn(&mut FileDescriptorProto)| {
            let mut policy = policy();
            change(&mut policy);
            read(vec![policy, shop(&["tenon/options/v1/policy.proto"])], &open())
        };
        with(&|_| {}).unwrap();
        // Before `timeout_ms` there were eight fields.
        with(&|policy| drop(policy.message_type[0].field.pop())).unwrap();
        let why = with(&|policy| policy.message_type[0].field[0].number = Some(19)).unwrap_err();
        assert!(why.contains("another than this version's (field access = 19)"), "{why}");
        let why = with(&|policy| policy.message_type[0].field[1].set_type(Type::Bytes)).unwrap_err();
        assert!(why.contains("field permission = 2"), "{why}");
        let why = with(&|policy| policy.message_type[0].enum_type[0].value[1].number = Some(2)).unwrap_err();
        assert!(why.contains("PUBLIC = 2"), "a set that says PUBLIC and is read as TENANT: {why}");
        let why = with(&|policy| policy.extension[0].number = Some(50_502)).unwrap_err();
        assert!(why.contains("field policy = 50502"), "{why}");
    }

    #[test]
    fn services_are_narrowed_and_roles_granted() {
        let rules = |services: &[&str]| Rules {
            services: Some(services.iter().map(|&name| name.to_owned()).collect()),
            ..open()
        };
        assert_eq!(read(vec![shop(&[])], &rules(&[])).unwrap().methods().count(), 0);
        assert_eq!(read(vec![shop(&[])], &rules(&["shop.v1.Shop"])).unwrap().methods().count(), 1);
        assert!(read(vec![shop(&[])], &rules(&["shop.v1.Nope"])).unwrap_err().contains("they have: shop.v1.Shop"));
        let mut contract = Contract::embedded();
        contract.grant(&[("member".to_owned(), "billing.usage.*".to_owned())]);
        let granted = |path: &str| contract.method(path).unwrap().is_granted_to(&["member".to_owned()]);
        assert!(granted("/tenon.billing.v1.UsageService/IngestUsage"));
        assert!(!granted("/tenon.workflow.v1.RunService/CreateRun"));
    }

    #[test]
    fn bytes_that_are_no_set_are_refused() {
        for bad in [&b""[..], b"x", b"\x0a\x02\xff\xff", &[0xff; 64]] {
            assert!(load(bad, &open()).is_err(), "{bad:?}");
        }
    }
}
