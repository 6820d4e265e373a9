//! The contract that the unit tests share.

use tenon_proto::policy::Contract;

/// `tests/proto/everything.proto`.
pub(crate) fn contract() -> Contract {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut compiler = protox::Compiler::new([format!("{root}/tests/proto"), format!("{root}/../proto")]).unwrap();
    compiler.include_imports(true).open_file("everything.proto").unwrap();
    Contract::load(&compiler.encode_file_descriptor_set()).unwrap()
}

/// A contract of one service, whose methods are given as `Name(Request) returns (Reply)` with their http rule.
pub(crate) fn contract_of(methods: &[(&str, &str)]) -> Contract {
    let methods: String = methods
        .iter()
        .map(|(name, rule)| {
            format!(
                "rpc {name}(Message) returns (Message) {{ option (google.api.http) = {{ {rule} }};
                 option (tenon.options.v1.policy) = {{ access: PUBLIC }}; }}"
            )
        })
        .collect();
    let source = format!(
        r#"syntax = "proto3"; package made.v1;
        import "google/api/annotations.proto"; import "tenon/options/v1/policy.proto";
        service Made {{ {methods} }}
        message Message {{ string a = 1; string b = 2; Message m = 3; int32 n = 4; repeated string r = 5; }}"#
    );
    let root = env!("CARGO_MANIFEST_DIR");
    let folder = std::env::temp_dir().join(format!("tenon-gateway-{}-{:p}", std::process::id(), &source));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("made.proto"), source).unwrap();
    let mut compiler = protox::Compiler::new([folder.clone(), format!("{root}/../proto").into()]).unwrap();
    compiler.include_imports(true).open_file("made.proto").unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    Contract::load(&compiler.encode_file_descriptor_set()).unwrap()
}
