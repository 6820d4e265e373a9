//! The edge in front of a service that answers with what it was asked.

mod edge;
mod edge_tls;
mod hostile;
mod house;
mod keys;
mod limits;
mod packed;
mod pages;
mod protocols;
mod redis;
mod resilience;
mod shop;
mod speak;
mod streams;
mod talker;
mod tls;
mod upstreams;
