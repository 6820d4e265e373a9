//! What the billing service is told.

use clap::Args;
use tenon_chassis::secret::Secret;

/// The settings of the billing service.
#[derive(Debug, Clone, Args)]
#[group(skip)]
#[command(next_help_heading = "Billing")]
pub struct Config {
    /// The password of the database roles tenon_billing and tenon_billing_system
    #[arg(long, env = "TENON_BILLING_DB_PASSWORD", hide_env_values = true)]
    pub billing_db_password: Secret,
}
