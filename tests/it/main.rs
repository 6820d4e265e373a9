//! The whole mesh, as its users see it: real processes on real Postgres, Redis and NATS.

mod harness;

mod deploy;
mod dev;
mod every_method;
mod every_table;
mod migrate;
mod tidy;
mod walk;
