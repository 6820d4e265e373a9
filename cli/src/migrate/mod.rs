//! migrate
pub mod store;
