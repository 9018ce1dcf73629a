//! What is asked of the model: lengths of requests, how many at once, how busy the machine is. Pure.

use serde::Serialize;

/// The most requests of a file that are looked at.
const MAX_REQUESTS: usize = 1_000_000;
/// The longest text, in tokens, that is believed.
const MAX_TOKENS: u64 = 1 << 24;

/// What of a workload makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// A number out of bounds.
    #[error("{what} is {value}: give {least} to {most}")]
    Bounds {
        /// Which.
        what: &'static str,
        /// What it is.
        value: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// A line that is no request.
    #[error("line {0}: expected the tokens of a prompt and of its answer, such as `512 128`")]
    Line(usize),
    /// Nothing in it.
    #[error("no request in it: each line has the tokens of a prompt and of its answer")]
    Empty,
}

/// What is asked of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Tokens of prompt and answer of each request, sorted.
    #[serde(skip)]
    requests: Vec<(u64, u64)>,
    /// Requests at once.
    pub concurrency: u64,
    /// How busy the machine is, in hundredths.
    pub utilization_percent: u64,
}

impl Default for Workload {
    fn default() -> Self {
        Self { requests: vec![(512, 128)], concurrency: 1, utilization_percent: 100 }
    }
}

fn within(what: &'static str, value: u64, least: u64, most: u64) -> Result<u64, WorkloadError> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(WorkloadError::Bounds { what, value, least, most }),
    }
}

impl Workload {
    /// Requests that are all of these lengths.
    ///
    /// # Errors
    /// If a number is zero, or absurd.
    pub fn new(input: u64, output: u64, concurrency: u64) -> Result<Self, WorkloadError> {
        Self::of(vec![(input, output)], concurrency)
    }

    /// Requests of these lengths.
    fn of(mut requests: Vec<(u64, u64)>, concurrency: u64) -> Result<Self, WorkloadError> {
        for (input, output) in &requests {
            within("the number of input tokens", *input, 1, MAX_TOKENS)?;
            within("the number of output tokens", *output, 1, MAX_TOKENS)?;
        }
        within("concurrency", concurrency, 1, 4096)?;
        requests.sort_unstable();
        Ok(Self { requests, concurrency, utilization_percent: 100 })
    }

    /// Requests out of a text: on each line the tokens of a prompt and of its answer, apart by blanks, a
    /// comma or a tab. A first line of words is a heading.
    ///
    /// # Errors
    /// If a line is no request, or there is none.
    pub fn parse(text: &str, concurrency: u64) -> Result<Self, WorkloadError> {
        let mut requests = Vec::new();
        for (number, line) in text.lines().enumerate().take(MAX_REQUESTS) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let split = |c: char| c.is_whitespace() || c == ',' || c == ';';
            let fields: Vec<Result<u64, _>> =
                line.split(split).filter(|field| !field.is_empty()).map(str::parse).collect();
            match fields.as_slice() {
                [Ok(input), Ok(output)] => requests.push((*input, *output)),
                [Err(_), ..] if requests.is_empty() && number == 0 => {}
                _ => return Err(WorkloadError::Line(number + 1)),
            }
        }
        if requests.is_empty() {
            return Err(WorkloadError::Empty);
        }
        Self::of(requests, concurrency)
    }

    /// On a machine that is idle for the rest.
    ///
    /// # Errors
    /// If it is not 1 to 100.
    pub fn utilized(mut self, percent: u64) -> Result<Self, WorkloadError> {
        self.utilization_percent = within("utilization in percent", percent, 1, 100)?;
        Ok(self)
    }

    /// The mean tokens of a prompt and of an answer.
    pub fn mean(&self) -> (f64, f64) {
        let count = self.requests.len().max(1) as f64;
        let sum = |of: fn(&(u64, u64)) -> u64| self.requests.iter().map(of).sum::<u64>() as f64;
        (sum(|own| own.0) / count, sum(|own| own.1) / count)
    }

    /// The tokens of the longest prompt with its answer.
    pub fn longest(&self) -> u64 {
        self.requests.iter().map(|(input, output)| input + output).max().unwrap_or(0)
    }

    /// The quantile of something that each request takes, by nearest rank.
    pub fn quantile(&self, of: impl Fn(f64, f64) -> f64, quantile: f64) -> f64 {
        let mut all: Vec<f64> =
            self.requests.iter().map(|(input, output)| of(*input as f64, *output as f64)).collect();
        all.sort_by(f64::total_cmp);
        let rank = (quantile * all.len() as f64).ceil().max(1.0) as usize;
        all.get(rank - 1).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_nonsense_is_named() {
        let read = Workload::parse("input,output\n100,10\n# night\n\n300 30\n", 4).unwrap();
        assert_eq!((read.mean(), read.longest(), read.concurrency), ((200.0, 20.0), 330, 4));
        assert_eq!(read.quantile(|input, _| input, 0.5), 100.0);
        assert_eq!(read.quantile(|input, _| input, 0.95), 300.0);
        for (text, said) in [
            ("", "no request"),
            ("100\n", "line 1"),
            ("1 1\nx y\n", "line 2"),
            ("1 2 3", "line 1"),
            ("0 1", "input tokens is 0"),
            ("1 99999999999", "output tokens"),
            ("-1 1", "no request"),
        ] {
            let error = Workload::parse(text, 1).unwrap_err().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
        assert!(Workload::new(1, 1, 0).is_err() && Workload::new(1, 1, 5000).is_err());
        assert!(Workload::default().utilized(0).is_err());
        assert_eq!(Workload::default().utilized(40).unwrap().utilization_percent, 40);
    }
}
