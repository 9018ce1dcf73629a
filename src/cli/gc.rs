//! `tenpak gc`.

use std::time::Duration;

use serde_json::{Value, json};

use super::error::Failure;
use super::output::Output;
use super::{Global, bytes};
use crate::maintain::{CollectOptions, collect};
use crate::transport::ObjectInfo;

#[derive(Debug, clap::Args)]
pub(super) struct Gc {
    /// Only report what would be marked and freed
    #[arg(long)]
    dry_run: bool,
    /// How long an object that nothing names is kept after it was marked: 30s, 45m, 24h, 7d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    grace: Duration,
}

/// Reads a number with an `s`, `m`, `h` or `d` behind it; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write 30s, 45m, 24h or 7d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.strip_prefix(digits) {
        Some("" | "s") => 1,
        Some("m") => 60,
        Some("h") => 60 * 60,
        Some("d") => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(wrong)
}

fn sum<'a>(objects: impl IntoIterator<Item = &'a ObjectInfo>) -> (u64, u64) {
    objects.into_iter().fold((0, 0), |(n, bytes), object| (n + 1, bytes + object.size))
}

fn counted((objects, bytes): (u64, u64)) -> Value {
    json!({"objects": objects, "bytes": bytes})
}

fn listed<'a>(objects: impl IntoIterator<Item = &'a ObjectInfo>) -> Vec<String> {
    objects.into_iter().map(|object| object.path.to_string()).collect()
}

impl Gc {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let store = global.existing_store().await?;
        let options = CollectOptions { grace: self.grace, dry_run: self.dry_run };
        let done = collect(&store, options).await?;
        let (marked, waiting) = (sum(&done.decision.mark), sum(&done.decision.wait));
        let freed = sum(&done.freed);
        let mut object = json!({
            "dry_run": self.dry_run,
            "live": counted(done.live),
            "marked": counted(marked),
            "waiting": counted(waiting),
            "freed": counted(freed),
            "unmarked": done.decision.unmark.len(),
            "leases": done.leases,
            "expired_leases": done.expired_leases,
            "swept": done.swept,
        });
        if self.dry_run
            && let Some(fields) = object.as_object_mut()
        {
            fields.insert("mark".to_owned(), listed(&done.decision.mark).into());
            fields.insert("free".to_owned(), listed(&done.freed).into());
        }
        output.result(object, || {
            let would = if self.dry_run { "would be " } else { "" };
            let mut text = String::new();
            if self.dry_run {
                for object in &done.freed {
                    text += &format!("free  {:>9}  {}\n", bytes::size(object.size), object.path);
                }
                for object in &done.decision.mark {
                    text += &format!("mark  {:>9}  {}\n", bytes::size(object.size), object.path);
                }
            }
            let line = |(n, size): (u64, u64)| format!("{n} objects, {}", bytes::size(size));
            text += &format!(
                "{would}freed: {}\n{would}marked: {}; freed by a later gc, once the grace period \
                 has passed\nmarked earlier, waiting: {}\nneeded: {}\n",
                line(freed),
                line(marked),
                line(waiting),
                line(done.live)
            );
            if done.leases > 0 {
                text += &format!("{} writers are running, or were interrupted\n", done.leases);
            }
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_refused() {
        for (text, seconds) in
            [("0", 0), ("30s", 30), ("45m", 2700), ("24h", 86400), ("7d", 604800)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for bad in ["", "h", "-1h", "1w", "1.5h", "99999999999999999999d", "9999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
