//! The edge in front of a service that answers with what it was asked.

mod edge;
mod hostile;
mod house;
mod pages;
mod protocols;
mod resilience;
mod shop;
mod speak;
mod streams;
mod talker;
mod tls;
mod upstreams;
