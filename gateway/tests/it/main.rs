//! The edge in front of a service that answers with what it was asked.

mod edge;
mod house;
mod resilience;
mod shop;
mod upstreams;
mod protocols;
mod speak;
mod streams;
mod talker;
