//! What `tenon dev` says when everything answers: the banner for people, the ready file for programs.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::secrets::write_private;

/// Where everything is. The ready file is this, as JSON.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ready {
    pub(crate) edge: String,
    pub(crate) auth: String,
    pub(crate) tenant: String,
    pub(crate) billing: String,
    pub(crate) workflow: String,
    pub(crate) admin: String,
    pub(crate) trace: String,
    pub(crate) operator_key: String,
    pub(crate) data_dir: String,
}

impl Ready {
    /// Writes the file, whole or not at all: who sees it can read it. It holds a credential.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        write_private(path, &format!("{text}\n")).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The banner.
    pub(crate) fn banner(&self, took_ms: u128, is_ephemeral: bool) -> String {
        let kept = if is_ephemeral { "a temporary folder, removed at the end" } else { self.data_dir.as_str() };
        let mut text = format!("\n  Tenon is up ({took_ms} ms)\n\n");
        for (name, value) in [
            ("edge", self.edge.as_str()),
            ("trace page", &self.trace),
            ("auth gRPC", address(&self.auth)),
            ("tenant gRPC", address(&self.tenant)),
            ("billing gRPC", address(&self.billing)),
            ("workflow gRPC", address(&self.workflow)),
            ("health, metrics", &self.admin),
            ("data", kept),
        ] {
            writeln!(text, "  {name:<16} {value}").expect("writing to a string cannot fail");
        }
        text + &format!("\n  Sign a company up:\n\n{}\n\n  Ctrl-C stops everything.\n", self.next_command())
    }

    fn next_command(&self) -> String {
        let body = r#"{"tenant":{"displayName":"Acme","slug":"acme","region":"eu"},"admin":{"email":"ada@acme.test","password":"correct horse battery"}}"#;
        format!(
            "    curl -s {}/v1/tenants:onboard -H 'content-type: application/json' \\\n      -d '{body}'",
            self.edge
        )
    }
}

fn address(url: &str) -> &str {
    url.strip_prefix("http://").unwrap_or(url)
}
