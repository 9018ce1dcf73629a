//! How a file reaches the disk before anyone sees it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::{Buf, Bytes};
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;

use super::failure::Failure;
use crate::memory::pages::BLOCK;

/// From this length on, bytes that begin at a block of memory go to the disk without a copy in the
/// page cache: the copy costs as much as hashing, and a model would push everything else out.
const DIRECT: usize = 1 << 20;
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
    let mut rest: Vec<Bytes> = parts.iter().filter(|p| !p.is_empty()).cloned().collect();
    let direct = match rest.first_mut() {
        Some(first) => write_direct(file, first)?,
        None => 0,
    };
    let mut started = direct;
    let mut written = direct;
    rest.retain(|part| !part.is_empty());
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

/// Writes whole blocks from the front of `part` past the page cache and takes them off; how many
/// bytes. What the file system refuses to take so is left.
#[cfg(target_os = "linux")]
fn write_direct(mut file: &File, part: &mut Bytes) -> Result<u64, Failure> {
    if part.len() < DIRECT || part.as_ptr().align_offset(BLOCK) != 0 {
        return Ok(0);
    }
    let flags = rustix::fs::fcntl_getfl(file)?;
    if rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT).is_err() {
        return Ok(0);
    }
    let mut written = 0;
    while let Some(blocks) = part.get(..part.len() / BLOCK * BLOCK).filter(|b| !b.is_empty()) {
        let n = match file.write(blocks) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => break,
            Err(e) => return Err(e.into()),
        };
        part.advance(n);
        written += n as u64;
        if n == 0 || n % BLOCK != 0 {
            break;
        }
    }
    rustix::fs::fcntl_setfl(file, flags)?;
    Ok(written)
}

#[cfg(not(target_os = "linux"))]
fn write_direct(_: &File, _: &mut Bytes) -> Result<u64, Failure> {
    Ok(0)
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
