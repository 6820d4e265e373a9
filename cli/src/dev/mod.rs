//! `tenon dev`.
pub mod account;
pub mod binaries;
pub mod cluster;
pub mod folder;
mod initdb;
mod orphan;
pub mod ports;
mod ready;
pub mod secrets;
pub async fn spike(ephemeral: bool) -> anyhow::Result<()> {
    let t = std::time::Instant::now();
    let account = account::Account::for_postgres()?;
    let folder = if ephemeral {
        folder::Folder::temporary(account.as_ref())?
    } else {
        folder::Folder::open(std::path::Path::new(".tenon"))?
    };
    let secrets = secrets::Secrets::load_or_create(&folder.path("secrets.toml"), &mut rand::rng())?;
    let cluster = cluster::Cluster::start(&folder, account, &secrets.database_password).await?;
    crate::migrate::store::create_database(&cluster.owner_url(&secrets.database_password)).await?;
    println!("{cluster:?} {:?}", t.elapsed());
    tokio::signal::ctrl_c().await?;
    cluster.stop().await
}
