//! PauseService.

use tenon_chassis::{Caller, Fault, clock::timestamp, paging::Page};
use tenon_proto::workflow::v1::{
    CreatePauseRequest, DeletePauseRequest, DeletePauseResponse, ListPausesRequest, ListPausesResponse, Pause,
    pause_service_server::PauseService,
};
use tonic::{Request, Response, Status};

use super::{Pauses, model, store};
use crate::{error::Error, runs::rpc::starter, workflows};

/// Characters of a reason.
const REASON_MAX: usize = 500;

#[tonic::async_trait]
impl PauseService for Pauses {
    async fn create_pause(&self, request: Request<CreatePauseRequest>) -> Result<Response<Pause>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        if request.reason.chars().count() > REASON_MAX || request.reason.chars().any(char::is_control) {
            return Err(Fault::invalid("reason", "must have at most 500 characters and none that control").into());
        }
        let workflow_id = match request.workflow.as_str() {
            "" => "",
            name => workflows::model::id_of(name).ok_or(Error::WorkflowNotFound)?,
        };

        let mut tx = self.db.begin(&caller).await?;
        if !workflow_id.is_empty() {
            workflows::store::get(&mut tx, workflow_id, None).await?.ok_or(Error::WorkflowNotFound)?;
        }
        let pause = store::insert(&mut tx, workflow_id, (&starter(&caller), &request.reason)).await?;
        store::hold_runs(&mut tx, workflow_id).await?;
        let response = tx.reply(pause.into()).await?;
        self.waker.wake();
        Ok(response)
    }

    async fn list_pauses(&self, request: Request<ListPausesRequest>) -> Result<Response<ListPausesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let page = Page::<String>::parse(request.page_size, &request.page_token)?;

        let mut tx = self.db.begin(&caller).await?;
        let rows = store::list(&mut tx, page.after.as_deref(), page.fetch()).await?;
        let (rows, next_page_token) = page.cut(rows, |row| row.workflow_id.clone());
        let pauses = rows.into_iter().map(Into::into).collect();
        Ok(tx.reply(ListPausesResponse { pauses, next_page_token }).await?)
    }

    async fn delete_pause(
        &self,
        request: Request<DeletePauseRequest>,
    ) -> Result<Response<DeletePauseResponse>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let workflow_id = model::id_of(&name).ok_or(Error::PauseNotFound)?;

        let mut tx = self.db.begin(&caller).await?;
        if !store::delete(&mut tx, workflow_id).await? {
            return Err(Error::PauseNotFound.into());
        }
        store::release_runs(&mut tx, workflow_id).await?;
        let response = tx.reply(DeletePauseResponse {}).await?;
        self.waker.wake();
        Ok(response)
    }
}

impl From<model::Pause> for Pause {
    fn from(row: model::Pause) -> Self {
        let workflow =
            if row.workflow_id.is_empty() { String::new() } else { format!("workflows/{}", row.workflow_id) };
        Self {
            name: model::name_of(&row.workflow_id),
            workflow,
            reason: row.reason,
            paused_by: row.paused_by,
            create_time: Some(timestamp(row.created_at)),
        }
    }
}
