//! Putting files together: every chunk is read once, in file order, and hashed on its way into its
//! tensor's digest and its file's hashes.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sha1::Digest as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::chunks::{fetch, off_thread};
use super::super::error::MaintainError;
use super::super::order::{Step, Unit, steps, units};
use super::{BUDGET, Damage};
use crate::codec;
use crate::format::record::ChunkRecord;
use crate::id::{ContentDigest, DecodedDigest};
use crate::pack::Progress;
use crate::store::{Placed, Store, Whole};

/// Files put together at a time.
const FILES: usize = 3;
/// Steps of one file on their way at a time.
const AHEAD: usize = 4;

pub(super) fn cost(chunk: &Placed) -> u64 {
    u64::from(chunk.record.stored_len) + u64::from(chunk.record.decoded_len)
}

pub(super) fn wrong_content(record: &ChunkRecord) -> String {
    format!("the chunk {} decodes to other bytes than its record says", record.stored)
}

pub(super) fn check_decoded(
    chunk: crate::verify::VerifiedChunk,
) -> Result<bool, codec::DecodeError> {
    Ok(decoded(chunk)?.is_some())
}

/// The decoded bytes, if they are those that the record names.
fn decoded(chunk: crate::verify::VerifiedChunk) -> Result<Option<Bytes>, codec::DecodeError> {
    let record = *chunk.record();
    let bytes = codec::into_decoded(chunk, None)?;
    // Where both digests are one, that one has been compared.
    let right = record.stored.as_bytes() == record.decoded.as_bytes()
        || DecodedDigest::of(&bytes) == record.decoded;
    Ok(right.then_some(bytes))
}

/// What putting files together found.
#[derive(Default)]
pub(super) struct FilesReport {
    pub(super) damaged: Vec<Damage>,
    /// Chunks that are right, and their decoded bytes.
    pub(super) chunks: u64,
    pub(super) bytes: u64,
}

/// Puts every file together, and checks the bases, which no file claims.
pub(super) async fn check_files(
    store: &Store,
    whole: &Arc<Whole>,
    progress: &dyn Progress,
) -> Result<FilesReport, MaintainError> {
    let budget = Arc::new(Semaphore::new(BUDGET as usize));
    let files = units(whole);
    let mut claimed = vec![false; whole.chunks.len()];
    for chunk in files.iter().flatten().flat_map(|unit| unit.chunks.clone()) {
        if let Some(claimed) = claimed.get_mut(chunk) {
            *claimed = true;
        }
    }
    let check = |(file, units): (usize, Vec<Unit>)| {
        let job = Job { store: store.clone(), whole: whole.clone(), budget: budget.clone() };
        check_file(job, file, units, progress)
    };
    let files: Vec<_> = files.into_iter().enumerate().map(check).collect();
    let mut report = FilesReport::default();
    let mut done = stream::iter(files).buffered(FILES);
    while let Some(mut file) = done.try_next().await? {
        report.damaged.append(&mut file.damaged);
        report.chunks += file.chunks;
        report.bytes += file.bytes;
    }
    let bases = whole.chunks.iter().zip(&claimed).filter(|(_, claimed)| !**claimed);
    let bases: Vec<Placed> = bases.map(|(chunk, _)| *chunk).collect();
    for group in bases.chunks(4) {
        for (chunk, result) in group.iter().zip(fetch(store, group, check_decoded).await?) {
            let error = match result {
                Ok(true) => {
                    report.chunks += 1;
                    continue;
                }
                Ok(false) => wrong_content(&chunk.record),
                Err(error) => error.to_string(),
            };
            let mut damage = Damage::new(Some(whole.id), error);
            damage.pack = Some(chunk.place.pack);
            damage.offset = Some(u64::from(chunk.place.offset));
            report.damaged.push(damage);
        }
    }
    Ok(report)
}

#[derive(Clone)]
struct Job {
    store: Store,
    whole: Arc<Whole>,
    budget: Arc<Semaphore>,
}

