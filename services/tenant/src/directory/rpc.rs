//! tenon.tenant.v1.DirectoryService

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt, stream};
use tenon_proto::tenant::v1::{
    DirectoryEntry, LookupTenantRequest, WatchTenantsRequest, WatchTenantsResponse,
    directory_service_server::DirectoryService, lookup_tenant_request::Key, tenant::Status as PbStatus,
};
use tokio_stream::wrappers::{BroadcastStream, IntervalStream};
use tonic::{Request, Response, Status};

use super::{Directory, Entry, News};
use crate::error::Error;

/// Half of the time after which a watcher takes silence for death, and then some.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

#[tonic::async_trait]
impl DirectoryService for Directory {
    async fn lookup_tenant(&self, request: Request<LookupTenantRequest>) -> Result<Response<DirectoryEntry>, Status> {
        let found = match request.into_inner().key {
            Some(Key::Id(id)) => match id.parse() {
                Ok(id) => self.find(Some(id), None, None).await?,
                Err(_) => None,
            },
            Some(Key::Slug(slug)) => self.find(None, Some(&slug), None).await?,
            Some(Key::Host(host)) => self.find(None, None, Some(&host)).await?,
            None => None,
        };
        Ok(Response::new(found.ok_or(Error::TenantNotFound)?.into()))
    }

    type WatchTenantsStream = Pin<Box<dyn Stream<Item = Result<WatchTenantsResponse, Status>> + Send>>;

    async fn watch_tenants(
        &self,
        _: Request<WatchTenantsRequest>,
    ) -> Result<Response<Self::WatchTenantsStream>, Status> {
        let news = BroadcastStream::new(self.news.subscribe()).map(|news| match news {
            Ok(News::Changed(entry)) => {
                Ok(WatchTenantsResponse { id: entry.tenant.id.to_string(), entry: Some((*entry).into()) })
            }
            Ok(News::Forget(id)) => Ok(WatchTenantsResponse { id: id.to_string(), entry: None }),
            Ok(News::Gap) | Err(_) => Err(Status::unavailable("changes may have been missed; watch anew")),
        });
        let signs = IntervalStream::new(tokio::time::interval(SIGN_OF_LIFE));
        let signs = signs.map(|_| Ok(WatchTenantsResponse::default()));
        // Watchers of a process that stops go to another at once.
        let drained = self.draining.clone().cancelled_owned();
        Ok(Response::new(stream::select(news, signs).take_until(drained).boxed()))
    }
}

impl From<Entry> for DirectoryEntry {
    fn from(Entry { tenant, hosts }: Entry) -> Self {
        Self {
            id: tenant.id.to_string(),
            slug: tenant.slug,
            status: PbStatus::from(tenant.status).into(),
            region: tenant.region,
            plan: tenant.plan,
            features: tenant.features,
            limits: tenant.limits.into_iter().collect(),
            version: tenant.version,
            hosts,
        }
    }
}
