//! Numbers with how sure they are, and what that says of limits. Pure.

use serde::{Deserialize, Serialize};

/// Where a number comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// It follows from shapes and the recipe.
    Exact,
    /// It was measured here.
    Measured,
    /// A model of the hardware says so.
    Modelled,
}

/// A number, and where it lies with the confidence that its source states.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The number.
    pub value: f64,
    /// Not below this; minus infinity where nothing is known.
    #[serde(serialize_with = "finite")]
    pub low: f64,
    /// Not above this.
    #[serde(serialize_with = "finite")]
    pub high: f64,
    /// Where it comes from.
    pub source: Source,
}

/// JSON has no infinity: what is not bounded is null.
fn finite<S: serde::Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    value.is_finite().then_some(*value).serialize(to)
}

/// What a figure says of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It surely keeps it.
    Met,
    /// The limit lies inside what is known.
    Undecided,
    /// It surely does not.
    Missed,
}

impl Figure {
    /// A number that is known.
    pub const fn exact(value: f64) -> Self {
        Self { value, low: value, high: value, source: Source::Exact }
    }

    /// A number that was measured, with its interval.
    pub const fn measured(value: f64, low: f64, high: f64) -> Self {
        Self { value, low, high, source: Source::Measured }
    }

    /// A number of a model that is off by at most this factor.
    pub fn modelled(value: f64, factor: f64) -> Self {
        Self { value, low: value / factor, high: value * factor, source: Source::Modelled }
    }

    /// The same through a function that rises.
    #[must_use]
    pub fn rising(self, map: impl Fn(f64) -> f64) -> Self {
        Self { value: map(self.value), low: map(self.low), high: map(self.high), ..self }
    }

    /// The same through a function that falls.
    #[must_use]
    pub fn falling(self, map: impl Fn(f64) -> f64) -> Self {
        Self { value: map(self.value), low: map(self.high), high: map(self.low), ..self }
    }

    /// Whether it is at most `limit`. What is no number keeps no limit.
    pub fn at_most(self, limit: f64) -> Verdict {
        match self {
            Self { value, .. } if !value.is_finite() => Verdict::Missed,
            Self { high, .. } if high <= limit => Verdict::Met,
            Self { low, .. } if low > limit => Verdict::Missed,
            _ => Verdict::Undecided,
        }
    }

    /// Whether it is at least `limit`.
    pub fn at_least(self, limit: f64) -> Verdict {
        match self {
            Self { value, .. } if !value.is_finite() => Verdict::Missed,
            Self { low, .. } if low >= limit => Verdict::Met,
            Self { high, .. } if high < limit => Verdict::Missed,
            _ => Verdict::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_inside_the_interval_is_undecided() {
        let figure = Figure::measured(2.0, 1.0, 3.0);
        let at_most: Vec<_> = [0.5, 1.0, 2.0, 3.0].map(|limit| figure.at_most(limit)).into();
        use Verdict::{Met, Missed, Undecided};
        assert_eq!(at_most, [Missed, Undecided, Undecided, Met]);
        let at_least: Vec<_> = [1.0, 1.5, 3.0, 3.5].map(|limit| figure.at_least(limit)).into();
        assert_eq!(at_least, [Met, Undecided, Undecided, Missed]);
        assert_eq!(Figure::exact(f64::NAN).at_most(1.0), Missed);
        assert_eq!(Figure::exact(f64::NAN).at_least(1.0), Missed);
        let falling = Figure::modelled(4.0, 2.0).falling(|v| 8.0 / v);
        assert_eq!((falling.low, falling.value, falling.high), (1.0, 2.0, 4.0));
    }
}
