//! Compiles every contract with protox (no protoc needed), keeps the descriptor set, generates prost and tonic code.
use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=tenon");
    println!("cargo:rerun-if-changed=google");
    let mut files = Vec::new();
    for package in ["options", "auth", "tenant", "billing", "workflow"] {
        for entry in fs::read_dir(format!("tenon/{package}/v1"))? {
            files.push(entry?.path());
        }
    }
    files.sort();

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("tenon.binpb"), compiler.encode_file_descriptor_set())?;

    let set = compiler.file_descriptor_set();
    // prost cannot read custom options, so the generated code takes a copy that has gone through its own types.
    let set = prost_types_of(&set.encode_to_vec())?;
    // The modules of ours have no `tenon` above them; HttpBody is written out in lib.rs.
    tonic_prost_build::configure().bytes(".").extern_path(".google.api", "crate::google::api").compile_fds(set)?;
    Ok(())
}

fn prost_types_of<T: Message + Default>(bytes: &[u8]) -> Result<T, prost::DecodeError> {
    T::decode(bytes)
}
