//! An invoice: the plan's price, then a line a meter that was used.

use rust_decimal::Decimal;

use crate::{error::Error, plans::model::Plan};

/// What a period costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    pub currency: String,
    pub lines: Vec<Line>,
    /// Minor units.
    pub total_minor: i64,
}

/// One line of an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub description: String,
    /// Empty on the line of the plan's price.
    pub meter: String,
    pub quantity: i64,
    pub included: i64,
    /// Of the currency's major unit; `None` on the line of the plan's price, and for a meter that the plan has no price for.
    pub unit_price: Option<Decimal>,
    /// Minor units.
    pub amount_minor: i64,
}

impl Invoice {
    /// # Errors
    /// `Overflow` when an amount does not fit.
    pub fn new(plan: &Plan, usage: Vec<(String, i64)>) -> Result<Self, Error> {
        let mut lines = vec![Line {
            description: format!("{} plan", plan.display_name),
            meter: String::new(),
            quantity: 1,
            included: 0,
            unit_price: None,
            amount_minor: plan.price_minor,
        }];
        for (meter, quantity) in usage {
            let price = plan.meters.iter().find(|price| price.meter == meter);
            let amount_minor = price.map_or(Ok(0), |price| price.amount_minor(quantity, &plan.currency))?;
            let (included, unit_price) = price.map_or((0, None), |price| (price.included, Some(price.unit_price)));
            let description = meter.replace('_', " ");
            lines.push(Line { description, meter, quantity, included, unit_price, amount_minor });
        }
        let total = lines.iter().try_fold(0_i64, |sum, line| sum.checked_add(line.amount_minor));
        Ok(Self { currency: plan.currency.clone(), lines, total_minor: total.ok_or(Error::Overflow)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::model::MeterPrice;

    #[test]
    fn a_preview_adds_the_plan_and_what_was_used_beyond_it() {
        let meters =
            vec![MeterPrice { meter: "workflow_runs".to_owned(), included: 10, unit_price: "0.015".parse().unwrap() }];
        let plan = Plan {
            id: "basic".to_owned(),
            display_name: "Basic".to_owned(),
            currency: "USD".to_owned(),
            price_minor: 4_900,
            features: vec![],
            limits: [].into(),
            meters,
        };
        let invoice = Invoice::new(&plan, vec![("workflow_runs".to_owned(), 13), ("other".to_owned(), 5)]).unwrap();
        let amounts: Vec<i64> = invoice.lines.iter().map(|line| line.amount_minor).collect();
        assert_eq!(amounts, [4_900, 5, 0]);
        assert_eq!(invoice.total_minor, 4_905);
    }
}
