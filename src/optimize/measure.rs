//! Speed that is measured on this machine.

use tokio::runtime::Handle;

use super::latency::Speed;
use super::workload::Workload;
use crate::store::artifact::Artifact;

/// How fast the embedded engine runs an artifact here, under a workload: all figures measured, with their
/// intervals.
///
/// # Errors
/// If it cannot be measured, or the machine is too noisy: the reason, in words.
pub(super) fn measure_host(
    _artifact: &Artifact,
    _workload: &Workload,
    _runtime: &Handle,
) -> Result<Speed, String> {
    Err("not built yet".to_owned())
}
