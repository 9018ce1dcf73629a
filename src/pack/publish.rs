//! The end of packing: table, layout, manifest, signatures, ref, hints, in that order.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::cut::Cut;
use super::error::PackError;
use super::model::PartKind;
use super::options::PackReport;
use super::packer::{Done, Packed};
use super::unit::MIN_HINT;
use super::writer::SpotIndex;
use crate::format::FormatError;
use crate::format::id::ManifestId;
use crate::format::layout::{Layout, Place};
use crate::format::manifest::Manifest;
use crate::format::name::{ArtifactName, Tag};
use crate::format::page::{Extent, TensorEntry};
use crate::format::record::ChunkRecord;
use crate::format::store::{self as paths, ByTensor};
use crate::format::table::{Entries, Owner};
use crate::store::{Lease, Published, Store, StoreError, unix_now};
use crate::transport::ObjectPath;
use crate::trust::signature_path;

/// Hints written at a time.
const HINTS_AT_ONCE: usize = 16;

impl Packed {
    /// Makes the packed model an artifact of the store.
    pub(super) async fn publish(
        mut self,
        store: &Store,
        lease: &Lease,
        name: &ArtifactName,
        tag: &Tag,
    ) -> Result<PackReport, PackError> {
        let done = std::mem::take(&mut self.done);
        let linked = done.iter().filter(|d| !d.written && !d.records.is_empty()).count() as u64;
        let records = done.iter().flat_map(|done| &done.records);
        let deltas = records.filter(|record| record.base.is_some()).count() as u64;
        let hints: Vec<_> = hinted(&done).collect();
        let spots = Spots::of(&done);
        let table = self.entries(done)?.into_table()?;
        let place = |(record, owner): (&ChunkRecord, &Owner)| {
            let place = match spots.get(*owner) {
                Some(spot) => self.places.get(spot),
                None => self.places.find(&record.stored),
            };
            place.ok_or_else(|| FormatError::Invalid {
                what: "layout",
                why: format!("{} is nowhere", record.stored),
            })
        };
        let records = table.records.iter().zip(&table.owners);
        let places: Vec<Place> = records.map(place).collect::<Result<_, _>>()?;
        let mut manifest = Manifest::new(table.reference, table.totals);
        manifest.model_id = self.options.model_id.clone();
        manifest.quantization = self.options.lineage.quantization.clone();
        manifest.delta = self.options.lineage.delta.clone();
        manifest.source = self.options.lineage.source.clone();
        manifest.incomplete = self.options.lineage.incomplete.clone();
        let manifest_bytes = Bytes::from(manifest.to_bytes()?);
        let id = ManifestId::of(&manifest_bytes);
        let layout = Layout { manifest: id, places };
        let objects = [
            (paths::table(manifest.table().table), Bytes::from(table.bytes)),
            (paths::layout(id), Bytes::from(layout.to_bytes())),
            (paths::manifest(id), manifest_bytes.clone()),
        ];
        lease.add(objects.iter().map(|(path, _)| path.clone())).await?;
        for (path, bytes) in &objects {
            self.new_bytes += ensure(store, lease, path, bytes).await?;
        }
        for signer in &self.options.signers {
            let signature =
                signer.sign_manifest(id, &manifest_bytes, unix_now()).map_err(StoreError::Trust)?;
            let path = signature_path(id, &signer.key_id(), signer.method());
            let path = ObjectPath::new(path).ok_or_else(|| FormatError::Invalid {
                what: "signature",
                why: "its path is not valid".to_owned(),
            })?;
            self.new_bytes += ensure(store, lease, &path, &signature).await?;
        }
        let published = match self.options.unnamed {
            true => Published { version: 0, expires: 0, replaced: None },
            false => {
                if let Some(gate) = &self.options.gate {
                    gate.pass().await.map_err(PackError::Refused)?;
                }
                let (signers, lifetime) = (&self.options.signers, self.options.lifetime);
                store.publish(name, tag, id, signers, lifetime).await?
            }
        };
        // A collection may have run between the look at what exists and the ref.
        for (path, bytes) in &objects {
            self.new_bytes += store.ensure(path, bytes).await?;
        }
        let hint = &Bytes::from(ByTensor::new(id).to_bytes()?);
        // Where all else was there already, the hints are likely to be.
        let repeated = self.new_bytes == 0;
        let put = |path: ObjectPath| async move {
            if repeated
                && store.read_optional(&path, hint.len()).await.ok().flatten().as_ref()
                    == Some(hint)
            {
                return Ok(0);
            }
            store.transport().put(&path, vec![hint.clone()]).await.map(|()| hint.len() as u64)
        };
        let written = stream::iter(hints.into_iter().map(put)).buffer_unordered(HINTS_AT_ONCE);
        self.new_bytes += written.try_fold(0, |sum, n| async move { Ok(sum + n) }).await?;
        let totals = manifest.totals;
        let new_bytes = self.new_bytes;
        let (left_out, faults) = (Vec::new(), Vec::new());
        Ok(PackReport {
            manifest: id,
            totals,
            new_bytes,
            linked,
            deltas,
            published,
            left_out,
            faults,
        })
    }

