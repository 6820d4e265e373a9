//! What a plan is, and what use costs on it.

use std::collections::BTreeMap;

use iso_currency::Currency;
use rust_decimal::{Decimal, RoundingStrategy, prelude::ToPrimitive};

use crate::error::Error;

/// A row of billing.plans with its meters.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub id: String,
    pub display_name: String,
    pub currency: String,
    /// Minor units.
    pub price_minor: i64,
    pub features: Vec<String>,
    pub limits: BTreeMap<String, i64>,
    pub meters: Vec<MeterPrice>,
}

/// A row of billing.plan_meters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterPrice {
    pub meter: String,
    pub included: i64,
    /// Of the currency's major unit.
    pub unit_price: Decimal,
}

impl MeterPrice {
    /// What a quantity costs in minor units: (quantity - included) * unit_price, rounded half up once.
    ///
    /// # Errors
    /// `Overflow` when it does not fit; `Corrupt` for a currency that ISO 4217 does not know.
    pub fn amount_minor(&self, quantity: i64, currency: &str) -> Result<i64, Error> {
        let exponent = Currency::from_code(currency).ok_or(Error::Corrupt)?.exponent().unwrap_or_default();
        let beyond = Decimal::from(quantity.saturating_sub(self.included).max(0));
        let minor = Decimal::from(10_i64.pow(exponent.into()));
        let amount = beyond.checked_mul(self.unit_price).and_then(|amount| amount.checked_mul(minor));
        let amount = amount.ok_or(Error::Overflow)?;
        amount.round_dp_with_strategy(0, RoundingStrategy::MidpointAwayFromZero).to_i64().ok_or(Error::Overflow)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn price(included: i64, unit_price: &str) -> MeterPrice {
        MeterPrice { meter: "m".to_owned(), included, unit_price: unit_price.parse().unwrap() }
    }

    #[test]
    fn a_line_is_rounded_half_up_once() {
        assert_eq!(price(1_000, "0.01").amount_minor(1_000, "USD").unwrap(), 0);
        assert_eq!(price(1_000, "0.01").amount_minor(1_001, "USD").unwrap(), 1);
        assert_eq!(price(0, "0.005").amount_minor(1, "USD").unwrap(), 1);
        assert_eq!(price(0, "0.005").amount_minor(3, "USD").unwrap(), 2);
        assert_eq!(price(0, "0.00002").amount_minor(249, "USD").unwrap(), 0);
        assert_eq!(price(0, "0.00002").amount_minor(250, "USD").unwrap(), 1);
        assert_eq!(price(0, "1.4").amount_minor(1, "JPY").unwrap(), 1);
        assert_eq!(price(0, "0.001").amount_minor(1, "KWD").unwrap(), 1);
        assert!(matches!(price(0, "79228162514264337593543950335").amount_minor(2, "USD"), Err(Error::Overflow)));
        assert!(matches!(price(0, "1").amount_minor(1, "???"), Err(Error::Corrupt)));
    }

    proptest! {
        #[test]
        fn more_use_never_costs_less(a in 0_i64..1_000_000_000, b in 0_i64..1_000_000_000, included in 0_i64..1_000_000) {
            let price = price(included, "0.0025");
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(price.amount_minor(low, "USD").unwrap() <= price.amount_minor(high, "USD").unwrap());
            prop_assert!(price.amount_minor(low, "USD").unwrap() >= 0);
        }
    }
}
