//! What a request may read: artifacts of the store, uploads, folders that the operator allows, and models elsewhere.
//!
//! A source is told apart by a digest, so that the same request for the same content is the same job. Whatever the
//! caller may not read is said not to be there.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::outside::{Place, is_elsewhere};
use super::problem::Problem;
use super::state::Studio;
use super::tokens::Caller;
use super::uploads::UploadId;
use crate::format::name::ArtifactSpec;
use crate::store::StoreError;
use crate::store::artifact::Artifact;

/// How long it may take to find out what lies elsewhere.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
/// Files of a folder that is a model, at most.
const MAX_FILES: usize = 4096;

/// A source that is there.
#[derive(Debug)]
pub(super) struct Source {
    /// What the command is given.
    pub(super) argument: String,
    /// What it holds.
    pub(super) digest: String,
    /// How much that is.
    pub(super) bytes: u64,
}

/// Finds a source.
pub(super) async fn find(studio: &Studio, caller: &Caller, text: &str) -> Result<Source, Problem> {
    if is_elsewhere(text) {
        return elsewhere(studio, caller, text).await;
    }
    if let Some(id) = text.strip_prefix("upload:") {
        let id: UploadId = id.parse().map_err(Problem::invalid)?;
        let folder = studio.uploads.whole(&caller.tenant, &id)?;
        return of_folder(&folder, text).await;
    }
    if text.starts_with('/') || text.starts_with('.') || text.starts_with('~') {
        let folder = allowed(&studio.allow_paths, text)?;
        return of_folder(&folder, text).await;
    }
    artifact(studio, caller, text).await
}

/// A model elsewhere, at the revision that it has now.
async fn elsewhere(studio: &Studio, caller: &Caller, text: &str) -> Result<Source, Problem> {
    let place = Place::parse(text)?;
    if !place.is_own() && !caller.may_fetch(text) {
        let detail =
            format!("{text}: this token's jobs may not read there (sources= of the token file)");
        return Err(Problem::new(axum::http::StatusCode::FORBIDDEN, detail));
    }
    let hub = studio.hubs.hub(&caller.tenant).map_err(Problem::invalid)?;
    let finding = studio.outside.find(&place, &hub);
    let late = |_| {
        Err(Problem::later(
            axum::http::StatusCode::GATEWAY_TIMEOUT,
            format!("{text} takes too long"),
            30,
        ))
    };
    match tokio::time::timeout(PATIENCE, finding).await {
        Ok(found) => {
            let (argument, digest, bytes) = found?;
            Ok(Source { argument, digest, bytes })
        }
        Err(elapsed) => late(elapsed),
    }
}

/// An artifact that the caller may read.
pub(super) async fn artifact(
    studio: &Studio,
    caller: &Caller,
    text: &str,
) -> Result<Source, Problem> {
    let spec: ArtifactSpec =
        text.parse().map_err(|error| Problem::invalid(format!("{text}: {error}")))?;
    let opened = open(studio, caller, &spec).await?;
    let bytes = opened.manifest().totals.raw_bytes;
    Ok(Source { argument: spec.to_string(), digest: opened.id().to_string(), bytes })
}

/// Opens an artifact that the caller may read.
pub(super) async fn open(
    studio: &Studio,
    caller: &Caller,
    spec: &ArtifactSpec,
) -> Result<Artifact, Problem> {
    let absent = || Problem::absent(format!("artifact {spec}"));
    let readable = match spec {
        ArtifactSpec::Named { name, .. } => caller.may_read(name),
        ArtifactSpec::Id(_) => caller.reads_all(),
    };
    if !readable {
        return Err(absent());
    }
    Artifact::open(studio.store.clone(), spec, &studio.open).await.map_err(|error| match error {
        StoreError::NoArtifact { .. } | StoreError::NoStore { .. } => absent(),
        StoreError::Transport(error) => {
            tracing::warn!(%error, "the store does not answer");
            let status = axum::http::StatusCode::SERVICE_UNAVAILABLE;
            Problem::later(status, "the store does not answer", 5)
        }
        error => Problem::invalid(error),
    })
}

