//! The edge: HTTP/JSON in, gRPC out, driven by descriptors; it names no service.

pub mod template;

pub mod routes;

pub mod transcode;

pub mod errors;

#[cfg(test)]
mod testing;
