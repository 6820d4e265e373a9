//! The whole mesh, as its users see it: real processes on real Postgres, Redis and NATS.

mod harness;

mod bad_input;
mod bad_values;
mod cancelled;
mod crash;
mod deploy;
mod dev;
mod every_method;
mod every_table;
mod identity;
mod limits;
mod migrate;
mod tidy;
mod walk;
