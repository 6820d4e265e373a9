//! What every process of the mesh shares: one way to be called, to call, to be someone, to keep data and to be seen.
//!
//! In reading order: the small words (`clock`, `id`, `fault`, `secret`, `paging`, `config`), who calls (`api_key`,
//! `token`, `directory`, `caller`, `guard`), what is kept (`db`, `bus`, `pulse`), how calls travel (`server`, `client`, `mesh`),
//! what is seen and bounded (`telemetry`, `limit`), and where tests make it fail (`fail`).

pub mod clock;
pub mod config;
pub mod fault;
pub mod id;
pub mod paging;
pub mod secret;

pub mod api_key;
pub mod caller;
pub mod directory;
pub mod guard;
pub mod token;

pub mod bus;
pub mod db;
pub mod pulse;

pub mod accept;
pub mod client;
pub mod mesh;
pub mod server;

pub mod fail;
pub mod telemetry;

pub use caller::Caller;
pub use clock::Clock;
pub use db::{Db, SystemTx, TenantTx};
pub use fault::Fault;
pub use id::{ApiKeyId, EventId, SessionId, TenantId, UserId};
pub use mesh::Mesh;