/// A step's output: for each of its chunks the wanted rows, unless they are damaged.
struct Output {
    unit: usize,
    last: bool,
    step: Step,
    parts: Vec<Option<Bytes>>,
    damaged: Vec<Damage>,
    /// Held until the bytes are hashed.
    _permit: OwnedSemaphorePermit,
}

/// The hashes of a file on its way.
struct Hashes {
    unit: blake3::Hasher,
    sha256: Option<sha2::Sha256>,
    sha1: Option<sha1::Sha1>,
    unit_broken: bool,
    file_broken: bool,
}

impl Hashes {
    /// Takes the output in, row by row; returns the unit's digest if this was its end.
    fn take(&mut self, output: &Output) -> Option<ContentDigest> {
        if output.parts.iter().any(Option::is_none) {
            self.unit_broken = true;
            self.file_broken = true;
        }
        for row in output.step.slab.clone().filter(|_| !self.unit_broken) {
            for part in output.parts.iter().flatten() {
                let rows = output.step.slab.end - output.step.slab.start;
                let width = part.len() / usize::try_from(rows.max(1)).unwrap_or(usize::MAX);
                let at = usize::try_from(row - output.step.slab.start).unwrap_or(0) * width;
                let bytes = part.get(at..at + width).unwrap_or_default();
                self.unit.update(bytes);
                if !self.file_broken {
                    self.sha256.iter_mut().for_each(|hash| hash.update(bytes));
                    self.sha1.iter_mut().for_each(|hash| hash.update(bytes));
                }
            }
        }
        if !output.last {
            return None;
        }
        let digest = ContentDigest::from_hash(self.unit.finalize());
        self.unit.reset();
        (!std::mem::take(&mut self.unit_broken)).then_some(digest)
    }
}

async fn check_file(
    job: Job,
    file: usize,
    units: Vec<Unit>,
    progress: &dyn Progress,
) -> Result<FilesReport, MaintainError> {
    let mut report = FilesReport::default();
    let whole = job.whole.clone();
    let Some((entry, first_chunk)) = whole.files.get(file) else { return Ok(report) };
    let path = entry.path.clone();
    let decoded_len = |chunk: usize| {
        whole.chunks.get(chunk).map_or(0, |chunk| u64::from(chunk.record.decoded_len))
    };
    // Steps are made unit by unit, as they are needed.
    let jobs = units.iter().enumerate().flat_map(|(i, unit)| {
        let steps = steps(unit, decoded_len);
        let count = steps.len();
        steps.into_iter().enumerate().map(move |(n, step)| (i, n + 1 == count, step))
    });
    let mut outputs = stream::iter(jobs)
        .map(|(i, last, step)| run_step(job.clone(), i, last, step))
        .buffered(AHEAD);
    let mut hashes = Hashes {
        unit: blake3::Hasher::new(),
        sha256: (entry.sha256 != [0; 32]).then(sha2::Sha256::new),
        sha1: entry.git_sha1.map(|_| {
            let mut hash = sha1::Sha1::new();
            hash.update(format!("blob {}\0", entry.size));
            hash
        }),
        unit_broken: false,
        file_broken: false,
    };
    for unit in units.iter().filter(|unit| unit.chunks.is_empty()) {
        let found = ContentDigest::of(b"");
        if found != unit.digest {
            let error = format!("no bytes have digest {found}, not {}", unit.digest);
            let mut damage = Damage::new(Some(whole.id), error);
            let tensor = unit.tensor.and_then(|t| whole.tensors.get(t));
            damage.tensor = tensor.map(|(tensor, _)| tensor.name.clone());
            damage.file = Some(path.clone());
            report.damaged.push(damage);
        }
    }
    while let Some(mut output) = outputs.try_next().await? {
        let Some(unit) = units.get(output.unit) else { continue };
        let tensor = unit.tensor.and_then(|t| whole.tensors.get(t)).map(|(t, _)| t.name.clone());
        for mut damage in std::mem::take(&mut output.damaged) {
            damage.file = Some(path.clone());
            damage.tensor = tensor.clone();
            // Content is counted over the whole file, as the chunks of a tensor over the tensor.
            let first = if tensor.is_some() { unit.chunks.start } else { *first_chunk };
            damage.chunk = damage.chunk.map(|chunk| chunk.saturating_sub(first as u64));
            if !report.damaged.contains(&damage) {
                report.damaged.push(damage);
            }
        }
        if output.step.slab.start == 0 {
            for (&chunk, part) in output.step.chunks.iter().zip(&output.parts) {
                report.chunks += u64::from(part.is_some());
                report.bytes += part.as_ref().map_or(0, |_| decoded_len(chunk));
            }
        }
        let (done, digest, len) = off_thread(move || {
            let digest = hashes.take(&output);
            (hashes, digest, output.parts.iter().flatten().map(|p| p.len() as u64).sum::<u64>())
        })
        .await?;
        hashes = done;
        progress.advance(len);
        if let Some(found) = digest
            && found != unit.digest
        {
            let what = if tensor.is_some() { "its bytes" } else { "a run of its content" };
            let error = format!("{what} have digest {found}, not {}", unit.digest);
            let mut damage = Damage::new(Some(whole.id), error);
            damage.file = Some(path.clone());
            damage.tensor = tensor;
            report.damaged.push(damage);
        }
    }
    if !hashes.file_broken {
        let mut wrong = |name: &str, found: Option<String>, says: String| {
            if found.as_ref().is_some_and(|found| *found != says) {
                let found = found.unwrap_or_default();
                let mut damage =
                    Damage::new(Some(whole.id), format!("its {name} is {found}, not {says}"));
                damage.file = Some(path.clone());
                report.damaged.push(damage);
            }
        };
        let hex = crate::id::to_hex;
        wrong("SHA-256", hashes.sha256.map(|h| hex(&h.finalize())), hex(&entry.sha256));
        let says = entry.git_sha1.map_or_else(String::new, |h| hex(&h));
        wrong("git-blob SHA-1", hashes.sha1.map(|h| hex(&h.finalize())), says);
    }
    Ok(report)
}

