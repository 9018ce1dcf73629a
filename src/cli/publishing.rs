//! What every command that packs asks about signing and threads.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::Global;
use super::error::Failure;
use crate::format::name::{ArtifactName, Tag};
use crate::pack::{PackOptions, PackReport};
use crate::store::Lifetime;
use crate::trust::Signer;

#[derive(Debug, clap::Args)]
pub(super) struct Publishing {
    /// Sign with this secret key (repeatable)
    #[arg(long, value_name = "KEY")]
    sign: Vec<PathBuf>,
    /// Days until the name must be signed again
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    expires: u32,
    /// Threads that hash and encode [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

impl Publishing {
    /// How the result is packed: what one signs with, one trusts.
    pub(super) fn options(&self, global: &Global) -> Result<PackOptions, Failure> {
        let mut options = PackOptions {
            trust: global.trust()?,
            lifetime: lifetime(self.expires),
            ..PackOptions::default()
        };
        options.gate = global.gate.clone();
        options.threads = self.threads.unwrap_or(options.threads);
        for path in &self.sign {
            let signer = Signer::load(path, None)?;
            if let Some(key) = signer.verifying_key() {
                options.trust.add_ed25519(key, None).map_err(Failure::failed)?;
            }
            options.signers.push(signer);
        }
        Ok(options)
    }
}

/// What the result of every command that packs a whole model says.
pub(super) fn packed(
    report: &PackReport,
    (name, tag): (&ArtifactName, &Tag),
    seconds: f64,
    more: Value,
) -> Value {
    let totals = report.totals;
    let mut object = json!({
        "manifest": report.manifest,
        "name": name,
        "tag": tag,
        "files": totals.files,
        "tensors": totals.tensors,
        "raw_bytes": totals.raw_bytes,
        "stored_bytes": totals.stored_bytes,
        "new_bytes": report.new_bytes,
        "version": report.published.version,
        "expires": report.published.expires,
        "seconds": seconds,
    });
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

/// The lifetime that a number of days means.
pub(super) fn lifetime(days: u32) -> Lifetime {
    Lifetime(Duration::from_secs(u64::from(days) * 24 * 60 * 60))
}
