//! What every command that packs asks about signing and threads.

use std::path::PathBuf;
use std::time::Duration;

use super::Global;
use super::error::Failure;
use crate::pack::PackOptions;
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

/// The lifetime that a number of days means.
pub(super) fn lifetime(days: u32) -> Lifetime {
    Lifetime(Duration::from_secs(u64::from(days) * 24 * 60 * 60))
}
