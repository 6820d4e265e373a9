//! HookService.

use chrono::TimeDelta;
use prost_types::Duration;
use serde_json::{Map, Value};
use tenon_chassis::{Caller, Fault, TenantId, TenantTx, clock::timestamp, fail, paging::Page, secret::Secret};
use tenon_proto::{
    google::api::HttpBody,
    workflow::v1::{
        ConfirmHookRequest, CreateHookRequest, DeleteHookRequest, DeleteHookResponse, GetHookRequest, Hook,
        ListHooksRequest, ListHooksResponse, ReceiveDeliveryRequest, ReceiveDeliveryResponse, RotateHookSecretRequest,
        SendSignal, StartRun, Target as TargetPb, hook::Scheme as SchemePb, hook_service_server::HookService,
        target::Action as ActionPb,
    },
};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{
    Hooks,
    model::{self, Action, Deed, Target},
    signature::{self, Keys, Scheme},
    store,
};
use crate::{
    engine::births::NotBorn,
    error::Error,
    fair,
    runs::{
        model::{Depth, NewRun, RunId, Trigger},
        rpc::starter,
    },
    starts::{Delivery, Start},
    workflows,
};

/// Characters of a challenge.
const CHALLENGE_MAX: usize = 256;

#[tonic::async_trait]
impl HookService for Hooks {
    async fn create_hook(&self, request: Request<CreateHookRequest>) -> Result<Response<Hook>, Status> {
        let caller = Caller::of(&request)?;
        let tenant = caller.tenant_id()?;
        let request = request.into_inner();
        let hook_id = workflows::model::named("hook_id", &request.hook_id)?.to_owned();
        let scheme = scheme_of(request.scheme)?;
        model::headers(scheme, &request.signature_header, &request.id_header)?;
        let targets: Vec<Target> = request.targets.into_iter().enumerate().map(target_of).collect::<Result<_, _>>()?;
        model::targets(&targets)?;
        let secret = match request.secret {
            empty if empty.is_empty() => model::new_secret(scheme),
            given => model::secret(scheme, given)?,
        };
        let tolerance_s = seconds("tolerance", request.tolerance, model::TOLERANCE_S, 30..=3_600)?;
        let hook = model::Hook {
            secret: self.mesh.sealer.seal(&model::Hook::purpose(tenant, &hook_id), secret.as_bytes()),
            hook_id,
            scheme,
            previous_secret: None,
            previous_until: None,
            header: request.signature_header,
            id_header: request.id_header,
            tolerance_s: i32::try_from(tolerance_s).expect("at most an hour"),
            targets: serde_json::to_value(&targets).expect("targets are plain data"),
            created_by: starter(&caller),
            roles: caller.roles.clone(),
            created_at: self.db.clock().now(),
        };

        let mut tx = self.db.begin(&caller).await?;
        for target in &targets {
            if let Action::Start { workflow_id, .. } = &target.action {
                let found = workflows::store::get(&mut tx, workflow_id, None).await?;
                found.ok_or(Error::WorkflowNotFound)?;
            }
        }
        let hook = store::insert(&mut tx, &hook).await?;
        Ok(shown_once(secret, tx.reply(shown(&hook, tenant)).await?))
    }

    async fn get_hook(&self, request: Request<GetHookRequest>) -> Result<Response<Hook>, Status> {
        let caller = Caller::of(&request)?;
        let id = id_of(&request.get_ref().name)?.to_owned();

        let mut tx = self.db.begin(&caller).await?;
        let hook = store::get(&mut tx, &id).await?.ok_or(Error::HookNotFound)?;
        let tenant = tx.tenant();
        Ok(tx.reply(shown(&hook, tenant)).await?)
    }

    async fn list_hooks(&self, request: Request<ListHooksRequest>) -> Result<Response<ListHooksResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let page = Page::<String>::parse(request.page_size, &request.page_token)?;

