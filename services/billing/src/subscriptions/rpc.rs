//! tenon.billing.v1.SubscriptionService

use chrono::{DateTime, Utc};
use serde_json::json;
use tenon_chassis::{Caller, Fault, clock::timestamp};
use tenon_proto::billing::v1::{
    GetSubscriptionRequest, ProvisionSubscriptionRequest, ProvisionSubscriptionResponse,
    Subscription as PbSubscription, subscription_service_server::SubscriptionService,
};
use tonic::{Request, Response, Status};

use super::{Subscriptions, model::Subscription, store};
use crate::{error::Error, plans::store as plans};

#[tonic::async_trait]
impl SubscriptionService for Subscriptions {
    async fn get_subscription(
        &self,
        request: Request<GetSubscriptionRequest>,
    ) -> Result<Response<PbSubscription>, Status> {
        let caller = Caller::of(&request)?;
        let mut tx = self.db.begin(&caller).await?;
        let subscription = store::get(&mut tx).await?.ok_or(Error::SubscriptionNotFound)?;
        let now = tx.clock().now();
        Ok(tx.reply(reply(subscription, now)).await?)
    }

    async fn provision_subscription(
        &self,
        request: Request<ProvisionSubscriptionRequest>,
    ) -> Result<Response<ProvisionSubscriptionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let plan = request.get_ref().plan.strip_prefix("plans/");
        let plan = plan.ok_or_else(|| Fault::invalid("plan", "must be plans/ and the plan's id"))?;
        let mut tx = self.db.begin(&caller).await?;
        let plan = plans::get(&mut tx, plan).await?;
        let new = Subscription::new(tx.clock(), plan.id.clone());
        store::insert(&mut tx, &new).await?;
        let standing = store::get(&mut tx).await?.ok_or(Error::SubscriptionNotFound)?;
        if standing.id == new.id {
            let about = format!("subscriptions/{}", new.id);
            tx.emit("tenon.billing.subscription.created.v1", about, json!({ "plan": new.plan_id }));
        }
        let now = tx.clock().now();
        let (features, limits) = (plan.features, plan.limits.into_iter().collect());
        let subscription = Some(reply(standing, now));
        Ok(tx.reply(ProvisionSubscriptionResponse { subscription, features, limits }).await?)
    }
}

fn reply(subscription: Subscription, now: DateTime<Utc>) -> PbSubscription {
    let period = subscription.period.at(now);
    PbSubscription {
        name: format!("subscriptions/{}", subscription.id),
        plan: format!("plans/{}", subscription.plan_id),
        status: subscription.status,
        period_start_time: Some(timestamp(period.start)),
        period_end_time: Some(timestamp(period.end)),
    }
}
