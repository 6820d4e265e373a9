//! ScheduleService.

use chrono::{DateTime, Utc};
use serde_json::json;
use tenon_chassis::{
    Caller, Fault,
    clock::{time, timestamp},
    paging::Page,
};
use tenon_proto::workflow::v1::{
    BackfillScheduleRequest, BackfillScheduleResponse, CreateScheduleRequest, DeleteScheduleRequest,
    DeleteScheduleResponse, GetScheduleRequest, ListSchedulesRequest, ListSchedulesResponse, PauseScheduleRequest,
    ResumeScheduleRequest, Schedule, schedule_service_server::ScheduleService,
};
use tonic::{Request, Response, Status};

use super::{
    Schedules,
    model::{self, Timetable},
    store,
};
use crate::{
    error::Error,
    json,
    runs::{
        model::{Depth, RunId, Trigger},
        rpc::starter,
    },
    starts::Start,
    workflows,
};

#[tonic::async_trait]
impl ScheduleService for Schedules {
    async fn create_schedule(&self, request: Request<CreateScheduleRequest>) -> Result<Response<Schedule>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let schedule = parse(request, &caller, self.db.clock().now())?;

        let mut tx = self.db.begin(&caller).await?;
        let schedule = store::insert(&mut tx, &schedule).await?.ok_or(Error::WorkflowNotFound)?;
        let response = tx.reply(schedule.into()).await?;
        self.changed.notify_one();
        Ok(response)
    }

    async fn get_schedule(&self, request: Request<GetScheduleRequest>) -> Result<Response<Schedule>, Status> {
        let caller = Caller::of(&request)?;
        let id = id_of(&request.get_ref().name)?.to_owned();

        let mut tx = self.db.begin(&caller).await?;
        let schedule = store::get(&mut tx, &id).await?.ok_or(Error::ScheduleNotFound)?;
        Ok(tx.reply(schedule.into()).await?)
    }

    async fn list_schedules(
        &self,
        request: Request<ListSchedulesRequest>,
    ) -> Result<Response<ListSchedulesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let page = Page::<String>::parse(request.page_size, &request.page_token)?;
        // What cannot be an id filters everything out, as an id that nobody has does.
        let workflow = Some(request.workflow.as_str()).filter(|name| !name.is_empty());
        let workflow = workflow.map(|name| workflows::model::id_of(name).unwrap_or("-"));

        let mut tx = self.db.begin(&caller).await?;
        let after = page.after.clone().unwrap_or_default();
        let rows = store::list(&mut tx, workflow, &after, page.fetch()).await?;
        let (rows, next_page_token) = page.cut(rows, |row| row.schedule_id.clone());
        let schedules = rows.into_iter().map(Into::into).collect();
        Ok(tx.reply(ListSchedulesResponse { schedules, next_page_token }).await?)
    }

    async fn pause_schedule(&self, request: Request<PauseScheduleRequest>) -> Result<Response<Schedule>, Status> {
        let caller = Caller::of(&request)?;
        let id = id_of(&request.get_ref().name)?.to_owned();
        self.set_paused(&caller, &id, true).await
    }

    async fn resume_schedule(&self, request: Request<ResumeScheduleRequest>) -> Result<Response<Schedule>, Status> {
        let caller = Caller::of(&request)?;
        let id = id_of(&request.get_ref().name)?.to_owned();
        self.set_paused(&caller, &id, false).await
    }

    async fn backfill_schedule(
        &self,
        request: Request<BackfillScheduleRequest>,
    ) -> Result<Response<BackfillScheduleResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let id = id_of(&request.name)?;

        let mut tx = self.db.begin(&caller).await?;
        let schedule = store::get(&mut tx, id).await?.ok_or(Error::ScheduleNotFound)?;
        let given = |field: &str, at: Option<_>| time(field, at.ok_or_else(|| Fault::invalid(field, "is missing"))?);
        let (from, to) = (given("start_time", request.start_time)?, given("end_time", request.end_time)?);
        if from > to || to > tx.clock().now() {
            return Err(Fault::invalid("end_time", "must come after start_time and have gone by").into());
        }
        let times = schedule.timetable().between(from, to)?;
        let mut runs = Vec::with_capacity(times.len());
        for at in times {
            let start = Start {
                workflow_id: schedule.workflow_id.clone(),
                input: model::input_at(&schedule.input, id, at),
                created_by: starter(&caller),
                roles: caller.roles.clone(),
                trigger: Trigger::Cron,
                depth: Depth::default(),
            };
            runs.push(format!("runs/{}", self.starts.start(&mut tx, start).await?));
        }
        let response = tx.reply(BackfillScheduleResponse { runs }).await?;
        self.starts.wake();
        Ok(response)
    }

    async fn delete_schedule(
        &self,
        request: Request<DeleteScheduleRequest>,
    ) -> Result<Response<DeleteScheduleResponse>, Status> {
        let caller = Caller::of(&request)?;
        let id = id_of(&request.get_ref().name)?.to_owned();

        let mut tx = self.db.begin(&caller).await?;
        let schedule = store::get(&mut tx, &id).await?.ok_or(Error::ScheduleNotFound)?;
        if schedule.managed {
            return Err(Error::ScheduleManaged.into());
        }
        store::delete(&mut tx, &id).await?;
        Ok(tx.reply(DeleteScheduleResponse {}).await?)
    }
}