async fn run_step(job: Job, unit: usize, last: bool, step: Step) -> Result<Output, MaintainError> {
    let chunks: Vec<Placed> =
        step.chunks.iter().filter_map(|&i| job.whole.chunks.get(i)).copied().collect();
    let bytes = chunks.iter().map(cost).sum::<u64>().min(u64::from(BUDGET));
    let permits = u32::try_from(bytes).unwrap_or(BUDGET);
    let permit = job.budget.acquire_many_owned(permits).await.map_err(|_| MaintainError::Worker)?;
    let (mut parts, mut damaged) = (Vec::with_capacity(chunks.len()), Vec::new());
    let whole_chunks = step.slab == (0..step.rows);
    // A few at a time, where only parts of the chunks are kept.
    let at_once = if whole_chunks { chunks.len().max(1) } else { 4 };
    for (group, indices) in chunks.chunks(at_once).zip(step.chunks.chunks(at_once)) {
        let part = step.clone();
        let keep = move |chunk| {
            Ok(decoded(chunk)?.map(|bytes| match whole_chunks {
                true => bytes,
                false => {
                    Bytes::copy_from_slice(bytes.get(part.part(bytes.len())).unwrap_or_default())
                }
            }))
        };
        let results = fetch(&job.store, group, keep).await?;
        for ((chunk, &index), result) in group.iter().zip(indices).zip(results) {
            let error = match result {
                Ok(Some(bytes)) => {
                    parts.push(Some(bytes));
                    continue;
                }
                Ok(None) => wrong_content(&chunk.record),
                Err(error) => error.to_string(),
            };
            parts.push(None);
            let mut damage = Damage::new(Some(job.whole.id), error);
            damage.chunk = Some(index as u64);
            damage.pack = Some(chunk.place.pack);
            damage.offset = Some(u64::from(chunk.place.offset));
            damaged.push(damage);
        }
    }
    Ok(Output { unit, last, step, parts, damaged, _permit: permit })
}
