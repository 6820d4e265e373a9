//! `tenon postgres`: a throw-away Postgres and nothing else, shared by the processes of one test run.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{account::Account, cluster::Cluster, folder::Folder, secrets::Secrets, secrets::write_private};
use crate::serve;

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A Postgres that lives as long as somebody needs it.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Write {"url": ...} to this file once it answers
    #[arg(long)]
    ready_file: PathBuf,
    /// Whoever needs it holds a shared lock on this file
    #[arg(long)]
    while_locked: PathBuf,
    /// Seconds without anybody until it ends
    #[arg(long, default_value_t = 10)]
    idle_s: u64,
}

/// Starts it and waits until nobody has needed it for a while.
pub(crate) async fn run(settings: Settings) -> Result<()> {
    let stop = CancellationToken::new();
    serve::on_signal(stop.clone())?;
    let account = Account::for_postgres()?;
    let folder = Folder::temporary(account.as_ref())?;
    let secrets = Secrets::load_or_create(&folder.path("secrets.toml"), &mut rand::rng())?;
    let users = File::open(&settings.while_locked).context("--while-locked")?;
    let cluster = Cluster::start(&folder, account, &secrets.database_password).await?;
    let url = cluster.owner_url(&secrets.database_password);
    write_private(&settings.ready_file, &json!({ "url": url }).to_string())?;
    stop.run_until_cancelled(unused(&users, Duration::from_secs(settings.idle_s))).await;
    // The lock is ours from here on: who comes now waits for our end, finds no file, and starts anew.
    let _not_there = fs::remove_file(&settings.ready_file);
    cluster.stop().await
}

/// Returns with the lock held when nobody had it for this long.
async fn unused(users: &File, idle: Duration) {
    let mut last_used = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if users.try_lock().is_err() {
            last_used = Instant::now();
        } else if last_used.elapsed() >= idle {
            return;
        } else {
            let _cannot_fail = users.unlock();
        }
    }
}
