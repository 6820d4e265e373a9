//! Starts what tests need and ends all of it, however a test ends.
//!
//! `Mesh::start(Backends::Embedded)` is what most tests want: the whole mesh in one process on a database of its own.

mod binary;
mod dev;
mod edge;
mod mesh;
mod ports;
mod postgres;
mod process;
mod servers;

pub use binary::tenon;
pub use dev::{Dev, port_flags};
pub use edge::{Edge, Tenant, answer, sign_up, text};
pub use mesh::{Backends, Mesh, PARTS};
pub use ports::Ports;
pub use postgres::Database;
pub use process::{Process, eventually};
