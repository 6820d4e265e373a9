//! tenon.billing.v1.PlanService

use tenon_chassis::paging::Page;
use tenon_proto::billing::v1::{
    ListPlansRequest, ListPlansResponse, MeterPrice as PbMeterPrice, Money, Plan as PbPlan,
    plan_service_server::PlanService,
};
use tonic::{Request, Response, Status};

use super::{
    Plans,
    model::{MeterPrice, Plan},
    store,
};

#[tonic::async_trait]
impl PlanService for Plans {
    async fn list_plans(&self, request: Request<ListPlansRequest>) -> Result<Response<ListPlansResponse>, Status> {
        let ListPlansRequest { page_size, page_token } = request.into_inner();
        let page = Page::<(i64, String)>::parse(page_size, &page_token)?;
        // Anyone may ask, so there is no tenant to begin a transaction for; the price list has none either.
        let mut tx = self.db.system().await?;
        let rows = store::list(&mut tx, page.after.clone(), page.fetch()).await?;
        tx.commit().await?;
        let (rows, next_page_token) = page.cut(rows, |plan| (plan.price_minor, plan.id.clone()));
        Ok(Response::new(ListPlansResponse { plans: rows.into_iter().map(PbPlan::from).collect(), next_page_token }))
    }
}

impl From<Plan> for PbPlan {
    fn from(plan: Plan) -> Self {
        Self {
            name: format!("plans/{}", plan.id),
            display_name: plan.display_name,
            price: Some(Money { currency: plan.currency, amount_minor: plan.price_minor }),
            interval: "month".to_owned(),
            features: plan.features,
            meters: plan.meters.into_iter().map(PbMeterPrice::from).collect(),
        }
    }
}

impl From<MeterPrice> for PbMeterPrice {
    fn from(price: MeterPrice) -> Self {
        let unit_price = price.unit_price.normalize().to_string();
        Self { meter: price.meter, included: price.included, unit_price }
    }
}
