//! tenon.auth.v1.ApiKeyService

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use serde_json::json;
use subtle::ConstantTimeEq;
use tenon_chassis::{
    ApiKeyId, Caller, TenantId,
    api_key::ApiKey,
    clock::{time, timestamp},
    paging::Page,
};
use tenon_proto::auth::v1::{
    ApiKey as PbApiKey, CreateApiKeyRequest, DeleteApiKeyRequest, ExchangeApiKeyRequest, ExchangeApiKeyResponse,
    GetApiKeyRequest, ListApiKeysRequest, ListApiKeysResponse, WatchApiKeysRequest, WatchApiKeysResponse,
    api_key_service_server::ApiKeyService,
};
use tokio_stream::wrappers::{BroadcastStream, IntervalStream};
use tonic::{Request, Response, Status};

use super::{
    ApiKeys, News, SIGN_OF_LIFE,
    model::{Row, check_name, check_rights, check_within},
    store,
};
use crate::error::Error;

#[tonic::async_trait]
impl ApiKeyService for ApiKeys {
    async fn create_api_key(&self, request: Request<CreateApiKeyRequest>) -> Result<Response<PbApiKey>, Status> {
        // An answer that holds a secret is never stored.
        let caller = Caller { idempotency: None, ..Caller::of(&request)? };
        let (user, _) = caller.user()?;
        let CreateApiKeyRequest { display_name, roles, permissions, expire_time } = request.into_inner();
        let display_name = check_name(&display_name)?;
        let rights = check_rights(&roles, &permissions, &self.contract)?;
        let asked = expire_time.map(|at| time("expire_time", at)).transpose()?;
        let now = self.db.clock().now();
        let expires_at = self.terms.expiry(now, asked)?;
        check_within(&caller.roles, &rights)?;

        let mut tx = self.db.begin(&caller).await?;
        let (id, created_by) = (ApiKeyId::new(tx.clock()), user);
        let row = Row { id, display_name, roles: rights, created_by, created_at: now, expires_at, last_used_at: None };
        let key = ApiKey::generate(tx.tenant(), id);
        store::insert(&mut tx, &row, &key.hash(), self.terms.most).await?;
        let data = json!({ "created_by": user.to_string(), "roles": row.roles, "expire_time": row.expires_at });
        tx.emit("tenon.auth.api_key.created.v1", format!("api-keys/{id}"), data);
        Ok(tx.reply(PbApiKey { secret: key.to_text(), ..row.into() }).await?)
    }

    async fn get_api_key(&self, request: Request<GetApiKeyRequest>) -> Result<Response<PbApiKey>, Status> {
        let caller = Caller::of(&request)?;
        let id = parse_name(&request.get_ref().name)?;
        let mut tx = self.db.begin(&caller).await?;
        let row = store::get(&mut tx, id).await?;
        Ok(tx.reply(row.into()).await?)
    }

    async fn list_api_keys(
        &self,
        request: Request<ListApiKeysRequest>,
    ) -> Result<Response<ListApiKeysResponse>, Status> {
        let caller = Caller::of(&request)?;
        let page = Page::parse(request.get_ref().page_size, &request.get_ref().page_token)?;
        let mut tx = self.db.begin(&caller).await?;
        let rows = store::list(&mut tx, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |row| row.id.uuid());
        let api_keys = rows.into_iter().map(PbApiKey::from).collect();
        Ok(tx.reply(ListApiKeysResponse { api_keys, next_page_token }).await?)
    }

    async fn delete_api_key(&self, request: Request<DeleteApiKeyRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let id = parse_name(&request.get_ref().name)?;
        let mut tx = self.db.begin(&caller).await?;
        store::delete(&mut tx, id).await?;
        tx.emit("tenon.auth.api_key.revoked.v1", format!("api-keys/{id}"), json!({}));
        Ok(tx.reply(()).await?)
    }

    async fn exchange_api_key(
        &self,
        request: Request<ExchangeApiKeyRequest>,
    ) -> Result<Response<ExchangeApiKeyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let ExchangeApiKeyRequest { tenant, api_key, secret_hash } = request.into_inner();
        let invalid = |_| Error::ApiKeyInvalid;
        let (tenant, id): (TenantId, ApiKeyId) = (tenant.parse().map_err(invalid)?, api_key.parse().map_err(invalid)?);
        let caller = caller.acting_for(tenant).map_err(|_| Error::ApiKeyInvalid)?;

        let mut tx = self.db.begin(&caller).await?;
        let now = tx.clock().now();
        let held = store::get_held(&mut tx, id, now).await?.ok_or(Error::ApiKeyInvalid)?;
        if !bool::from(held.hash.as_slice().ct_eq(&secret_hash)) {
            return Err(Error::ApiKeyInvalid.into());
        }
        store::update_used(&mut tx, id, now).await?;
        tx.commit().await?;
        let entry = self.directory.by_id(tenant).await?;
        let claims = self.terms.claims(now, &entry, id, &held);
        let access_token = self.keys.signer(&caller, tenant).await?.sign(&claims)?;
        let expire_time = chrono::DateTime::from_timestamp(claims.exp, 0).map(timestamp);
        Ok(Response::new(ExchangeApiKeyResponse { access_token, expire_time }))
    }

    type WatchApiKeysStream = Pin<Box<dyn Stream<Item = Result<WatchApiKeysResponse, Status>> + Send>>;

    async fn watch_api_keys(
        &self,
        _: Request<WatchApiKeysRequest>,
    ) -> Result<Response<Self::WatchApiKeysStream>, Status> {
        let news = BroadcastStream::new(self.news.subscribe()).map(|news| match news {
            Ok(News::Revoked(id)) => Ok(WatchApiKeysResponse { api_key: id.to_string() }),
            Ok(News::Gap) | Err(_) => Err(Status::unavailable("revocations may have been missed; watch anew")),
        });
        let signs = IntervalStream::new(tokio::time::interval(SIGN_OF_LIFE));
        let signs = signs.map(|_| Ok(WatchApiKeysResponse::default()));
        // Watchers of a process that stops go to another at once.
        let drained = self.draining.clone().cancelled_owned();
        Ok(Response::new(stream::select(news, signs).take_until(drained).boxed()))
    }
}

fn parse_name(name: &str) -> Result<ApiKeyId, Error> {
    name.strip_prefix("api-keys/").and_then(|id| id.parse().ok()).ok_or(Error::ApiKeyNotFound)
}

impl From<Row> for PbApiKey {
    fn from(row: Row) -> Self {
        let (permissions, roles) = row.roles.into_iter().partition(|right| right.contains('.'));
        Self {
            name: format!("api-keys/{}", row.id),
            display_name: row.display_name,
            roles,
            permissions,
            created_by: format!("users/{}", row.created_by),
            create_time: Some(timestamp(row.created_at)),
            expire_time: Some(timestamp(row.expires_at)),
            last_use_time: row.last_used_at.map(timestamp),
            secret: String::new(),
        }
    }
}