        let mut tx = self.db.begin(&caller).await?;
        let after = page.after.clone().unwrap_or_default();
        let rows = store::list(&mut tx, &after, page.fetch()).await?;
        let (rows, next_page_token) = page.cut(rows, |row| row.hook_id.clone());
        let tenant = tx.tenant();
        let hooks = rows.iter().map(|hook| shown(hook, tenant)).collect();
        Ok(tx.reply(ListHooksResponse { hooks, next_page_token }).await?)
    }

    async fn rotate_hook_secret(&self, request: Request<RotateHookSecretRequest>) -> Result<Response<Hook>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let id = id_of(&request.name)?;
        let overlap = seconds("overlap", request.overlap, model::OVERLAP_S, 0..=model::OVERLAP_MAX_S)?;

        let mut tx = self.db.begin(&caller).await?;
        let hook = store::get(&mut tx, id).await?.ok_or(Error::HookNotFound)?;
        let secret = match request.secret {
            empty if empty.is_empty() => model::new_secret(hook.scheme),
            given => model::secret(hook.scheme, given)?,
        };
        let tenant = tx.tenant();
        let sealed = self.mesh.sealer.seal(&model::Hook::purpose(tenant, id), secret.as_bytes());
        let until = tx.clock().now() + TimeDelta::seconds(overlap);
        store::update_secret(&mut tx, id, &sealed, until).await?;
        Ok(shown_once(secret, tx.reply(shown(&hook, tenant)).await?))
    }

    async fn delete_hook(&self, request: Request<DeleteHookRequest>) -> Result<Response<DeleteHookResponse>, Status> {
        let caller = Caller::of(&request)?;
        let id = id_of(&request.get_ref().name)?.to_owned();

        let mut tx = self.db.begin(&caller).await?;
        store::get(&mut tx, &id).await?.ok_or(Error::HookNotFound)?;
        if !store::delete(&mut tx, &id).await? {
            return Err(Error::HookInUse.into());
        }
        Ok(tx.reply(DeleteHookResponse {}).await?)
    }

    async fn receive_delivery(
        &self,
        request: Request<ReceiveDeliveryRequest>,
    ) -> Result<Response<ReceiveDeliveryResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (metadata, _, request) = request.into_parts();
        let tenant = self.tenant(&request.tenant).await?;
        let body = request.body.unwrap_or_default();
        if body.data.len() > model::BODY_MAX_BYTES {
            let why = format!("a delivery may have {} bytes at most", model::BODY_MAX_BYTES);
            return Err(Fault::new(tonic::Code::InvalidArgument, "BODY_TOO_LARGE", why).into());
        }

        let caller = caller.acting_for(tenant)?;
        let mut tx = self.db.begin(&caller).await?;
        let hook = store::get(&mut tx, &request.hook).await?.ok_or(Error::HookNotFound)?;
        let id = self.verified(&hook, tenant, &metadata, &body.data)?;
        let seen = model::request(&body.data, &body.content_type, &told(&metadata, &caller), &id);
        let mut deeds = deeds(&mut tx, &hook, &seen).await?;
        // What leads to one run alone is added with many others, as a run that is asked for is.
        if caller.idempotency.is_none()
            && let [Planned::Start(_)] = deeds.as_slice()
            && let Some(Planned::Start(run)) = deeds.pop()
        {
            tx.commit().await?;
            let delivery = Delivery { hook_id: hook.hook_id.clone(), id: id.clone() };
            let weight = fair::weight(caller.tenant.as_deref());
            match self.starts.start_here((tenant, weight), *run, delivery).await {
                Ok(run) => return Ok(Response::new(answer(vec![run.id]))),
                Err(NotBorn::Delivered) => return Ok(Response::new(duplicate())),
                Err(NotBorn::Refused(error)) => return Err(error.into()),
                Err(NotBorn::Elsewhere(run)) => deeds.push(Planned::Start(run)),
            }
            tx = self.db.begin(&caller).await?;
        }
        if !store::insert_delivery(&mut tx, &hook.hook_id, &id).await? {
            return Ok(tx.reply(duplicate()).await?);
        }
        let mut response = self.act(&mut tx, deeds).await?;
        if hook.scheme == Scheme::Slack && seen["body"]["type"] == "url_verification" {
            let challenge = seen["body"]["challenge"].as_str().unwrap_or_default();
            response.challenge = challenge.chars().take(CHALLENGE_MAX).collect();
        }
        fail::at("hook.commit.before").await?;
        let response = tx.reply(response).await?;
        fail::at("hook.commit.after").await?;
        self.starts.wake();
        Ok(response)
    }

    async fn confirm_hook(&self, request: Request<ConfirmHookRequest>) -> Result<Response<HttpBody>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let tenant = self.tenant(&request.tenant).await?;
        let asked = request.hub.unwrap_or_default();

        let mut tx = self.db.begin(&caller.acting_for(tenant)?).await?;
        let hook = store::get(&mut tx, &request.hook).await?.ok_or(Error::HookNotFound)?;
        let is_known = self
            .secrets(&hook, tenant)?
            .iter()
            .fold(false, |known, secret| known | secret.matches(&asked.verify_token));
        if hook.scheme != Scheme::Meta || asked.mode != "subscribe" || !is_known {
            return Err(Error::HookNotFound.into());
        }
        let challenge: String = asked.challenge.chars().take(CHALLENGE_MAX).collect();
        Ok(tx.reply(HttpBody { content_type: "text/plain; charset=utf-8".to_owned(), data: challenge.into() }).await?)
    }
}

