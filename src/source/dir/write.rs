//! How a file reaches the disk before anyone sees it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::{Buf, Bytes};
use rustix::fs::Advice;

use super::Failure;

/// Write-back is started every so many bytes, so that the disk works while the rest is written.
const WRITE_BACK: u64 = 8 << 20;

static NEXT_TEMP: AtomicU64 = AtomicU64::new(0);

/// A written file that is removed unless it is published.
pub(super) struct Temp {
    path: PathBuf,
    kept: bool,
}

impl Temp {
    /// Writes a new file in `folder` and waits until it is on the disk.
    pub(super) fn write(folder: &Path, parts: &[Bytes]) -> Result<Self, Failure> {
        let name = format!(
            "{}-{:x}-{}",
            std::process::id(),
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos(),
            NEXT_TEMP.fetch_add(1, Ordering::Relaxed)
        );
        fs::create_dir_all(folder)?;
        let path = folder.join(name);
        let file = OpenOptions::new().create_new(true).write(true).open(&path)?;
        let temp = Self { path, kept: true };
        write_parts(&file, parts)?;
        // The data, its length included; times may lag.
        file.sync_data()?;
        Ok(temp)
    }

    /// Gives the file its name, in the place of what has it now.
    pub(super) fn publish(mut self, target: &Path) -> Result<(), Failure> {
        fs::rename(&self.path, target)?;
        self.kept = false;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if self.kept && fs::remove_file(&self.path).is_err() {
            // A later sweep takes it: nobody lists it meanwhile.
        }
    }
}

fn write_parts(mut file: &File, parts: &[Bytes]) -> Result<(), Failure> {
    let mut started = 0u64;
    let mut written = 0u64;
    let mut rest: Vec<Bytes> = parts.iter().filter(|p| !p.is_empty()).cloned().collect();
    rest.reverse();
    while !rest.is_empty() {
        let slices: Vec<IoSlice<'_>> =
            rest.iter().rev().take(64).map(|p| IoSlice::new(p)).collect();
        let mut n = match file.write_vectored(&slices) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e.into()),
        };
        written += n as u64;
        while let Some(part) = rest.last_mut() {
            if n < part.len() {
                part.advance(n);
                break;
            }
            n -= part.len();
            rest.pop();
        }
        if written - started >= WRITE_BACK {
            // On Linux this starts writing dirty pages and does not wait for them.
            let length = NonZeroU64::new(written - started);
            rustix::fs::fadvise(file, started, length, Advice::DontNeed)?;
            started = written;
        }
    }
    Ok(())
}

pub(super) fn make_parent(target: &Path) -> Result<(), Failure> {
    match target.parent() {
        Some(parent) if !parent.is_dir() => Ok(fs::create_dir_all(parent)?),
        _ => Ok(()),
    }
}

pub(super) fn sync_parent(target: &Path) -> Result<(), Failure> {
    match target.parent() {
        Some(parent) => Ok(File::open(parent)?.sync_all()?),
        None => Ok(()),
    }
}
