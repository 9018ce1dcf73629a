//! Whether bytes that came are those that were listed.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::listing::{Check, RemoteFile};

/// Whether a file has the bytes that were listed.
pub(super) fn is_right(file: &RemoteFile, path: &Path) -> std::io::Result<bool> {
    let length = fs::metadata(path)?.len();
    if file.size.is_some_and(|size| size != length) {
        return Ok(false);
    }
    let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok(match &file.check {
        Check::Nothing => true,
        Check::Sha256(expected) => {
            let mut hasher = Sha256::new();
            read(path, |piece| hasher.update(piece))?;
            hex(&hasher.finalize()) == *expected
        }
        Check::Git(expected) => {
            let mut hasher = Sha1::new();
            hasher.update(format!("blob {length}\0"));
            read(path, |piece| hasher.update(piece))?;
            hex(&hasher.finalize()) == *expected
        }
    })
}

fn read(path: &Path, mut each: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => each(buffer.get(..read).unwrap_or_default()),
        }
    }
}