/// The folder of a path below an allowed one, links followed.
fn allowed(folders: &[PathBuf], text: &str) -> Result<PathBuf, Problem> {
    let absent = || Problem::absent(format!("model at {text}"));
    // What is not allowed is not told from what is not there.
    let path = Path::new(text).canonicalize().map_err(|_| absent())?;
    let is_below =
        |folder: &PathBuf| folder.canonicalize().is_ok_and(|folder| path.starts_with(folder));
    if !folders.iter().any(is_below) {
        return Err(absent());
    }
    // Nothing in it leads out again.
    let mut left = MAX_FILES;
    let inside = |path: &Path| {
        folders
            .iter()
            .any(|folder| folder.canonicalize().is_ok_and(|folder| path.starts_with(folder)))
    };
    if path.is_dir() && !leads_nowhere(&path, &inside, &mut left) {
        return Err(Problem::invalid(format!(
            "{text}: a link in it leads out, or it has over {MAX_FILES} files"
        )));
    }
    Ok(path)
}

fn leads_nowhere(folder: &Path, inside: &dyn Fn(&Path) -> bool, left: &mut usize) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().all(|entry| {
        *left = left.saturating_sub(1);
        let Ok(path) = entry.path().canonicalize() else { return false };
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        *left > 0 && inside(&path) && (!is_folder || leads_nowhere(&path, inside, left))
    })
}

/// A folder, told apart by the names, sizes and times of its files.
async fn of_folder(folder: &Path, text: &str) -> Result<Source, Problem> {
    let argument =
        folder.to_str().ok_or_else(|| Problem::invalid("the path is not UTF-8"))?.to_owned();
    let owned = folder.to_owned();
    let listing = tokio::task::spawn_blocking(move || {
        let mut hasher = blake3::Hasher::new();
        let mut seen = Seen { left: MAX_FILES, bytes: 0 };
        let whole = hash(&owned, &mut hasher, &mut seen);
        whole.then(|| (hasher.finalize().to_hex().to_string(), seen.bytes))
    });
    let found = listing.await.ok().flatten();
    let (digest, bytes) = found.ok_or_else(|| Problem::absent(format!("model at {text}")))?;
    Ok(Source { argument, digest, bytes })
}

/// How many files may still be looked at, and how long those are that were.
struct Seen {
    left: usize,
    bytes: u64,
}

fn hash(path: &Path, hasher: &mut blake3::Hasher, seen: &mut Seen) -> bool {
    let Ok(about) = std::fs::metadata(path) else { return false };
    seen.left = seen.left.saturating_sub(1);
    if seen.left == 0 {
        return false;
    }
    let time = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let time = if about.is_dir() { 0 } else { time.unwrap_or_default().as_nanos() };
    let size = if about.is_dir() { 0 } else { about.len() };
    seen.bytes = seen.bytes.saturating_add(size);
    let name = path.as_os_str().as_encoded_bytes();
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name).update(&size.to_le_bytes()).update(&time.to_le_bytes());
    if !about.is_dir() {
        return true;
    }
    let Ok(entries) = std::fs::read_dir(path) else { return false };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().all(|path| hash(path, hasher, seen))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_lies_below_an_allowed_folder_is_there() {
        let all = tempfile::tempdir().unwrap();
        let (inside, outside) = (all.path().join("in"), all.path().join("out"));
        std::fs::create_dir_all(inside.join("m")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(inside.join("m/config.json"), "{}").unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        let folders = [inside.clone()];
        let status =
            |path: &Path| allowed(&folders, path.to_str().unwrap()).map_err(|e| e.status.as_u16());
        assert!(status(&inside.join("m")).is_ok());
        for path in
            [&outside, &inside.join("link"), &inside.join("m/../../out"), &inside.join("none")]
        {
            assert_eq!(status(path), Err(404), "{}", path.display());
        }
        symlink("/etc/passwd", inside.join("m/model.safetensors")).unwrap();
        assert_eq!(status(&inside.join("m")), Err(422));
        assert!(allowed(&[], inside.to_str().unwrap()).is_err());
    }
}
