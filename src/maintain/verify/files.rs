//! Putting files together: every chunk is read once, in file order, and hashed on its way into its
//! tensor's digest and its file's hashes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sha1::Digest as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::chunks::{fetch, off_thread};
use super::super::error::MaintainError;
use super::super::order::{Step, Unit, steps, units};
use super::report::{BUDGET, Damage};
use crate::chunk::codec;
use crate::chunk::verified::VerifiedChunk;
use crate::format::id::{ContentDigest, DecodedDigest, StoredDigest};
use crate::pack::Progress;
use crate::store::{ArtifactGraph, Placed, Store, StoreError};

/// Files put together at a time.
const FILES: usize = 3;
/// Steps of one file on their way at a time.
const AHEAD: usize = 4;
/// Chunks at a time that are held beside what is kept of them.
const AT_ONCE: usize = 4;

pub(super) fn cost(chunk: &Placed) -> u64 {
    u64::from(chunk.record.stored_len) + u64::from(chunk.record.decoded_len)
}

/// What can be wrong with a chunk.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Wrong {
    #[error("the chunk {0} decodes to other bytes than its record says")]
    Content(StoredDigest),
    #[error("it is stored against another chunk: {0}")]
    Base(Box<Wrong>),
    #[error(transparent)]
    Store(Arc<StoreError>),
}

/// Whether a chunk of somebody else is what its record says. Of one that is stored against another,
/// which may lie anywhere, its stored bytes were compared, and nothing more is known.
pub(super) fn check_foreign(chunk: VerifiedChunk) -> Result<Result<(), Wrong>, codec::DecodeError> {
    if chunk.record().base.is_some() {
        return Ok(Ok(()));
    }
    Ok(decoded(chunk, &Bases::new())?.map(drop))
}

/// The decoded bytes of bases, or what is wrong with one, by content.
type Bases = HashMap<DecodedDigest, Result<Bytes, Wrong>>;

/// The decoded bytes, if they are those that the record names, or what is wrong.
fn decoded(
    chunk: VerifiedChunk,
    bases: &Bases,
) -> Result<Result<Bytes, Wrong>, codec::DecodeError> {
    let record = *chunk.record();
    let base = match record.base.and_then(|base| bases.get(&base.decoded)) {
        Some(Err(why)) => return Ok(Err(Wrong::Base(Box::new(why.clone())))),
        Some(Ok(base)) => Some(&base[..]),
        None => None,
    };
    let bytes = codec::into_decoded(chunk, base)?;
    // Where both digests are one, that one has been compared.
    let right = record.stored.as_bytes() == record.decoded.as_bytes()
        || DecodedDigest::of(&bytes) == record.decoded;
    Ok(if right { Ok(bytes) } else { Err(Wrong::Content(record.stored)) })
}

/// What the chunks at `indexes` are stored against, decoded, the deepest first.
async fn bases_of(
    store: &Store,
    whole: &ArtifactGraph,
    indexes: &[usize],
) -> Result<Arc<Bases>, MaintainError> {
    let mut levels = BTreeMap::<u8, BTreeSet<usize>>::new();
    for base in indexes.iter().flat_map(|&index| whole.bases_of(index)) {
        let depth = whole.chunks.get(base).map_or(0, |chunk| chunk.record.depth());
        levels.entry(depth).or_default().insert(base);
    }
    let mut bases = Arc::new(Bases::new());
    for level in levels.into_values() {
        let level: Vec<Placed> =
            level.into_iter().filter_map(|base| whole.chunks.get(base)).copied().collect();
        let below = bases.clone();
        let results = fetch(store, &level, move |chunk| decoded(chunk, &below)).await?;
        let own = level.iter().zip(results);
        let own = own.map(|(chunk, result)| (chunk.record.decoded, right(result)));
        Arc::make_mut(&mut bases).extend(own);
    }
    Ok(bases)
}

/// A chunk's bytes, or all that can be wrong with it.
pub(super) fn right<T>(result: Result<Result<T, Wrong>, StoreError>) -> Result<T, Wrong> {
    result.unwrap_or_else(|error| Err(Wrong::Store(Arc::new(error))))
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
    whole: &Arc<ArtifactGraph>,
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
    let bases = (0..).zip(&claimed).filter(|(_, claimed)| !**claimed);
    let bases: Vec<usize> = bases.map(|(chunk, _)| chunk).collect();
    for group in bases.chunks(AT_ONCE) {
        let below = bases_of(store, whole, group).await?;
        let chunks: Vec<Placed> =
            group.iter().filter_map(|&base| whole.chunks.get(base)).copied().collect();
        let results = fetch(store, &chunks, move |chunk| Ok(decoded(chunk, &below)?.map(drop)));
        for (chunk, result) in chunks.iter().zip(results.await?) {
            let Err(error) = right(result) else {
                report.chunks += 1;
                continue;
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
    whole: Arc<ArtifactGraph>,
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
        let hex = crate::format::id::to_hex;
        wrong("SHA-256", hashes.sha256.map(|h| hex(&h.finalize())), hex(&entry.sha256));
        let says = entry.git_sha1.map_or_else(String::new, |h| hex(&h));
        wrong("git-blob SHA-1", hashes.sha1.map(|h| hex(&h.finalize())), says);
    }
    Ok(report)
}

async fn run_step(job: Job, unit: usize, last: bool, step: Step) -> Result<Output, MaintainError> {
    let chunks: Vec<Placed> =
        step.chunks.iter().filter_map(|&i| job.whole.chunks.get(i)).copied().collect();
    let whole_chunks = step.slab == (0..step.rows);
    let based = chunks.iter().any(|chunk| chunk.record.base.is_some());
    // A few at a time, where only parts of the chunks are kept, or their bases are held beside them.
    let at_once = if whole_chunks && !based { chunks.len().max(1) } else { AT_ONCE };
    let below = |group: &[usize]| {
        let bases = group.iter().flat_map(|&chunk| job.whole.bases_of(chunk));
        bases.filter_map(|base| job.whole.chunks.get(base)).map(cost).sum::<u64>()
    };
    let below = step.chunks.chunks(at_once).map(below).max().unwrap_or(0);
    let bytes = (chunks.iter().map(cost).sum::<u64>() + below).min(u64::from(BUDGET));
    let permits = u32::try_from(bytes).unwrap_or(BUDGET);
    let budget = job.budget.clone();
    let permit = budget.acquire_many_owned(permits).await.map_err(|_| MaintainError::Worker)?;
    let (mut parts, mut damaged) = (Vec::with_capacity(chunks.len()), Vec::new());
    for (group, indices) in chunks.chunks(at_once).zip(step.chunks.chunks(at_once)) {
        let part = step.clone();
        let bases = bases_of(&job.store, &job.whole, indices).await?;
        let keep = move |chunk| {
            Ok(decoded(chunk, &bases)?.map(|bytes| match whole_chunks {
                true => bytes,
                false => {
                    Bytes::copy_from_slice(bytes.get(part.part(bytes.len())).unwrap_or_default())
                }
            }))
        };
        let results = fetch(&job.store, group, keep).await?;
        for ((chunk, &index), result) in group.iter().zip(indices).zip(results) {
            let error = match right(result) {
                Ok(bytes) => {
                    parts.push(Some(bytes));
                    continue;
                }
                Err(error) => error,
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
