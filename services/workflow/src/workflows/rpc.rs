//! WorkflowService.

use std::{cell::RefCell, collections::BTreeSet};

use serde_json::Value;
use tenon_chassis::{Caller, Fault, TenantTx, paging::Page};
use tenon_proto::policy::Contract;
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
    tasks::{self, Need},
};

#[tonic::async_trait]
impl WorkflowService for Workflows {
    async fn create_workflow(&self, request: Request<CreateWorkflowRequest>) -> Result<Response<Workflow>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let workflow_id = model::new_id(&request.workflow_id)?;
        let (definition, envelope) = parse(request.definition, request.envelope)?;

        let contract = self.foreign.with(&self.contract, &definition).await?;
        let mut tx = self.db.begin(&caller).await?;
        let about = (workflow_id, &definition, &envelope);
        let by = (contract.as_ref(), caller.roles.as_slice());
        let Verdict { faults, warnings } = judge(&mut tx, by, about, request.refuse_missing).await?;
        if !faults.is_empty() {
            return Err(Error::InvalidDefinition(faults).into());
        }
        let publisher = Publisher { created_by: starter(&caller), roles: caller.roles.clone() };
        let workflow = store::insert(&mut tx, workflow_id, (&definition, &envelope), &publisher).await?;
        Ok(tx.reply(Workflow { warnings: told(warnings), ..workflow.into() }).await?)
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

        let contract = self.foreign.with(&self.contract, &definition).await?;
        let mut tx = self.db.begin(&caller).await?;
        let about = (request.workflow_id.as_str(), &definition, &envelope);
        let by = (contract.as_ref(), caller.roles.as_slice());
        let Verdict { faults, warnings } = judge(&mut tx, by, about, request.refuse_missing).await?;
        let valid = faults.is_empty();
        Ok(tx.reply(ValidateWorkflowResponse { valid, faults: told(faults), warnings: told(warnings) }).await?)
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

/// What is wrong, and what is missing yet.
struct Verdict {
    faults: Vec<asl::Fault>,
    warnings: Vec<asl::Fault>,
}

/// Everything that is wrong with a template and its envelope. What it needs and may be made later is no fault, unless it is
/// to be refused.
async fn judge(
    tx: &mut TenantTx,
    by: (&Contract, &[String]),
    (workflow_id, definition, envelope): (&str, &Value, &Envelope),
    refuse_missing: bool,
) -> Result<Verdict, Error> {
    let mut faults = faults_of(tx, by, definition, envelope).await?;
    let mut warnings = if faults.is_empty() { missing(tx, workflow_id, definition).await? } else { Vec::new() };
    if refuse_missing {
        faults.append(&mut warnings);
    }
    Ok(Verdict { faults, warnings })
}

async fn faults_of(
    tx: &mut TenantTx,
    (contract, roles): (&Contract, &[String]),
    definition: &Value,
    envelope: &Envelope,
) -> Result<Vec<asl::Fault>, Error> {
    let check = |resource: &str, arguments: Option<&_>| tasks::check_as(contract, roles, resource, arguments);
    let mut faults = below("definition", asl::parse(definition, &check).err().unwrap_or_default());
    let mut around = envelope.faults();
    for (pointer, hook) in envelope.hooks() {
        if !store::has_hook(tx, hook).await? {
            around.push(asl::Fault { pointer, reason: format!("there is no hook {hook}; make it with CreateHook") });
        }
    }
    faults.extend(below("envelope", around));
    Ok(faults)
}

/// The secrets and workflows that a template without faults refers to and that are not there. It may start itself.
async fn missing(tx: &mut TenantTx, workflow_id: &str, definition: &Value) -> Result<Vec<asl::Fault>, Error> {
    let (mut secrets, mut workflows) = (Vec::new(), Vec::new());
    for need in needed(definition) {
        match need {
            Need::Secret(name) => secrets.push(name),
            Need::Workflow(id) if id != workflow_id => workflows.push(id),
            Need::Workflow(_) => {}
        }
    }
    let lacks: BTreeSet<Need> = store::list_missing(tx, &secrets, &workflows).await?.into_iter().collect();
    let tell = |resource: &str, arguments: Option<&_>| {
        let needs = tasks::needs(resource, arguments).into_iter();
        needs.filter(|(_, need)| lacks.contains(need)).map(|(pointer, need)| need.missing(pointer)).collect()
    };
    Ok(below("definition", asl::parse(definition, &tell).err().unwrap_or_default()))
}

fn needed(definition: &Value) -> BTreeSet<Need> {
    let found = RefCell::new(BTreeSet::new());
    let collect = |resource: &str, arguments: Option<&_>| {
        found.borrow_mut().extend(tasks::needs(resource, arguments).into_iter().map(|(_, need)| need));
        Vec::new()
    };
    // It has no faults.
    let _ = asl::parse(definition, &collect);
    found.into_inner()
}

fn told(faults: Vec<asl::Fault>) -> Vec<DefinitionFault> {
    let told = |fault: asl::Fault| DefinitionFault { field: fault.pointer, reason: fault.reason };
    faults.into_iter().take(FAULTS_MAX).map(told).collect()
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
