//! Mounting and unmounting.
//!
//! A mount ends whenever it is told to: where somebody still uses it, it is taken out of the tree of folders, and
//! what they have open fails once the process is gone. A mount whose process was killed is taken away by the next
//! one at its place.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use tokio::runtime::Handle;

use super::error::MountError;
use super::fuse::Fuse;
use super::options::{MountOptions, Shown};
use super::view::View;
use crate::transport::Transport;

/// Through which the kernel asks.
const DEVICE: &str = "/dev/fuse";
/// The type of the file system, as `mount` shows it.
const SUBTYPE: &str = "tenpak";
/// Threads that take requests from the kernel. None of them ever waits for an origin.
const THREADS: usize = 2;

/// Counts since the mount began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MountStats {
    /// Reads that the kernel asked for.
    pub reads: u64,
    /// Bytes put into the kernel's pages before it asked for them.
    pub ahead_bytes: u64,
    /// Bytes of chunks that came from the origins.
    pub fetched_bytes: u64,
    /// Requests to the origins.
    pub requests: u64,
    /// Of them those that were sent since another one's answer was late.
    pub hedges: u64,
    /// Failures that readers saw.
    pub errors: u64,
    /// Files that are kept decoded since the mount began.
    pub decoded_files: u64,
    /// Opens of files that the kernel reads itself.
    pub passed: u64,
}

/// A mounted store. Dropping it unmounts.
#[derive(Debug)]
pub struct Mount {
    view: Arc<View>,
    folder: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mount {
    /// Mounts a store, which all of `origins` hold, on a folder; the first origin is preferred. Returns when its files can
    /// be read.
    ///
    /// # Errors
    /// If the system does not mount, or the artifact is not there or does not count.
    pub async fn start(
        origins: Vec<Arc<dyn Transport>>,
        options: MountOptions,
        shown: Shown,
        folder: &Path,
    ) -> Result<Self, MountError> {
        let failed = |source| MountError::Folder { folder: folder.to_owned(), source };
        if !Path::new(DEVICE).exists() {
            return Err(MountError::NoFuse);
        }
        let name = origins.first().map_or_else(String::new, |origin| origin.location().to_owned());
        let allow_other = options.allow_other;
        let view = View::new(origins, options, shown)?;
        view.begin().await?;
        let (at, runtime, own) = (folder.to_owned(), Handle::current(), view.clone());
        let session = tokio::task::spawn_blocking(move || {
            clear_dead(&at)?;
            // Paths are compared with what the kernel lists.
            let at = at.canonicalize()?;
            let fuse = Fuse::new(own.clone(), runtime);
            let session = Session::new(fuse, &at, &config(&name, allow_other))?;
            own.pages.set_device(session.as_fd().try_clone_to_owned()?);
            Ok((session.spawn()?, at))
        });
        let session = session.await.map_err(|error| failed(io::Error::other(error)))?;
        let (session, folder) = session.map_err(|source: io::Error| {
            let is_root = rustix::process::geteuid().is_root();
            match source.kind() {
                io::ErrorKind::PermissionDenied if !can_open(DEVICE) => MountError::NoAccess,
                io::ErrorKind::NotFound if !is_root && folder.exists() => {
                    MountError::NoHelper { folder: folder.to_owned(), source }
                }
                _ => failed(source),
            }
        })?;
        Ok(Self { view, folder, session: Some(session) })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was done so far.
    pub fn stats(&self) -> MountStats {
        let source = self.view.chunks.source();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        MountStats {
            reads: count(&self.view.reads),
            ahead_bytes: count(&self.view.pages.stored),
            fetched_bytes: count(&source.stats().bytes),
            requests: count(source.origins().requests()),
            hedges: count(source.origins().hedges()),
            errors: count(&self.view.errors),
            decoded_files: self.view.decoded.as_ref().map_or(0, |files| count(&files.made)),
            passed: count(&self.view.passed),
        }
    }

    /// Whether it was unmounted by somebody else.
    pub fn is_over(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.guard.is_finished())
    }

    /// Unmounts. Gives whether somebody still uses it: then it is out of the way, and what they have open works until this
    /// process ends.
    ///
    /// # Errors
    /// If the system does not unmount.
    pub fn unmount(mut self) -> Result<bool, MountError> {
        self.end()
    }

    fn end(&mut self) -> Result<bool, MountError> {
        let Some(session) = self.session.take() else { return Ok(false) };
        if session.guard.is_finished() {
            return Ok(false);
        }
        let failed = |source| MountError::Unmount { folder: self.folder.clone(), source };
        let busy = match detach(&self.folder, false) {
            Ok(()) => false,
            Err(_) => {
                detach(&self.folder, true).map_err(failed)?;
                true
            }
        };
        match busy {
            // Its own end would unmount whatever stands here by then.
            true => std::mem::forget(session),
            false => session.join().map_err(failed)?,
        }
        Ok(busy)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Nobody is left to tell.
        drop(self.end());
    }
}

fn config(name: &str, allow_other: bool) -> Config {
    let mut config = Config::default();
    // A comma would end the option.
    let name = name.replace([',', '\\'], "_");
    config.mount_options = vec![
        MountOption::FSName(name),
        MountOption::Subtype(SUBTYPE.to_owned()),
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    config.acl = if allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config
}

fn can_open(device: &str) -> bool {
    File::options().read(true).write(true).open(device).is_ok()
}

/// Takes away a mount of ours whose process is gone.
fn clear_dead(folder: &Path) -> io::Result<()> {
    match std::fs::metadata(folder) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => detach(folder, true),
        _ => Ok(()),
    }
}

/// Unmounts the folder; a `lazy` way works whoever uses it.
fn detach(folder: &Path, lazy: bool) -> io::Result<()> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    let flags = if lazy { libc::MNT_DETACH } else { 0 } | libc::UMOUNT_NOFOLLOW;
    // SAFETY: a string that ends with a zero, alive during the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EPERM) {
        return Err(error);
    }
    // Without root, the helper that mounted it unmounts it.
    let how = if lazy { "-uz" } else { "-u" };
    let mut helper = Command::new("fusermount3");
    helper.arg(how).arg("--").arg(folder).stdin(Stdio::null()).stderr(Stdio::null());
    match helper.status()?.success() {
        true => Ok(()),
        false => Err(error),
    }
}
