//! Starts what tests need and ends all of it, however a test ends.
//!
//! `Mesh::start(Backends::Embedded)` is what most tests want: the whole mesh in one process on a database of its own.

mod binary;
mod cluster;
mod contract;
mod dev;
mod dns;
mod edge;
mod forge;
mod mesh;
mod outside;
mod ports;
mod postgres;
mod process;
mod second;
mod servers;
mod wire;

pub use binary::{crm, path, tenon};
pub use cluster::Cluster;
pub use contract::Endpoint;
pub use dev::{Dev, port_flags};
pub use dns::Dns;
pub use edge::{Edge, Tenant, answer, sign_up, text};
pub use forge::{Forge, claims, header, mesh_token};
pub use mesh::{Backends, MESH_KEY, Mesh, PARTS};
pub use outside::Outside;
pub use ports::Ports;
pub use postgres::{Database, EVENTS};
pub use process::{PATIENCE, Process, eventually};
pub use second::{Asked, Second};
pub use wire::{Answer, Headers, Wire, reason};
