//! The whole mesh, as its users see it: real processes on real Postgres, Redis and NATS.
#![expect(unreachable_pub, reason = "a test binary has no outside; pub marks what tests take from the harness")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

mod crash;
mod deploy;
mod dev;
mod events;
mod every_table;
mod migrate;
mod runs;
mod tidy;
mod walk;