    fn entries(&mut self, done: Vec<Done>) -> Result<Entries, FormatError> {
        let files = std::mem::take(&mut self.files);
        let bases = std::mem::take(&mut self.bases);
        let mut entries = Entries { files, bases, ..Entries::default() };
        let narrow = |n: usize| {
            u32::try_from(n).map_err(|_| FormatError::Limit {
                what: "tensors, files or chunks",
                value: n as u64,
                limit: u64::from(u32::MAX),
            })
        };
        for Done { unit, digest, records, .. } in done {
            let (file, own) = &mut entries.files[unit.file];
            let (Some(part), Cut::Grid(grid)) = (unit.tensor, unit.cut) else {
                let chunks = narrow(records.len())?;
                file.extents.push(Extent::Content { len: unit.len, digest, chunks });
                own.extend(records);
                continue;
            };
            let PartKind::Tensor { name, dtype, shape } = part.kind else { continue };
            let ordinal = narrow(entries.tensors.len())?;
            file.extents.push(Extent::Tensor { ordinal });
            let file = narrow(unit.file)?;
            let entry = TensorEntry { ordinal, file, name, dtype, shape, digest, grid };
            entries.tensors.push((entry, records));
        }
        Ok(entries)
    }
}

/// Where the chunks of each tensor and file were placed.
#[derive(Default)]
struct Spots {
    tensors: Vec<Vec<SpotIndex>>,
    files: HashMap<usize, Vec<SpotIndex>>,
}

impl Spots {
    /// Tensors are numbered as they come.
    fn of(done: &[Done]) -> Self {
        let mut spots = Self::default();
        for done in done {
            match done.unit.tensor {
                Some(_) => spots.tensors.push(done.spots.clone()),
                None => spots.files.entry(done.unit.file).or_default().extend(&done.spots),
            }
        }
        spots
    }

    fn get(&self, owner: Owner) -> Option<SpotIndex> {
        let (of, record) = match owner {
            Owner::Tensor { ordinal, record } => (self.tensors.get(ordinal as usize), record),
            Owner::File { file, record } => (self.files.get(&(file as usize)), record),
            Owner::Base => return None,
        };
        of?.get(record as usize).copied()
    }
}

/// Makes sure that an object is there, and notes it if it was not.
async fn ensure(
    store: &Store,
    lease: &Lease,
    path: &ObjectPath,
    bytes: &Bytes,
) -> Result<u64, StoreError> {
    let is_new = store.transport().head(path).await?.is_none();
    let written = store.ensure(path, bytes).await?;
    if is_new {
        lease.wrote(path.clone()).await;
    }
    Ok(written)
}

/// Where hints for newly written units go: the large ones, and the first of each file.
fn hinted(done: &[Done]) -> impl Iterator<Item = ObjectPath> + '_ {
    let mut last_file = None;
    done.iter().filter_map(move |done| {
        let first = last_file.replace(done.unit.file) != Some(done.unit.file);
        let wanted = done.unit.len >= MIN_HINT || (first && done.unit.len > 0);
        (done.written && wanted).then(|| paths::by_tensor(done.digest))
    })
}
