//! tenon.billing.v1.InvoiceService

use tenon_chassis::{Caller, clock::timestamp};
use tenon_proto::billing::v1::{
    Invoice as PbInvoice, InvoiceLine, Money, PreviewInvoiceRequest, invoice_service_server::InvoiceService,
};
use tonic::{Request, Response, Status};

use super::{Invoices, model::Invoice};
use crate::{error::Error, plans::store as plans, subscriptions::store as subscriptions, usage::store as usage};

#[tonic::async_trait]
impl InvoiceService for Invoices {
    async fn preview_invoice(&self, request: Request<PreviewInvoiceRequest>) -> Result<Response<PbInvoice>, Status> {
        let caller = Caller::of(&request)?;
        let mut tx = self.db.begin(&caller).await?;
        let subscription = subscriptions::get(&mut tx).await?.ok_or(Error::SubscriptionNotFound)?;
        let plan = plans::get(&mut tx, &subscription.plan_id).await?;
        let period = subscription.period.at(tx.clock().now());
        let used = usage::list(&mut tx, period).await?;
        let Invoice { currency, lines, total_minor } = Invoice::new(&plan, used)?;
        let money = |amount_minor: i64| Some(Money { currency: currency.clone(), amount_minor });
        let lines = lines.into_iter().map(|line| InvoiceLine {
            description: line.description,
            meter: line.meter,
            quantity: line.quantity,
            included: line.included,
            unit_price: line.unit_price.map(|price| price.normalize().to_string()).unwrap_or_default(),
            amount: money(line.amount_minor),
        });
        let reply = PbInvoice {
            plan: format!("plans/{}", plan.id),
            period_start_time: Some(timestamp(period.start)),
            period_end_time: Some(timestamp(period.end)),
            lines: lines.collect(),
            total: money(total_minor),
        };
        Ok(tx.reply(reply).await?)
    }
}
