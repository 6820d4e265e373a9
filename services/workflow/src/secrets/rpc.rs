//! SecretService.

use tenon_chassis::{Caller, clock::timestamp, paging::Page};
use tenon_proto::workflow::v1::{
    CreateSecretRequest, DeleteSecretRequest, ListSecretsRequest, ListSecretsResponse, Secret, UpdateSecretRequest,
    secret_service_server::SecretService,
};
use tonic::{Request, Response, Status};

use super::{Secrets, model, store};
use crate::error::Error;

#[tonic::async_trait]
impl SecretService for Secrets {
    async fn create_secret(&self, request: Request<CreateSecretRequest>) -> Result<Response<Secret>, Status> {
        let caller = Caller::of(&request)?;
        let tenant = caller.tenant_id()?;
        let request = request.into_inner();
        let name = model::new_id(&request.secret_id)?;
        let value = model::value(&request.value)?;
        let hosts = model::hosts(request.hosts)?;

        let mut tx = self.db.begin(&caller).await?;
        let sealed = self.mesh.sealer.seal(&model::purpose(tenant, name), value.as_bytes());
        let secret = store::insert(&mut tx, name, &sealed, &hosts).await?;
        Ok(tx.reply(secret.into()).await?)
    }

    async fn list_secrets(
        &self,
        request: Request<ListSecretsRequest>,
    ) -> Result<Response<ListSecretsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let page = Page::<String>::parse(request.page_size, &request.page_token)?;

        let mut tx = self.db.begin(&caller).await?;
        let after = page.after.clone().unwrap_or_default();
        let rows = store::list(&mut tx, &after, page.fetch()).await?;
        let (rows, next_page_token) = page.cut(rows, |row| row.name.clone());
        let secrets = rows.into_iter().map(Into::into).collect();
        Ok(tx.reply(ListSecretsResponse { secrets, next_page_token }).await?)
    }

    async fn update_secret(&self, request: Request<UpdateSecretRequest>) -> Result<Response<Secret>, Status> {
        let caller = Caller::of(&request)?;
        let tenant = caller.tenant_id()?;
        let request = request.into_inner();
        let name = model::id_of(&request.name).ok_or(Error::SecretNotFound)?;
        let value = if request.value.is_empty() { None } else { Some(model::value(&request.value)?) };
        let hosts = model::hosts(request.hosts)?;

        let mut tx = self.db.begin(&caller).await?;
        let sealed = value.map(|value| self.mesh.sealer.seal(&model::purpose(tenant, name), value.as_bytes()));
        let hosts = (!hosts.is_empty()).then_some(hosts);
        let secret = store::update(&mut tx, name, sealed.as_deref(), hosts.as_deref()).await?;
        Ok(tx.reply(secret.ok_or(Error::SecretNotFound)?.into()).await?)
    }

    async fn delete_secret(&self, request: Request<DeleteSecretRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let name = model::id_of(&name).ok_or(Error::SecretNotFound)?;

        let mut tx = self.db.begin(&caller).await?;
        if !store::delete(&mut tx, name).await? {
            return Err(Error::SecretNotFound.into());
        }
        Ok(tx.reply(()).await?)
    }
}

impl From<model::Shown> for Secret {
    fn from(row: model::Shown) -> Self {
        Self {
            name: format!("secrets/{}", row.name),
            hosts: row.hosts,
            create_time: Some(timestamp(row.created_at)),
            update_time: Some(timestamp(row.updated_at)),
        }
    }
}
