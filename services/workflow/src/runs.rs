//! The resource `runs`: workflows at work, as their callers see them.

pub mod model;
pub mod rpc;
pub mod store;
