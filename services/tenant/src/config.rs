//! What the tenant service is told.

use clap::Args;
use tenon_chassis::secret::Secret;

/// The settings of the tenant service.
#[derive(Debug, Clone, Args)]
#[group(skip)]
#[command(next_help_heading = "Tenant")]
pub struct Config {
    /// The password of the database roles tenon_tenant and tenon_tenant_system
    #[arg(long, env = "TENON_TENANT_DB_PASSWORD", hide_env_values = true)]
    pub tenant_db_password: Secret,
    /// The regions that a tenant may choose; the first is what an empty choice means
    #[arg(long, env = "TENON_REGIONS", value_delimiter = ',', default_value = "global,eu,us")]
    pub regions: Vec<String>,
}
