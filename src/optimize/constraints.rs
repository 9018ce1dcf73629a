//! What a candidate must keep, and what is the best of those that do. Pure.

use serde::Serialize;

use super::figure::{Figure, Verdict};

/// Which of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Percentile {
    /// The middle one.
    #[default]
    P50,
    /// All but the slowest tenth.
    P90,
    /// All but the slowest twentieth.
    P95,
    /// All but the slowest hundredth.
    P99,
}

/// What of a request takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LatencyOf {
    /// Until the first token is there.
    FirstToken,
    /// Each token after the first.
    #[default]
    PerToken,
    /// All of it.
    Request,
}

/// What is to be the least, or the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Money for a million tokens.
    #[default]
    Cost,
    /// Time, as the limit of latency takes it.
    Latency,
    /// Memory of the device.
    Memory,
    /// What the model loses.
    Quality,
}

macro_rules! spelled {
    ($name:ident: $($variant:ident = $text:literal),* $(,)?) => {
        impl $name {
            /// What it is called.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(format!("there are {}", [$($text),*].join(", "))),
                }
            }
        }
    };
}

spelled!(Percentile: P50 = "p50", P90 = "p90", P95 = "p95", P99 = "p99");
spelled!(LatencyOf: FirstToken = "first-token", PerToken = "per-token", Request = "request");
spelled!(Objective: Cost = "cost", Latency = "latency", Memory = "memory", Quality = "quality");

impl Percentile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::P50, Self::P90, Self::P95, Self::P99];

    /// As a share.
    pub const fn share(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P90 => 0.9,
            Self::P95 => 0.95,
            Self::P99 => 0.99,
        }
    }
}

/// Limits; those that are not given are not looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct OptimizationConstraints {
    /// How much perplexity may rise above the unquantized model's, in percent of it.
    pub max_ppl_delta: Option<f64>,
    /// The most mean KL divergence from the unquantized model, in nats per token.
    pub max_kl: Option<f64>,
    /// The most milliseconds.
    pub max_latency_ms: Option<f64>,
    /// Of which of the requests.
    pub percentile: Percentile,
    /// Of what.
    pub latency_of: LatencyOf,
    /// The fewest tokens that are made in a second, of all requests together.
    pub min_tokens_per_s: Option<f64>,
    /// How many times smaller all tensors of the model are, at least.
    pub min_compression: Option<f64>,
    /// The most bytes of memory of each device.
    pub max_memory: Option<u64>,
}

/// A limit that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{limit} {value}: give {expected}")]
#[non_exhaustive]
pub struct ConstraintError {
    /// Which.
    pub limit: &'static str,
    /// What it is.
    pub value: f64,
    /// What it may be.
    pub expected: &'static str,
}

/// A limit by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// How many times smaller.
    MinCompression,
    /// Memory of each device.
    MaxMemory,
    /// Time.
    MaxLatencyMs,
    /// Throughput.
    MinTokensPerS,
    /// Perplexity.
    MaxPplDelta,
    /// Divergence.
    MaxKl,
}

impl Limit {
    /// The flag that sets it.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::MinCompression => "--min-compression",
            Self::MaxMemory => "--max-memory",
            Self::MaxLatencyMs => "--max-latency-ms",
            Self::MinTokensPerS => "--min-tokens-per-s",
            Self::MaxPplDelta => "--max-ppl-delta",
            Self::MaxKl => "--max-kl",
        }
    }

    /// What it bounds, with its unit.
    pub const fn what(self) -> (&'static str, &'static str) {
        match self {
            Self::MinCompression => ("compression", "x"),
            Self::MaxMemory => ("memory", " bytes"),
            Self::MaxLatencyMs => ("latency", " ms"),
            Self::MinTokensPerS => ("throughput", " tokens/s"),
            Self::MaxPplDelta => ("perplexity", "%"),
            Self::MaxKl => ("KL divergence", " nats"),
        }
    }

    const fn is_floor(self) -> bool {
        matches!(self, Self::MinCompression | Self::MinTokensPerS)
    }
}

/// What is known of a candidate; limits of what is not known are undecided.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Figures {
    /// How many times smaller the tensors are than the model's own.
    pub compression: Option<Figure>,
    /// Bytes on each device, with the caches of the workload.
    pub memory: Option<Figure>,
    /// Milliseconds, as the constraint takes them.
    pub latency_ms: Option<Figure>,
    /// Tokens made in a second, of all requests together.
    pub tokens_per_second: Option<Figure>,
    /// Money for a million tokens that are made.
    pub cost_per_1m_tokens: Option<Figure>,
    /// How much perplexity rises, in percent.
    pub ppl_delta_percent: Option<Figure>,
    /// Mean KL divergence.
    pub kl: Option<Figure>,
}

/// What a limit says of a candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    /// Which limit.
    pub limit: Limit,
    /// What it is.
    pub bound: f64,
    /// What the candidate has.
    pub figure: Option<Figure>,
    /// How they go together.
    pub verdict: Verdict,
}

impl OptimizationConstraints {
    /// The limits that are set, each with its value.
    pub fn limits(&self) -> impl Iterator<Item = (Limit, f64)> {
        [
            (Limit::MinCompression, self.min_compression),
            (Limit::MaxMemory, self.max_memory.map(|bytes| bytes as f64)),
            (Limit::MaxLatencyMs, self.max_latency_ms),
            (Limit::MinTokensPerS, self.min_tokens_per_s),
            (Limit::MaxPplDelta, self.max_ppl_delta),
            (Limit::MaxKl, self.max_kl),
        ]
        .into_iter()
        .filter_map(|(limit, value)| Some((limit, value?)))
    }

