//! `tenpak sign-url`.

use std::path::PathBuf;

use serde_json::json;

use super::edge_settings::url_key;
use super::error::Failure;
use super::output::Output;
use crate::store::unix_now;

#[derive(Debug, clap::Args)]
pub(super) struct SignUrl {
    /// The URL of a file or object at an edge
    url: String,
    /// The key file that the edge has as --url-key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// How long the URL is valid: a number and s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = seconds)]
    expires: u64,
}

/// Reads `90s`, `15m`, `1h` or `7d` as seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time: a number, and s, m, h or d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let length = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = text.trim_end_matches(unit).parse().map_err(|_| wrong())?;
    number.checked_mul(length).ok_or_else(wrong)
}

impl SignUrl {
    pub(super) fn run(self, output: &Output) -> Result<(), Failure> {
        let expires = unix_now().saturating_add(self.expires);
        let url = url_key(&self.key)?.sign(&self.url, expires).map_err(Failure::usage)?;
        output.result(json!({"url": url, "expires": expires}), || url.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_read() {
        for (text, expected) in [("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604_800)] {
            assert_eq!(seconds(text), Ok(expected));
        }
        for bad in ["", "h", "1", "-1h", "1.5h", "1w", "99999999999999999999s", "9999999999999999d"]
        {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
