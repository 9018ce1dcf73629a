//! Small files of an artifact, such as `config.json`: the page that lists the file, then its chunks,
//! verified as tensors are.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{Artifact, ArtifactError, Bases, add_bases};
use crate::format::page::{Entries, Extent, TensorEntry};
use crate::load::{LoadOptions, Loader};
use crate::schedule::plan::TensorRequest;

impl Artifact {
    /// The bytes of the file `path`, which has no tensors and is at most `limit` bytes long; `None` if
    /// there is no such file. Must be called within a tokio runtime.
    pub async fn file(&self, path: &str, limit: u64) -> Result<Option<Bytes>, ArtifactError> {
        let pages = &self.manifest.table().pages;
        let tensors = self.tensor_pages();
        let listed = pages.get(tensors..).unwrap_or_default();
        // Pages are sorted, and so are files in a page: only the last that begins before it has it.
        let Some(page) = listed.partition_point(|page| page.first.as_str() <= path).checked_sub(1)
        else {
            return Ok(None);
        };
        let pages = self.pages(&BTreeSet::from([tensors + page])).await?;
        for (page, places) in pages {
            let bases = page.bases.iter().zip(places.iter().skip(page.first_base as usize));
            let bases: Bases<'_> = bases.map(|base| (base.0.decoded, base)).collect();
            let Entries::Files(files) = page.entries else { continue };
            let Some(file) = files.into_iter().find(|file| file.entry.path == path) else {
                continue;
            };
            let refuse = |why: String| ArtifactError::File { path: path.to_owned(), why };
            if file.entry.size > limit {
                return Err(refuse(format!(
                    "it has {} bytes, and {limit} are read",
                    file.entry.size
                )));
            }
            if file.entry.extents.iter().any(|part| matches!(part, Extent::Tensor { .. })) {
                return Err(refuse("it holds tensors".to_owned()));
            }
            let first = file.first_record as usize;
            let wants = file.records.into_iter().zip(places.iter().skip(first));
            let wants = wants.map(|(record, place)| {
                let (mut records, mut own) = (vec![record], vec![*place]);
                add_bases(&bases, &mut records, &mut own);
                let entry = TensorEntry::of_content(path, &record);
                Arc::new(TensorRequest::new(entry, records, own, None))
            });
            let (sources, options) = (self.reader.sources.clone(), LoadOptions::default());
            let mut loader =
                Loader::start(self.id, sources, wants.collect(), Default::default(), &options);
            let mut bytes = BytesMut::new();
            while let Some(piece) = loader.next().await {
                bytes.extend_from_slice(&piece?.data);
            }
            return Ok(Some(bytes.freeze()));
        }
        Ok(None)
    }
}