impl Hooks {
    /// The tenant that a path names, when it may work. Who it is not known to learns no more than of an unknown hook.
    async fn tenant(&self, name: &str) -> Result<TenantId, Fault> {
        let directory = &self.mesh.directory;
        let found = match name.parse::<TenantId>() {
            Ok(id) => directory.by_id(id).await,
            Err(_) => directory.by_slug(name).await,
        };
        let known = found.map_err(|fault| match fault.code {
            tonic::Code::Unavailable => fault,
            _ => Fault::new(tonic::Code::NotFound, "HOOK_NOT_FOUND", Error::HookNotFound.to_string()),
        })?;
        known.admit(false)?;
        Ok(known.id)
    }

    /// The secret, and the one before while it verifies yet.
    fn secrets(&self, hook: &model::Hook, tenant: TenantId) -> Result<Vec<Secret>, Fault> {
        let now = self.db.clock().now();
        let previous = hook.previous_secret.as_ref().filter(|_| hook.previous_until.is_some_and(|until| now < until));
        let purpose = model::Hook::purpose(tenant, &hook.hook_id);
        let open = |sealed: &Vec<u8>| {
            let opened = self.mesh.sealer.open(&purpose, sealed).map_err(|why| Fault::internal(&why))?;
            Ok(Secret::new(String::from_utf8_lossy(&opened)))
        };
        [Some(&hook.secret), previous].into_iter().flatten().map(open).collect()
    }

    fn verified(
        &self,
        hook: &model::Hook,
        tenant: TenantId,
        metadata: &MetadataMap,
        body: &[u8],
    ) -> Result<String, Fault> {
        let secrets = self.secrets(hook, tenant)?;
        let keys = Keys {
            scheme: hook.scheme,
            secrets: secrets.iter().map(Secret::expose).collect(),
            header: &hook.header,
            id_header: &hook.id_header,
            tolerance_s: hook.tolerance_s.into(),
        };
        let header = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
        signature::verify(&keys, &signature::Delivery { header: &header, body }, self.db.clock().now())
    }

    /// Does what a delivery leads to.
    async fn act(&self, tx: &mut TenantTx, deeds: Vec<Planned>) -> Result<ReceiveDeliveryResponse, Error> {
        let (mut runs, mut signals) = (Vec::new(), 0);
        for deed in deeds {
            match deed {
                Planned::Start(run) => runs.push(self.starts.start(tx, *run).await?),
                Planned::Signal { run, signal, payload } => {
                    signals += self.starts.signal(tx, &run, &signal, &payload).await?;
                }
            }
        }
        Ok(ReceiveDeliveryResponse { signals, ..answer(runs) })
    }
}

/// What a delivery leads to.
enum Planned {
    Start(Box<NewRun>),
    Signal { run: String, signal: String, payload: Value },
}

/// What the hook's targets, and the triggers of workflows that name it, make of a delivery.
async fn deeds(tx: &mut TenantTx, hook: &model::Hook, seen: &Value) -> Result<Vec<Planned>, Status> {
    let mut all: Vec<_> = hook.targets().into_iter().map(|target| (target, &hook.created_by, &hook.roles)).collect();
    let triggers = store::list_triggers(tx, &hook.hook_id).await?;
    all.extend(triggers.iter().map(|trigger| {
        let action = Action::Start { workflow_id: trigger.workflow_id.clone(), input: trigger.input.clone() };
        (Target { filter: trigger.filter.clone(), action }, &trigger.created_by, &trigger.roles)
    }));
    let mut deeds = Vec::new();
    for (target, created_by, roles) in all {
        match model::deed(&target, seen)? {
            None => {}
            Some(Deed::Start { workflow_id, input }) => {
                let (created_by, roles) = (created_by.clone(), roles.clone());
                let start =
                    Start { workflow_id, input, created_by, roles, trigger: Trigger::Webhook, depth: Depth::default() };
                deeds.push(Planned::Start(Box::new(start.into())));
            }
            Some(Deed::Signal { run, signal, payload }) => deeds.push(Planned::Signal { run, signal, payload }),
        }
    }
    Ok(deeds)
}

