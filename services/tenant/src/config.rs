//! What the tenant service is told.

use clap::Args;
use tenon_chassis::secret::Secret;

use crate::dns::Server;

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
    /// DNS servers that are asked whether a domain is its tenant's, separated by commas: 10.0.0.53, 10.0.0.54:5353; without
    /// them those of the system
    #[arg(long, env = "TENON_DNS_SERVERS", value_delimiter = ',')]
    pub dns_servers: Vec<Server>,
    /// Domains that one tenant may claim
    #[arg(long, env = "TENON_DOMAINS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(..=1_000))]
    pub domains: u32,
    /// Seconds after which the record of a verified domain is looked at again
    #[arg(long, env = "TENON_DOMAIN_CHECK_S", default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(1..))]
    pub domain_check_s: u32,
    /// Seconds that a verified domain is still served while its record is missing
    #[arg(long, env = "TENON_DOMAIN_GRACE_S", default_value_t = 259_200)]
    pub domain_grace_s: u32,
}
