//! `tenpak studio backup` and `tenpak studio restore`: the database and the store's refs as a folder.
//!
//! What artifacts are made of stays in the store, which never changes it. A folder that was not finished has no
//! `complete`, and is not restored.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::json;

use super::error::Failure;
use super::output::Output;
use crate::jobs::Jobs;
use crate::store::Store;
use crate::transport::small::{self, RetryPolicy};
use crate::transport::{Expected, ObjectPath, ReadRange, TransportErrorKind};

const JOBS: &str = "jobs.jsonl";
const REFS: &str = "refs";
const COMPLETE: &str = "complete";
/// Bytes of a ref.
const MAX_REF: u64 = 64 << 20;

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |error| Failure::failed(format!("{}: {error}", path.display()))
}

/// Writes a folder, which must not be there or be empty.
pub(super) fn backup(
    jobs: &Jobs,
    store: &Store,
    folder: &Path,
    runtime: &tokio::runtime::Handle,
    output: &Output,
) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(failed(folder))?;
    if fs::read_dir(folder).map_err(failed(folder))?.next().is_some() {
        return Err(Failure::failed(format!("{}: it is not empty", folder.display())));
    }
    // Refs first: whatever a job in the database has published is in the store at any later time, too.
    let refs = runtime.block_on(refs(store))?;
    for (path, content) in &refs {
        let file = folder.join(path.as_str());
        let above = file.parent().unwrap_or(folder);
        fs::create_dir_all(above).map_err(failed(above))?;
        let mut out = File::create(&file).map_err(failed(&file))?;
        out.write_all(content).and_then(|()| out.sync_all()).map_err(failed(&file))?;
    }
    let path = folder.join(JOBS);
    let mut out = BufWriter::new(File::create(&path).map_err(failed(&path))?);
    let rows = blocking(jobs, move |jobs| {
        let rows = jobs.write_copy(&mut out)?;
        Ok((rows, out))
    })?;
    let (rows, out) = rows;
    out.into_inner()
        .map_err(|error| Failure::failed(error.error()))?
        .sync_all()
        .map_err(failed(&path))?;
    let path = folder.join(COMPLETE);
    File::create(&path).and_then(|file| file.sync_all()).map_err(failed(&path))?;
    let count = refs.len();
    output.result(
        json!({"rows": rows, "refs": count, "folder": folder.display().to_string()}),
        || format!("{rows} rows and {count} refs in {}", folder.display()),
    )
}

/// A database's client blocks, which the runtime's own threads must not.
fn blocking<T: Send + 'static>(
    jobs: &Jobs,
    work: impl FnOnce(&Jobs) -> Result<T, crate::jobs::JobsError> + Send + 'static,
) -> Result<T, Failure> {
    let jobs = jobs.clone();
    let done = std::thread::spawn(move || work(&jobs)).join();
    done.map_err(|_| Failure::failed("the database's client failed"))?.map_err(Failure::from)
}

async fn refs(store: &Store) -> Result<Vec<(ObjectPath, Bytes)>, Failure> {
    let Some(origin) = store.transports().first() else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for found in origin.list(&format!("{REFS}/")).await? {
        let policy = RetryPolicy::default();
        let read = small::read_all(&**origin, &found.path, ReadRange::Full, MAX_REF, &policy).await;
        match read {
            Ok((content, _)) => all.push((found.path, content)),
            // It was removed meanwhile.
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

/// Reads a folder back: the database must hold no jobs. Refs that the store has are left as they are, as an older one
/// would be a rollback.
pub(super) fn restore(
    jobs: &Jobs,
    store: &Store,
    folder: &Path,
    runtime: &tokio::runtime::Handle,
    output: &Output,
) -> Result<(), Failure> {
    if !folder.join(COMPLETE).exists() {
        let why = "no whole backup: it has no file `complete`";
        return Err(Failure::failed(format!("{}: {why}", folder.display())));
    }
    let path = folder.join(JOBS);
    let mut copy = BufReader::new(File::open(&path).map_err(failed(&path))?);
    let rows = blocking(jobs, move |jobs| jobs.read_copy(&mut copy))?;
    let mut files = Vec::new();
    walk(&folder.join(REFS), REFS, &mut files)?;
    let (mut put, mut left) = (0_usize, Vec::new());
    runtime.block_on(store.create())?;
    for (name, file) in files {
        let content = fs::read(&file).map_err(failed(&file))?;
        let path = ObjectPath::new(&*name)
            .ok_or_else(|| Failure::failed(format!("{name}: no such ref")))?;
        let Some(origin) = store.transports().first() else { break };
        let done = runtime.block_on(origin.put_if(&path, Expected::Absent, content.into()));
        match done {
            Ok(()) => put += 1,
            Err(error) if error.kind == TransportErrorKind::Conflict => left.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    output.result(json!({"rows": rows, "refs": put, "kept": left}), || {
        format!(
            "{rows} rows and {put} refs restored; {} refs were there and are as they were",
            left.len()
        )
    })
}

fn walk(folder: &Path, name: &str, files: &mut Vec<(String, PathBuf)>) -> Result<(), Failure> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let own = path.file_name().and_then(|own| own.to_str());
        let own = own.ok_or_else(|| Failure::failed(format!("{}: not UTF-8", path.display())))?;
        let name = format!("{name}/{own}");
        match path.is_dir() {
            true => walk(&path, &name, files)?,
            false => files.push((name, path)),
        }
    }
    Ok(())
}