/// The answer with the secret. What is kept to answer a repetition is without it: secrets are kept sealed only.
fn shown_once(secret: String, mut answer: Response<Hook>) -> Response<Hook> {
    answer.get_mut().secret = secret;
    answer
}

fn answer(runs: Vec<RunId>) -> ReceiveDeliveryResponse {
    let runs = runs.into_iter().map(|run| format!("runs/{run}")).collect();
    ReceiveDeliveryResponse { runs, ..Default::default() }
}

fn duplicate() -> ReceiveDeliveryResponse {
    ReceiveDeliveryResponse { duplicate: true, ..Default::default() }
}

/// The headers that the edge hands on for this method, for expressions.
fn told(metadata: &MetadataMap, caller: &Caller) -> Map<String, Value> {
    let value = |name: &String| Some((name.clone(), Value::from(metadata.get(name.as_str())?.to_str().ok()?)));
    caller.method.headers.iter().filter_map(value).collect()
}

/// Whole seconds of a Duration within a range.
///
/// # Errors
/// INVALID_FIELD with the field and the range.
pub(crate) fn seconds(
    field: &str,
    given: Option<Duration>,
    default: i64,
    range: std::ops::RangeInclusive<i64>,
) -> Result<i64, Fault> {
    let given = given.map_or(default, |given| if given.nanos == 0 { given.seconds } else { -1 });
    let why = || format!("must be whole seconds, {} to {}", range.start(), range.end());
    if range.contains(&given) { Ok(given) } else { Err(Fault::invalid(field, why())) }
}

fn scheme_of(number: i32) -> Result<Scheme, Fault> {
    Ok(match SchemePb::try_from(number).unwrap_or_default() {
        SchemePb::Unspecified => {
            return Err(Fault::invalid("scheme", "says how deliveries are signed: GITHUB, STRIPE ..."));
        }
        SchemePb::StandardWebhooks => Scheme::StandardWebhooks,
        SchemePb::Meta => Scheme::Meta,
        SchemePb::Stripe => Scheme::Stripe,
        SchemePb::Github => Scheme::Github,
        SchemePb::Slack => Scheme::Slack,
        SchemePb::HmacSha256 => Scheme::HmacSha256,
    })
}

fn target_of((index, target): (usize, TargetPb)) -> Result<Target, Fault> {
    let missing = || Fault::invalid(format!("targets[{index}]"), "needs start or signal");
    let action = match target.action.ok_or_else(missing)? {
        ActionPb::Start(StartRun { workflow, input }) => {
            let bad = || Fault::invalid(format!("targets[{index}].start.workflow"), "is no id of a workflow");
            Action::Start { workflow_id: workflows::model::id_of(&workflow).ok_or_else(bad)?.to_owned(), input }
        }
        ActionPb::Signal(SendSignal { run, signal, payload }) => Action::Signal { run, signal, payload },
    };
    Ok(Target { filter: target.filter, action })
}

/// The id in `hooks/github`; what cannot be one is not found, whatever it is.
fn id_of(name: &str) -> Result<&str, Error> {
    let id = name.strip_prefix("hooks/").and_then(|id| workflows::model::named("name", id).ok());
    id.ok_or(Error::HookNotFound)
}

/// A hook without its secret.
fn shown(hook: &model::Hook, tenant: TenantId) -> Hook {
    let scheme = match hook.scheme {
        Scheme::StandardWebhooks => SchemePb::StandardWebhooks,
        Scheme::Meta => SchemePb::Meta,
        Scheme::Stripe => SchemePb::Stripe,
        Scheme::Github => SchemePb::Github,
        Scheme::Slack => SchemePb::Slack,
        Scheme::HmacSha256 => SchemePb::HmacSha256,
    };
    let target = |Target { filter, action }| {
        let action = match action {
            Action::Start { workflow_id, input } => {
                ActionPb::Start(StartRun { workflow: format!("workflows/{workflow_id}"), input })
            }
            Action::Signal { run, signal, payload } => ActionPb::Signal(SendSignal { run, signal, payload }),
        };
        TargetPb { filter, action: Some(action) }
    };
    Hook {
        name: format!("hooks/{}", hook.hook_id),
        path: format!("/hooks/{tenant}/{}", hook.hook_id),
        scheme: scheme.into(),
        secret: String::new(),
        signature_header: hook.header.clone(),
        id_header: hook.id_header.clone(),
        tolerance: Some(Duration { seconds: hook.tolerance_s.into(), nanos: 0 }),
        targets: hook.targets().into_iter().map(target).collect(),
        create_time: Some(timestamp(hook.created_at)),
    }
}
