//! `tenon health`: asks a process of this machine whether it takes calls; for containers, which have no curl.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Which process to ask.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Where it listens; 0.0.0.0 is asked at 127.0.0.1
    #[arg(long, env = "TENON_BIND", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// The port of its health
    #[arg(long, env = "TENON_ADMIN_PORT", default_value_t = 9100)]
    admin_port: u16,
}

/// Ends well when the process is ready.
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    let host = if settings.bind.is_unspecified() { "127.0.0.1".to_owned() } else { settings.bind.to_string() };
    match ready(&host, settings.admin_port).await? {
        (200, _) => Ok(()),
        (status, body) => bail!("{status}: {}", body.trim()),
    }
}

/// Asks /readyz: the status and the body.
pub(crate) async fn ready(host: &str, port: u16) -> Result<(u16, String)> {
    let asked = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream
            .write_all(format!("GET /readyz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.take(4_096).read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let no_answer = || format!("nothing answers on {host}:{port}; is it started?");
    let answer = timeout(TIMEOUT, asked).await.with_context(no_answer)?.with_context(no_answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).context("not an HTTP answer")?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((status, body))
}
