//! The edge in front of a service that answers with what it was asked.

mod api_keys;
mod edge;
mod edge_tls;
mod host_tls;
mod hostile;
mod house;
mod keyring;
mod keys;
mod limits;
mod packed;
mod pages;
mod patience;
#[expect(unreachable_pub, reason = "it is a part of the harness of tests/")]
#[path = "../../../tests/it/harness/ports.rs"]
mod ports;
mod protocols;
mod redis;
mod resilience;
mod shop;
mod speak;
mod streams;
mod talker;
mod tls;
mod upstreams;