    /// Whether a candidate could keep each limit, as far as one of them alone says.
    ///
    /// # Errors
    /// If one makes no sense; the first is given.
    pub fn check(&self) -> Result<(), ConstraintError> {
        for (limit, value) in self.limits() {
            // Perplexity can fall; all else is positive.
            let (least, expected) = match limit {
                Limit::MaxPplDelta => (-100.0, "a number of percent above -100"),
                _ => (0.0, "a number above 0"),
            };
            if !(value.is_finite() && value > least) {
                return Err(ConstraintError { limit: limit.flag(), value, expected });
            }
        }
        Ok(())
    }

    /// What the limits say of a candidate.
    pub fn judge(&self, figures: &Figures) -> Vec<Finding> {
        let of = |limit| match limit {
            Limit::MinCompression => figures.compression,
            Limit::MaxMemory => figures.memory,
            Limit::MaxLatencyMs => figures.latency_ms,
            Limit::MinTokensPerS => figures.tokens_per_second,
            Limit::MaxPplDelta => figures.ppl_delta_percent,
            Limit::MaxKl => figures.kl,
        };
        let finding = |(limit, bound): (Limit, f64)| {
            let figure = of(limit);
            let verdict = match figure {
                None => Verdict::Undecided,
                Some(figure) if limit.is_floor() => figure.at_least(bound),
                Some(figure) => figure.at_most(bound),
            };
            Finding { limit, bound, figure, verdict }
        };
        self.limits().map(finding).collect()
    }
}

impl Finding {
    /// The value of the limit that the candidate would keep.
    pub fn would_keep(&self) -> Option<f64> {
        let figure = self.figure?;
        let value = if self.limit.is_floor() { figure.low } else { figure.high };
        value.is_finite().then_some(value)
    }

    /// Why the candidate is dropped, in words.
    pub fn in_words(&self) -> String {
        let (what, unit) = self.limit.what();
        let bound = number(self.bound);
        let Some(figure) = self.figure else {
            return format!("{what} is not known, and {} is {bound}{unit}", self.limit.flag());
        };
        let more = match self.limit {
            Limit::MaxPplDelta => format!("perplexity changes by {}%", number(figure.value)),
            _ => format!("{what} is {}{unit}", number(figure.value)),
        };
        let range = match figure.low < figure.high {
            true => format!(" ({} to {})", number(figure.low), number(figure.high)),
            false => String::new(),
        };
        let word = match figure.source {
            super::figure::Source::Modelled => ", modelled",
            super::figure::Source::Exact | super::figure::Source::Measured => "",
        };
        let verdict = match self.verdict {
            Verdict::Undecided => {
                format!("undecided: {} {bound} lies inside", self.limit.flag())
            }
            _ => format!("{} is {bound}", self.limit.flag()),
        };
        format!("{more}{range}{word}; {verdict}")
    }
}

/// A number for people: four significant digits.
pub fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "any".to_owned() } else { "none".to_owned() };
    }
    let magnitude = value.abs().max(1e-12).log10().floor() as i32;
    let digits = usize::try_from((3 - magnitude).clamp(0, 8)).unwrap_or(0);
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_by_name() {
        let of = |max_ppl_delta, min_compression| OptimizationConstraints {
            max_ppl_delta,
            min_compression,
            ..OptimizationConstraints::default()
        };
        of(Some(-1.0), Some(0.5)).check().unwrap();
        let said = of(Some(f64::NAN), None).check().unwrap_err().to_string();
        assert!(said.contains("--max-ppl-delta NaN"), "{said}");
        let said = of(None, Some(0.0)).check().unwrap_err().to_string();
        assert!(said.contains("--min-compression 0: give a number above 0"), "{said}");
        assert!(of(None, Some(f64::INFINITY)).check().is_err());
    }

    #[test]
    fn what_is_not_known_is_undecided_and_reasons_name_both_numbers() {
        let limits = OptimizationConstraints {
            max_ppl_delta: Some(2.0),
            min_compression: Some(3.0),
            ..OptimizationConstraints::default()
        };
        let figures = Figures { compression: Some(Figure::exact(2.8)), ..Figures::default() };
        let found = limits.judge(&figures);
        let verdicts: Vec<_> = found.iter().map(|own| own.verdict).collect();
        assert_eq!(verdicts, [Verdict::Missed, Verdict::Undecided]);
        assert_eq!(found[0].in_words(), "compression is 2.8x; --min-compression is 3");
        assert_eq!(found[0].would_keep(), Some(2.8));
        let ppl = Figure::measured(1.9, 1.5, 2.3);
        let found = limits.judge(&Figures { ppl_delta_percent: Some(ppl), ..figures });
        assert_eq!(
            found[1].in_words(),
            "perplexity changes by 1.9% (1.5 to 2.3); undecided: --max-ppl-delta 2 lies inside"
        );
        assert_eq!(found[1].would_keep(), Some(2.3));
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!("first-token".parse(), Ok(LatencyOf::FirstToken));
        assert_eq!("p95".parse(), Ok(Percentile::P95));
        assert!("money".parse::<Objective>().unwrap_err().contains("cost, latency"));
        assert_eq!([number(0.012345), number(1234.56), number(2.0)], ["0.01235", "1235", "2"]);
    }
}
