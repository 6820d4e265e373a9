//! What the auth service is told.

use clap::Args;
use tenon_chassis::secret::Secret;

/// The settings of the auth service.
#[derive(Debug, Clone, Args)]
#[group(skip)]
#[command(next_help_heading = "Auth")]
pub struct Config {
    /// The password of the database roles tenon_auth and tenon_auth_system
    #[arg(long, env = "TENON_AUTH_DB_PASSWORD", hide_env_values = true)]
    pub auth_db_password: Secret,
    /// The `iss` of a tenant's tokens; {slug} and {domain} are filled in
    #[arg(long, env = "TENON_ISSUER", default_value = "https://{slug}.{domain}")]
    pub issuer: String,
    /// Seconds that an access token lives
    #[arg(long, env = "TENON_ACCESS_TOKEN_S", default_value_t = 900, value_parser = clap::value_parser!(u32).range(60..=3600))]
    pub access_token_s: u32,
    /// Seconds that a refresh token and its session live without use
    #[arg(long, env = "TENON_REFRESH_TOKEN_S", default_value_t = 2_592_000, value_parser = clap::value_parser!(u32).range(3600..))]
    pub refresh_token_s: u32,
    /// Days that an API key lives when its maker does not say
    #[arg(long, env = "TENON_API_KEY_DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub api_key_days: u32,
    /// Days that an API key may live at most
    #[arg(long, env = "TENON_API_KEY_MAX_DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub api_key_max_days: u32,
    /// API keys that one tenant may have
    #[arg(long, env = "TENON_API_KEYS", default_value_t = 100)]
    pub api_keys: u32,
    /// Passwords hashed at once: each takes a core for some 16 ms and 19 MiB
    #[arg(long, env = "TENON_HASH_CONCURRENCY", default_value_t = 2)]
    pub hash_concurrency: usize,
    /// Passwords that wait to be hashed; more are told to come back
    #[arg(long, env = "TENON_HASH_QUEUE", default_value_t = 64)]
    pub hash_queue: usize,
}
