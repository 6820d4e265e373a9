//! WorkflowService.

use serde_json::Value;
use tenon_chassis::{Caller, Fault, TenantTx, paging::Page};
use tenon_proto::workflow::v1::{
    CreateWorkflowRequest, DefinitionFault, Envelope as EnvelopePb, GetWorkflowRequest, ListWorkflowVersionsRequest,
    ListWorkflowVersionsResponse, ListWorkflowsRequest, ListWorkflowsResponse, ValidateWorkflowRequest,
    ValidateWorkflowResponse, Workflow, workflow_service_server::WorkflowService,
};
use tonic::{Request, Response, Status};

use super::{
    Workflows,
    envelope::Envelope,
    model::{self, Publisher},
    pb, store,
};
use crate::{
    asl,
    error::{Error, FAULTS_MAX},
    json,
    runs::rpc::starter,
    tasks,
};

#[tonic::async_trait]
impl WorkflowService for Workflows {
    async fn create_workflow(&self, request: Request<CreateWorkflowRequest>) -> Result<Response<Workflow>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let workflow_id = model::new_id(&request.workflow_id)?;
        let (definition, envelope) = parse(request.definition, request.envelope)?;

        let mut tx = self.db.begin(&caller).await?;
        let faults = self.faults(&mut tx, &caller.roles, &definition, &envelope).await?;
        if !faults.is_empty() {
            return Err(Error::InvalidDefinition(faults).into());
        }
        let publisher = Publisher { created_by: starter(&caller), roles: caller.roles.clone() };
        let workflow = store::insert(&mut tx, workflow_id, (&definition, &envelope), &publisher).await?;
        Ok(tx.reply(workflow.into()).await?)
    }

    async fn validate_workflow(
        &self,
        request: Request<ValidateWorkflowRequest>,
    ) -> Result<Response<ValidateWorkflowResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        if !request.workflow_id.is_empty() {
            model::new_id(&request.workflow_id)?;
        }
        let (definition, envelope) = parse(request.definition, request.envelope)?;

        let mut tx = self.db.begin(&caller).await?;
        let faults = self.faults(&mut tx, &caller.roles, &definition, &envelope).await?;
        let valid = faults.is_empty();
        let fault = |fault: asl::Fault| DefinitionFault { field: fault.pointer, reason: fault.reason };
        let faults = faults.into_iter().take(FAULTS_MAX).map(fault).collect();
        Ok(tx.reply(ValidateWorkflowResponse { valid, faults }).await?)
    }

    async fn get_workflow(&self, request: Request<GetWorkflowRequest>) -> Result<Response<Workflow>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let (workflow_id, version) = model::version_of(&name).ok_or(Error::WorkflowNotFound)?;

        let mut tx = self.db.begin(&caller).await?;
        let workflow = store::get(&mut tx, workflow_id, version).await?.ok_or(Error::WorkflowNotFound)?;
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

    async fn list_workflow_versions(
        &self,
        request: Request<ListWorkflowVersionsRequest>,
    ) -> Result<Response<ListWorkflowVersionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let workflow_id = model::id_of(&request.parent).ok_or(Error::WorkflowNotFound)?;
        let page = Page::<i32>::parse(request.page_size, &request.page_token)?;

        let mut tx = self.db.begin(&caller).await?;
        let rows = store::list_versions(&mut tx, workflow_id, page.after.unwrap_or(i32::MAX), page.fetch()).await?;
        if rows.is_empty() && page.after.is_none() {
            return Err(Error::WorkflowNotFound.into());
        }
        let (rows, next_page_token) = page.cut(rows, |row| row.version);
        let workflows = rows.into_iter().map(Into::into).collect();
        Ok(tx.reply(ListWorkflowVersionsResponse { workflows, next_page_token }).await?)
    }
}

impl Workflows {
    /// Everything that is wrong with a template and its envelope.
    async fn faults(
        &self,
        tx: &mut TenantTx,
        roles: &[String],
        definition: &Value,
        envelope: &Envelope,
    ) -> Result<Vec<asl::Fault>, Error> {
        let check = |resource: &str, arguments: Option<&_>| tasks::check_as(&self.contract, roles, resource, arguments);
        let mut faults = below("definition", asl::parse(definition, &check).err().unwrap_or_default());
        let mut around = envelope.faults();
        for (pointer, hook) in envelope.hooks() {
            if !store::has_hook(tx, hook).await? {
                around
                    .push(asl::Fault { pointer, reason: format!("there is no hook {hook}; make it with CreateHook") });
            }
        }
        faults.extend(below("envelope", around));
        Ok(faults)
    }
}

fn below(root: &str, faults: Vec<asl::Fault>) -> Vec<asl::Fault> {
    let rooted = |fault: asl::Fault| asl::Fault { pointer: format!("{root}{}", fault.pointer), ..fault };
    faults.into_iter().map(rooted).collect()
}

fn parse(definition: Option<prost_types::Struct>, envelope: Option<EnvelopePb>) -> Result<(Value, Envelope), Fault> {
    let definition = definition.map(json::from_struct).ok_or_else(|| Fault::invalid("definition", "is missing"))?;
    model::bounded("definition", &definition)?;
    Ok((definition, envelope.map(pb::read).transpose()?.unwrap_or_default()))
}
