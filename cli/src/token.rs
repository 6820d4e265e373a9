//! `tenon token`: mints a token of the mesh, for grpcurl against a service's own port.

use anyhow::{Result, bail};
use clap::Args;
use tenon_chassis::{Clock, TenantId, config::Config, secret::Key, token::MeshKey};

/// Whose token, for what.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// The service that is called: auth, tenant, billing or workflow
    service: String,
    /// The tenant to act for, ten_...; without it only methods that need no tenant answer
    #[arg(long)]
    tenant: Option<String>,
    /// A role to act with, like admin; may be given several times
    #[arg(long = "role")]
    roles: Vec<String>,
    /// Who calls: the token's subject is svc:NAME
    #[arg(long = "as", default_value = "cli")]
    caller: String,
    /// The key of the mesh: 32 bytes in base64; that of `tenon dev` is in .tenon/secrets.toml
    #[arg(long, env = "TENON_MESH_KEY", hide_env_values = true)]
    mesh_key: Key,
}

/// A token that lives for 60 seconds.
pub(crate) fn mint(settings: &Settings) -> Result<String> {
    if !Config::SERVICES.contains(&settings.service.as_str()) {
        bail!("no service is named {}; one of {}", settings.service, Config::SERVICES.join(", "));
    }
    let tenant = settings.tenant.as_deref().map(str::parse::<TenantId>).transpose();
    let tenant = tenant.map_err(|error| anyhow::anyhow!("--tenant {error}"))?;
    let key = MeshKey::new(&settings.mesh_key, Clock::default());
    Ok(key.mint(&settings.caller, &settings.service, tenant, &settings.roles).to_string())
}
