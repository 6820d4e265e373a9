//! WorkflowService.

use tenon_chassis::{Caller, Fault, clock::timestamp, paging::Page};
use tenon_proto::workflow::v1::{
    CreateWorkflowRequest, GetWorkflowRequest, ListWorkflowsRequest, ListWorkflowsResponse, Workflow,
    workflow_service_server::WorkflowService,
};
use tonic::{Request, Response, Status};

use super::{Workflows, model, store};
use crate::{asl, error::Error, json, tasks};

#[tonic::async_trait]
impl WorkflowService for Workflows {
    async fn create_workflow(&self, request: Request<CreateWorkflowRequest>) -> Result<Response<Workflow>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let workflow_id = model::new_id(&request.workflow_id)?;
        let definition = request.definition.map(json::from_struct);
        let definition = definition.ok_or_else(|| Fault::invalid("definition", "is missing"))?;
        model::bounded("definition", &definition)?;
        let check =
            |resource: &str, arguments: Option<&_>| tasks::check_as(&self.contract, &caller.roles, resource, arguments);
        asl::parse(&definition, &check).map_err(Error::InvalidDefinition)?;

        let mut tx = self.db.begin(&caller).await?;
        let workflow = store::insert(&mut tx, workflow_id, &definition).await?;
        Ok(tx.reply(workflow.into()).await?)
    }

    async fn get_workflow(&self, request: Request<GetWorkflowRequest>) -> Result<Response<Workflow>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let workflow_id = model::id_of(&name).ok_or(Error::WorkflowNotFound)?;

        let mut tx = self.db.begin(&caller).await?;
        let workflow = store::get(&mut tx, workflow_id).await?.ok_or(Error::WorkflowNotFound)?;
        Ok(tx.reply(workflow.into()).await?)
    }

    async fn list_workflows(
        &self,
        request: Request<ListWorkflowsRequest>,
    ) -> Result<Response<ListWorkflowsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let page = Page::<String>::parse(request.page_size, &request.page_token)?;

        let mut tx = self.db.begin(&caller).await?;
        let after = page.after.clone().unwrap_or_default();
        let rows = store::list(&mut tx, &after, page.fetch()).await?;
        let (rows, next_page_token) = page.cut(rows, |row| row.workflow_id.clone());
        let workflows = rows.into_iter().map(Into::into).collect();
        Ok(tx.reply(ListWorkflowsResponse { workflows, next_page_token }).await?)
    }
}

impl From<model::Workflow> for Workflow {
    fn from(row: model::Workflow) -> Self {
        let definition = match row.definition {
            serde_json::Value::Object(fields) => Some(json::to_struct(fields)),
            _ => None,
        };
        let create_time = Some(timestamp(row.created_at));
        Self { name: format!("workflows/{}", row.workflow_id), version: row.version, definition, create_time }
    }
}
