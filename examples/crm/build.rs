//! Compiles the proto without protoc, and keeps the descriptors for reflection, with the options of Tenon in them.
use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    // In a repository of your own: what `tenon edge protos --out third_party` wrote.
    let mut compiler = protox::Compiler::new(["proto", "../../proto"])?;
    compiler.include_imports(true).include_source_info(true).open_file("crm.proto")?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("crm.binpb"), compiler.encode_file_descriptor_set())?;
    let set = compiler.file_descriptor_set().encode_to_vec();
    tonic_prost_build::configure().build_client(false).compile_fds(Message::decode(set.as_slice())?)?;
    Ok(())
}
