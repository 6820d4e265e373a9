//! Finds the `tenon` binary that is tested: the one that `make test` built, or one that is built now.

use std::{path::PathBuf, process::Command, sync::LazyLock};

static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(path) = std::env::var_os("TENON_BIN") {
        return path.into();
    }
    // target/debug/deps/it-... -> target/debug/tenon
    let test = std::env::current_exe().expect("a running program has a file");
    let folder = test.parent().and_then(|deps| deps.parent()).expect("cargo puts tests in target/debug/deps");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "-p", "tenon"]).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let target = folder.parent().expect("target/debug is in target");
    let status = build.env("CARGO_TARGET_DIR", target).status().expect("cargo can be started");
    assert!(status.success(), "cargo build -p tenon failed; fix it, or set TENON_BIN to a built binary");
    folder.join("tenon")
});

/// A command of the binary that is tested, with no setting of the shell that tests are started from.
pub fn tenon() -> Command {
    let mut command = Command::new(&*BINARY);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TENON_")) {
        command.env_remove(name);
    }
    command.env("RUST_BACKTRACE", "0").current_dir(std::env::temp_dir());
    command
}

/// The file of the binary, for whoever must know which one it is.
pub fn path() -> PathBuf {
    BINARY.clone()
}

/// A command of examples/crm: the one that `make test` built, or one that is built now.
pub fn crm() -> Command {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        if let Some(path) = std::env::var_os("TENON_CRM_BIN") {
            return path.into();
        }
        let test = std::env::current_exe().expect("a running program has a file");
        let folder = test.parent().and_then(|deps| deps.parent()).expect("cargo puts tests in target/debug/deps");
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "-p", "tenon-example-crm"]);
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let status = build.env("CARGO_TARGET_DIR", folder.parent().expect("target/debug is in target")).status();
        assert!(status.expect("cargo can be started").success(), "cargo build -p tenon-example-crm failed");
        folder.join("crm")
    });
    Command::new(&*BUILT)
}
