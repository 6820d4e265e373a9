//! ApprovalService.

use serde_json::{Map, Value, json};
use tenon_chassis::{Caller, Fault, caller::Principal, clock::timestamp, paging::Page};
use tenon_proto::{
    google::api::HttpBody,
    workflow::v1::{
        Approval, DecideApprovalRequest, Decision, GetApprovalPageRequest, GetApprovalRequest, ListApprovalsRequest,
        ListApprovalsResponse, SubmitApprovalPageRequest, approval_service_server::ApprovalService,
    },
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    Approvals,
    link::Link,
    model::{self, Decided, Name},
    page, store,
};
use crate::{error::Error, json as pb_json};

/// Bytes of a form, as JSON or as a browser sends it.
const FORM_MAX: usize = 64 * 1024;

#[tonic::async_trait]
impl ApprovalService for Approvals {
    async fn list_approvals(
        &self,
        request: Request<ListApprovalsRequest>,
    ) -> Result<Response<ListApprovalsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let page = Page::<(Uuid, i64)>::parse(request.page_size, &request.page_token)?;

        let mut tx = self.0.db.begin(&caller).await?;
        let rows = store::list(&mut tx, page.after, page.fetch()).await?;
        let (rows, next_page_token) = page.cut(rows, |(key, _)| *key);
        let approvals = rows.into_iter().filter_map(|(_, approval)| approval).map(Into::into).collect();
        Ok(tx.reply(ListApprovalsResponse { approvals, next_page_token }).await?)
    }

    async fn get_approval(&self, request: Request<GetApprovalRequest>) -> Result<Response<Approval>, Status> {
        let caller = Caller::of(&request)?;
        let name = Name::parse(&request.into_inner().name).ok_or(Error::ApprovalNotFound)?;

        let approval = self.get(&caller, name).await?;
        Ok(Response::new(approval.into()))
    }

    async fn decide_approval(&self, request: Request<DecideApprovalRequest>) -> Result<Response<Decision>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let name = Name::parse(&request.name).ok_or(Error::ApprovalNotFound)?;
        let approval = self.get(&caller, name).await?;
        let decision = model::decision(&request.decision)?;
        let form = match request.form.map(pb_json::from_struct) {
            Some(Value::Object(form)) => form,
            _ => Map::new(),
        };

        let user = who(&caller);
        if !approval.may_be_decided_by(&user, &caller.roles) {
            return Err(Error::NotAnApprover.into());
        }
        let by = if user.starts_with("usr_") { format!("users/{user}") } else { user };
        let decided = self.checked(&approval, decision, by, (&request.comment, form))?;
        let response = self.decide(&caller, name, &decided).await?.reply(decided.into()).await?;
        self.0.waker.wake();
        Ok(response)
    }

    async fn get_approval_page(&self, request: Request<GetApprovalPageRequest>) -> Result<Response<HttpBody>, Status> {
        let caller = Caller::of(&request)?;
        let (_, approval) = self.behind(&caller, &request.into_inner().link).await?;
        Ok(Response::new(html(&page::question(&approval))))
    }

    async fn submit_approval_page(
        &self,
        request: Request<SubmitApprovalPageRequest>,
    ) -> Result<Response<HttpBody>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (link, approval) = self.behind(&caller, &request.link).await?;
        let body = request.body.unwrap_or_default();
        let is_json = body.content_type.starts_with("application/json");
        let Submitted { decision, comment, form } = submitted(&body, &approval)?;

        // A denial needs no form.
        let form = if decision == "denied" { Map::new() } else { form };
        let decided = self.checked(&approval, decision, link.to, (&comment, form))?;
        self.decide(&caller.acting_for(link.tenant)?, approval.name, &decided).await?.commit().await?;
        self.0.waker.wake();
        let data = json!({ "decision": decision }).to_string();
        Ok(Response::new(if is_json {
            HttpBody { content_type: "application/json".to_owned(), data: data.into() }
        } else {
            html(&page::decided(&approval.asked.title, decision))
        }))
    }
}

