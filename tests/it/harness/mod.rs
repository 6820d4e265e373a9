//! Starts what tests need and ends all of it, however a test ends.
//!
//! `Mesh::start(Backends::Embedded)` is what most tests want: the whole mesh in one process on a database of its own.

mod binary;
mod mesh;
mod ports;
mod postgres;
mod process;
mod servers;
mod tenant;

pub use binary::tenon;
pub use mesh::{Backends, Mesh, OPERATOR_KEY, PARTS, answer};
pub use ports::Ports;
pub use postgres::Database;
pub use process::{Process, eventually};
pub use tenant::Tenant;