impl Schedules {
    async fn set_paused(&self, caller: &Caller, id: &str, paused: bool) -> Result<Response<Schedule>, Status> {
        let mut tx = self.db.begin(caller).await?;
        let mut schedule = store::get(&mut tx, id).await?.ok_or(Error::ScheduleNotFound)?;
        if schedule.paused != paused {
            schedule.set_paused(paused, tx.clock().now());
            store::update_paused(&mut tx, &schedule).await?;
        }
        let response = tx.reply(schedule.into()).await?;
        self.changed.notify_one();
        Ok(response)
    }
}

fn parse(request: CreateScheduleRequest, caller: &Caller, now: DateTime<Utc>) -> Result<model::Schedule, Status> {
    let schedule_id = workflows::model::named("schedule_id", &request.schedule_id)?.to_owned();
    let workflow_id = workflows::model::id_of(&request.workflow).ok_or(Error::WorkflowNotFound)?.to_owned();
    let overlap = workflows::overlap_of(request.overlap, "overlap")?;
    let (cron, time_zone, jitter_s) = (request.cron, request.time_zone, request.jitter_seconds);
    let timetable = Timetable { cron, time_zone, overlap, jitter_s };
    let mut faults = timetable.faults().into_iter();
    if let Some((field, why)) = faults.next() {
        let first = Fault::invalid(field, why);
        return Err(faults.fold(first, |fault, (field, why)| fault.violation(field, why)).into());
    }
    let input = request.input.map_or_else(|| json!({}), json::from_pb);
    workflows::model::bounded("input", &input)?;
    let mut schedule = model::Schedule {
        schedule_id,
        workflow_id,
        managed: false,
        cron: timetable.cron,
        time_zone: timetable.time_zone,
        overlap,
        jitter_s,
        input,
        paused: true,
        next_at: None,
        due_at: None,
        buffered_at: None,
        last_at: None,
        last_run: None,
        created_by: starter(caller),
        roles: caller.roles.clone(),
        created_at: now,
    };
    schedule.set_paused(request.paused, now);
    Ok(schedule)
}

/// The id in `schedules/nightly`; what cannot be one is not found, whatever it is.
fn id_of(name: &str) -> Result<&str, Error> {
    // Those of triggers may be longer than what people may choose.
    let id = name.strip_prefix("schedules/").filter(|id| !id.is_empty() && id.len() <= 128 && !id.contains('\0'));
    id.ok_or(Error::ScheduleNotFound)
}

impl From<model::Schedule> for Schedule {
    fn from(row: model::Schedule) -> Self {
        Self {
            name: format!("schedules/{}", row.schedule_id),
            workflow: format!("workflows/{}", row.workflow_id),
            cron: row.cron,
            time_zone: row.time_zone,
            overlap: workflows::overlap(row.overlap).into(),
            jitter_seconds: row.jitter_s,
            input: Some(json::to_pb(row.input)),
            paused: row.paused,
            managed: row.managed,
            next_time: row.next_at.map(timestamp),
            last_time: row.last_at.map(timestamp),
            last_run: row.last_run.map(|run| format!("runs/{}", RunId::from(run))).unwrap_or_default(),
            create_time: Some(timestamp(row.created_at)),
        }
    }
}
