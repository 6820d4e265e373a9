//! The trace page of `tenon dev`: an OTLP receiver, the newest traces in memory, and a page that draws them.

mod jaeger;
mod page;
mod receiver;
mod store;

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result};
use tokio::{net::TcpListener, sync::Mutex};
use tokio_util::sync::CancellationToken;

use store::Store;

/// A receiver and a page that are ready to serve.
pub(crate) struct TracePage {
    page: TcpListener,
    receiver: TcpListener,
    store: Arc<Mutex<Store>>,
}

impl TracePage {
    /// Takes the page's port, and any free loopback port for the receiver.
    pub(crate) async fn bind(bind: IpAddr, port: u16) -> Result<Self> {
        let page = TcpListener::bind((bind, port)).await.with_context(|| format!("cannot listen on port {port}"))?;
        let receiver = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        Ok(Self { page, receiver, store: Arc::default() })
    }

    /// Where the mesh sends its spans.
    pub(crate) fn otlp_endpoint(&self) -> Result<String> {
        Ok(format!("http://{}", self.receiver.local_addr()?))
    }

    /// Serves both until told to stop.
    pub(crate) async fn serve(self, stop: CancellationToken) -> Result<()> {
        let page = axum::serve(self.page, page::router(self.store.clone()));
        let page = page.with_graceful_shutdown(stop.clone().cancelled_owned());
        let receiver = receiver::serve(self.receiver, self.store, stop);
        tokio::try_join!(async { page.await.context("trace page") }, receiver)?;
        Ok(())
    }
}
