//! The resource `workflows`: published templates, of which a version never changes.

pub mod model;
pub mod rpc;
pub mod store;
