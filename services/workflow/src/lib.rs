//! The workflow service.

pub mod asl;
