//! tenon.billing.v1.UsageService

use tenon_chassis::{
    Caller, Fault,
    clock::{time, timestamp},
};
use tenon_proto::billing::v1::{
    GetUsageRequest, IngestUsageRequest, IngestUsageResponse, MeterUsage, Usage as PbUsage,
    usage_service_server::UsageService,
};
use tonic::{Request, Response, Status};

use super::{
    Usage,
    model::{MAX_EVENTS, UsageEvent},
    store,
};
use crate::{
    error::Error,
    quotas,
    subscriptions::{model::Period, store as subscriptions},
};

#[tonic::async_trait]
impl UsageService for Usage {
    async fn get_usage(&self, request: Request<GetUsageRequest>) -> Result<Response<PbUsage>, Status> {
        let caller = Caller::of(&request)?;
        let GetUsageRequest { start_time, end_time } = request.into_inner();
        let start = start_time.map(|at| time("start_time", at)).transpose()?;
        let end = end_time.map(|at| time("end_time", at)).transpose()?;
        let mut tx = self.db.begin(&caller).await?;
        let subscription = subscriptions::get(&mut tx).await?.ok_or(Error::SubscriptionNotFound)?;
        let running = subscription.period.at(tx.clock().now());
        let period = Period { start: start.unwrap_or(running.start), end: end.unwrap_or(running.end) };
        if period.end <= period.start {
            return Err(Fault::invalid("end_time", "must be after start_time").into());
        }
        let meters = store::list(&mut tx, period).await?;
        let meters = meters.into_iter().map(|(meter, quantity)| MeterUsage { meter, quantity }).collect();
        let (start_time, end_time) = (Some(timestamp(period.start)), Some(timestamp(period.end)));
        Ok(tx.reply(PbUsage { start_time, end_time, meters }).await?)
    }

    async fn ingest_usage(
        &self,
        request: Request<IngestUsageRequest>,
    ) -> Result<Response<IngestUsageResponse>, Status> {
        let caller = Caller::of(&request)?;
        let tenant = caller.tenant_id()?;
        let sent = request.into_inner().events;
        if sent.is_empty() || sent.len() > MAX_EVENTS {
            return Err(Fault::invalid("events", "must be 1 to 1,000 events").into());
        }
        let now = self.db.clock().now();
        let mut events = Vec::with_capacity(sent.len());
        for (index, event) in sent.into_iter().enumerate() {
            let at = format!("events[{index}]");
            let time = event.time.map(|sent| time(&format!("{at}.time"), sent)).transpose()?.unwrap_or(now);
            let event = UsageEvent { id: event.id, meter: event.meter, quantity: event.quantity, time };
            events.push((tenant, event.check(&at, now)?));
        }
        let mut tx = self.db.begin(&caller).await?;
        let counted = store::insert(&mut tx, &events).await.map_err(Error::from)?;
        for change in quotas::count(&mut tx, &counted, now).await? {
            tx.emit(change.kind(), change.subject(), change.data());
        }
        let accepted = i64::try_from(counted.len()).unwrap_or(i64::MAX);
        let count = |n: i64| i32::try_from(n).unwrap_or(i32::MAX);
        let duplicate = i64::try_from(events.len()).unwrap_or(i64::MAX) - accepted;
        Ok(tx.reply(IngestUsageResponse { accepted: count(accepted), duplicate: count(duplicate) }).await?)
    }
}
