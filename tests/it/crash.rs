//! Processes that are really killed, at random points: whatever was acknowledged is there, and every effect is once.

mod database;
mod failpoints;
mod load;
mod owners;
mod program;
mod signups;
mod verifier;
mod writes;

use reqwest::StatusCode;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _, postgres::PgRow};
use tokio::sync::Mutex;

use crate::harness::{Backends, Database, Mesh, eventually, reason};
use load::Load;

/// Engines take over from one that died after this long, so that tests need not wait for the usual three seconds.
const LEASE: (&str, &str) = ("TENON_WORKFLOW_LEASE_MS", "1000");

/// Numbers that look random and are the same in each test run (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// The database as its owner sees it, whatever becomes of the mesh.
struct Eyes {
    database: Database,
    open: Mutex<PgConnection>,
}

impl Eyes {
    async fn open(mesh: &Mesh) -> Self {
        Self { database: mesh.database.clone(), open: Mutex::new(mesh.database.owner().await) }
    }

    /// The one row that a statement returns, also when the server comes back only now.
    async fn row(&self, sql: &str) -> PgRow {
        let mut open = self.open.lock().await;
        match open.fetch_one(AssertSqlSafe(sql)).await {
            Ok(row) => row,
            Err(sqlx::Error::Database(why)) if why.code().is_none_or(|code| !code.starts_with("57P")) => {
                panic!("the owner can read everything: {why}: {sql}")
            }
            Err(_) => {
                *open = eventually("Postgres takes connections", || self.database.try_owner()).await;
                open.fetch_one(AssertSqlSafe(sql)).await.expect("the owner can read everything")
            }
        }
    }

    /// The one number that a statement returns.
    async fn count(&self, sql: &str) -> i64 {
        self.row(sql).await.get(0)
    }

    /// The one text that a statement returns.
    async fn text(&self, sql: &str) -> String {
        self.row(sql).await.get(0)
    }

    /// Changes what no API can.
    async fn change(&self, sql: &str) {
        self.open.lock().await.execute(AssertSqlSafe(sql)).await.expect("the owner can change everything");
    }

    /// Waits until a statement returns at least this.
    async fn reaches(&self, sql: &str, least: i64) {
        let what = format!("at least {least} of: {sql}");
        eventually(&what, || async { (self.count(sql).await >= least).then_some(()) }).await;
    }
}

/// Whether an answer says to ask again: that of a process which is just being killed or started, or that the same request,
/// sent before, is being served still.
fn comes_again(status: StatusCode, answer: &Value) -> bool {
    status.is_server_error() || reason(answer) == "IDEMPOTENCY_IN_FLIGHT"
}

/// Kills one victim after the other, each somewhere in its share of the work, and starts it again.
async fn kill_in_turn(mesh: &mut Mesh, load: &Load, victims: &[&'static str], seed: u64) {
    let mut dice = Dice(seed);
    let share = load.steps() / u64::try_from(victims.len()).expect("a few");
    for (turn, victim) in (0..).zip(victims) {
        load.has_done(turn * share + dice.below(share)).await;
        match *victim {
            "nats" => mesh.restart_backend("nats"),
            "connections" => {
                // Of the services; the owner's, through which we look, stays.
                let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                           where datname = current_database() and usename like 'tenon\\_%'";
                // After the last cut they may still be being made.
                load.eyes().reaches(cut, 1).await;
            }
            process => {
                mesh.kill_9(process);
                mesh.restart(process).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_as_a_whole_it_finishes_every_run_with_each_effect_once() {
    let mut mesh = Mesh::start_with(Backends::Embedded, &[LEASE]).await;
    let load = Load::start(&mesh, "whole", &load::ALL).await;
    kill_in_turn(&mut mesh, &load, &["all", "all", "all"], 1).await;
    load.comes_out_whole(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_part_by_part_it_finishes_every_run_with_each_effect_once() {
    let mut mesh = Mesh::start_separately_with(Backends::Embedded, &[LEASE]).await;
    let load = Load::start(&mesh, "parts", &load::ALL).await;
    kill_in_turn(&mut mesh, &load, &["workflow", "auth", "billing", "workflow", "auth"], 2).await;
    load.comes_out_whole(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_its_broker_it_counts_every_run_once() {
    let mut mesh = Mesh::start_with(Backends::Full, &[LEASE]).await;
    let load = Load::start(&mesh, "broker", &load::ALL).await;
    kill_in_turn(&mut mesh, &load, &["nats", "all", "nats"], 3).await;
    load.comes_out_whole(&mesh).await;
}
