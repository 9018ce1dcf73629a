//! What hardware costs by the hour: a table, or the user's own. Pure.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::hardware::{HOST, Hardware};

const TABLE: &str = include_str!("data/prices.toml");

/// What a device costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// What `--hardware` calls it; `xN` is a price of N of them together.
    pub hardware: String,
    /// Money for an hour.
    pub per_hour: f64,
    /// `core` where that is for each core of this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per: Option<String>,
    /// Who asks it.
    #[serde(default)]
    pub provider: String,
    /// For what.
    #[serde(default)]
    pub instance: String,
    /// Where.
    #[serde(default)]
    pub region: String,
    /// When it was so.
    #[serde(default)]
    pub date: String,
    /// Who says so.
    #[serde(default)]
    pub source: String,
}

/// Prices in one currency.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Its code, such as USD.
    pub currency: String,
    price: Vec<Price>,
}

/// Why a file is no table of prices.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PriceError {
    /// It is no such TOML.
    #[error("{0}")]
    Toml(String),
    /// A price that is none.
    #[error("the price of {hardware} is {per_hour}: give a number above 0")]
    Amount {
        /// Whose.
        hardware: String,
        /// What it is.
        per_hour: f64,
    },
    /// A currency that is none.
    #[error("currency {0:?}: give a code of three letters, such as USD")]
    Currency(String),
    /// A unit that is not known.
    #[error("the price of {0} is per {1:?}: leave `per` out, or give \"core\" for host")]
    Unit(String, String),
}

/// A table that is none has no price; a test holds that it is one.
static OWN: LazyLock<Prices> = LazyLock::new(|| {
    Prices::parse(TABLE).unwrap_or(Prices { currency: "USD".to_owned(), price: Vec::new() })
});

impl Prices {
    /// The table that the command brings along.
    pub fn own() -> &'static Self {
        &OWN
    }

    /// A table out of TOML: `currency`, and `[[price]]` with at least `hardware` and `per_hour`.
    ///
    /// # Errors
    /// If it is none, or a price or the currency makes no sense.
    pub fn parse(text: &str) -> Result<Self, PriceError> {
        let prices: Self =
            toml::from_str(text).map_err(|error| PriceError::Toml(error.to_string()))?;
        let letters = |text: &str| text.len() == 3 && text.bytes().all(|c| c.is_ascii_uppercase());
        if !letters(&prices.currency) {
            return Err(PriceError::Currency(prices.currency));
        }
        for price in &prices.price {
            let (hardware, per_hour) = (price.hardware.clone(), price.per_hour);
            if !(per_hour.is_finite() && per_hour > 0.0) {
                return Err(PriceError::Amount { hardware, per_hour });
            }
            if let Some(per) = &price.per
                && (per != "core" || hardware != HOST)
            {
                return Err(PriceError::Unit(hardware, per.clone()));
            }
        }
        Ok(prices)
    }

    /// This table, with what another in the same currency has put in place of its own. A table in another
    /// currency stands alone: nothing is converted.
    #[must_use]
    pub fn overridden_by(&self, other: Self) -> Self {
        if other.currency != self.currency {
            return other;
        }
        let mut price = other.price;
        let is_new = |own: &&Price| !price.iter().any(|new| new.hardware == own.hardware);
        let kept: Vec<Price> = self.price.iter().filter(is_new).cloned().collect();
        price.extend(kept);
        Self { currency: other.currency, price }
    }

    /// What hardware costs by the hour, and the entry that says so; none where no entry does.
    pub fn of(&self, hardware: &Hardware, cores: u32) -> Option<(f64, &Price)> {
        let named = |name: &str| self.price.iter().find(|price| price.hardware == name);
        if let Some(price) = named(&hardware.name()) {
            let units = if price.per.is_some() { f64::from(cores.max(1)) } else { 1.0 };
            return Some((price.per_hour * units, price));
        }
        let price = named(&hardware.device.name)?;
        Some((price.per_hour * f64::from(hardware.count), price))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimize::hardware::{devices, host};

    #[test]
    fn every_device_of_the_command_line_has_a_price_with_its_date() {
        let table = Prices::parse(TABLE).unwrap();
        assert_eq!(&table, Prices::own());
        for price in &table.price {
            assert!(!price.date.is_empty() && !price.source.is_empty(), "{}", price.hardware);
        }
        for device in devices().iter().filter(|device| device.name != "rtx4090") {
            let hardware = Hardware { device: device.clone(), count: 2 };
            let (hour, price) = table.of(&hardware, 1).unwrap();
            assert_eq!(hour, 2.0 * price.per_hour, "{}", device.name);
        }
        assert_eq!(table.of(&host(4, 1 << 30), 4).unwrap().0, 4.0 * 0.0408);
    }

    #[test]
    fn the_users_prices_come_first_and_another_currency_stands_alone() {
        let mine = |currency: &str| {
            Prices::parse(&format!(
                "currency = '{currency}'\n[[price]]\nhardware = 't4'\nper_hour = 0.1\n\
                 [[price]]\nhardware = 'h100x8'\nper_hour = 20"
            ))
            .unwrap()
        };
        let here = host(1, 1 << 30);
        let of = |prices: &Prices, name: &str| {
            prices.of(&Hardware::parse(name, &here).unwrap(), 1).map(|(hour, _)| hour)
        };
        let dollars = Prices::own().overridden_by(mine("USD"));
        let found = ["t4", "t4x2", "a10g", "h100x8", "h100x4"].map(|name| of(&dollars, name));
        assert_eq!(found, [Some(0.1), Some(0.2), Some(1.006), Some(20.0), Some(27.52)]);
        let euros = Prices::own().overridden_by(mine("EUR"));
        assert_eq!(["t4", "a10g"].map(|name| of(&euros, name)), [Some(0.1), None]);
    }

    #[test]
    fn what_is_no_price_is_named() {
        for (text, said) in [
            ("currency = 'USD'\n[[price]]\nhardware = 't4'\nper_hour = -1", "t4 is -1"),
            ("currency = 'USD'\n[[price]]\nhardware = 't4'\nper_hour = nan", "t4 is NaN"),
            ("currency = 'dollars'\nprice = []", "three letters"),
            ("currency = 'USD'\n[[price]]\nhardware = 't4'", "per_hour"),
            ("currency = 'USD'\n[[price]]\nhardware = 't4'\nper_hour = 1\nper = 'core'", "core"),
            ("{", "TOML"),
        ] {
            let error = Prices::parse(text).unwrap_err().to_string();
            assert!(error.contains(said) || said == "TOML", "{error}");
        }
    }
}
