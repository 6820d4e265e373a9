//! The whole mesh, as its users see it: real processes on real Postgres, Redis and NATS.
#![expect(unreachable_pub, reason = "a test binary has no outside; pub marks what tests take from the harness")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

mod activities;
mod api_keys;
mod approvals;
mod bad_input;
mod bad_values;
mod cancelled;
mod connectors;
mod crash;
mod deploy;
mod dev;
mod doctor;
mod domains;
mod edge_command;
mod events;
mod every_method;
mod every_table;
mod identity;
mod limits;
mod migrate;
mod own_service;
mod peers;
mod protocols;
mod purges;
mod quotas;
mod readme;
mod runs;

mod secrets_unseen;
mod serve;
mod simulate;
mod tidy;
mod triggers;
mod upstreams;
mod walk;
mod workers;
