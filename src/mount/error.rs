//! Why a mount cannot be.

use std::io;
use std::path::PathBuf;

use crate::edge::EdgeError;
use crate::store::StoreError;
use std::sync::Arc;

/// A mount that was not made, or could not be taken away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The system has no FUSE.
    #[error(
        "there is no /dev/fuse: load the kernel's module (`modprobe fuse`), or give the container the device \
         (`--device /dev/fuse --cap-add SYS_ADMIN`)"
    )]
    NoFuse,
    /// The system's FUSE is not for this user.
    #[error(
        "/dev/fuse may not be opened by this user: open it to all (`chmod 666 /dev/fuse`), as it is where udev runs"
    )]
    NoAccess,
    /// Nobody but root mounts without `fusermount3`.
    #[error("{}: {source}; without root, `fusermount3` (package fuse3) mounts", folder.display())]
    NoHelper {
        /// Where it was to be mounted.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The folder cannot be mounted on.
    #[error("cannot mount on {}: {source}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The mount cannot be taken away.
    #[error("cannot unmount {}: {source}", folder.display())]
    Unmount {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] EdgeError),
    /// What is to be mounted is not there, or does not count.
    #[error(transparent)]
    Store(Arc<StoreError>),
}