impl Approvals {
    /// What a link leads to. Every fault looks the same: a link says nothing to who guesses.
    async fn behind(&self, caller: &Caller, link: &str) -> Result<(Link, model::Approval), Status> {
        let mesh = &self.0.mesh;
        let link = Link::open(&mesh.config.master_key, link, mesh.clock.now()).ok_or(Error::ApprovalLinkInvalid)?;
        let tenant = mesh.directory.by_id(link.tenant).await?;
        tenant.admit(true).map_err(|_| Error::ApprovalLinkInvalid)?;
        match self.get(&caller.acting_for(link.tenant)?, link.name).await {
            Ok(approval) => Ok((link, approval)),
            Err(Error::ApprovalNotFound) => Err(Error::ApprovalLinkInvalid.into()),
            Err(error) => Err(error.into()),
        }
    }

    fn checked(
        &self,
        approval: &model::Approval,
        decision: &'static str,
        by: String,
        (comment, form): (&str, Map<String, Value>),
    ) -> Result<Decided, Fault> {
        let comment = model::comment(comment)?.to_owned();
        if Value::Object(form.clone()).to_string().len() > FORM_MAX {
            return Err(Fault::invalid("form", "must have at most 64 KiB as JSON"));
        }
        if decision == "approved" {
            approval.asked.filled(&form)?;
        }
        Ok(Decided { decision, by, comment, form, at: self.0.mesh.clock.now() })
    }
}

/// What came from a page.
struct Submitted {
    decision: &'static str,
    comment: String,
    form: Map<String, Value>,
}

fn submitted(body: &HttpBody, approval: &model::Approval) -> Result<Submitted, Fault> {
    if body.data.len() > FORM_MAX {
        return Err(Fault::invalid("body", "must have at most 64 KiB"));
    }
    if body.content_type.starts_with("application/json") {
        let json: Value = serde_json::from_slice(&body.data).map_err(|_| Fault::invalid("body", "is no JSON"))?;
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        let form = json["form"].as_object().cloned().unwrap_or_default();
        return Ok(Submitted { decision: model::decision(&text("decision"))?, comment: text("comment"), form });
    }
    let (mut decision, mut comment, mut form) = (String::new(), String::new(), Map::new());
    let fields = approval.asked.fields().unwrap_or_default();
    for (name, value) in form_urlencoded::parse(&body.data) {
        match (name.as_ref(), name.strip_prefix(page::PREFIX)) {
            ("decision", _) => decision = value.into_owned(),
            ("comment", _) => comment = value.into_owned(),
            (_, Some(name)) => {
                // What was left empty was not filled in.
                if let Some((name, field)) = fields.iter().find(|(known, _)| *known == name)
                    && !value.is_empty()
                {
                    form.insert((*name).to_owned(), field.read(&value));
                }
            }
            _ => {}
        }
    }
    Ok(Submitted { decision: model::decision(&decision)?, comment, form })
}

fn html(page: &str) -> HttpBody {
    let data = page.as_bytes().to_vec().into();
    HttpBody { content_type: page::MEDIA_TYPE.to_owned(), data }
}

fn who(caller: &Caller) -> String {
    match &caller.principal {
        Principal::User { user, .. } => user.to_string(),
        Principal::Key { key } => format!("key:{key}"),
        Principal::Service { name } => format!("svc:{name}"),
        Principal::Operator => "operator".to_owned(),
        Principal::Anyone => String::new(),
    }
}

impl From<model::Approval> for Approval {
    fn from(approval: model::Approval) -> Self {
        let asked = approval.asked;
        Self {
            name: approval.name.to_string(),
            run: format!("runs/{}", approval.name.run),
            title: asked.title,
            description: asked.description,
            form: Some(pb_json::to_struct(asked.form)),
            approvers: asked.approvers,
            create_time: Some(timestamp(approval.created_at)),
            expire_time: approval.expires_at.map(timestamp),
        }
    }
}

impl From<Decided> for Decision {
    fn from(decided: Decided) -> Self {
        Self {
            decision: decided.decision.to_owned(),
            by: decided.by,
            comment: decided.comment,
            form: Some(pb_json::to_struct(decided.form)),
            decide_time: Some(timestamp(decided.at)),
        }
    }
}
