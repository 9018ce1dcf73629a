//! Files of an artifact: the pages that list them, and what their bytes are loaded by.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Artifact, Bases, add_bases};
use crate::format::layout::Place;
use crate::format::page::{Entries, Extent, FileEntry, Page, TensorEntry};
use crate::schedule::plan::TensorRequest;
use crate::store::{FileError, StoreError};

/// A file of an artifact.
#[derive(Debug)]
pub struct ListedFile {
    /// What the table says of it.
    pub entry: FileEntry,
    /// What each chunk that belongs to no tensor is loaded by, in the file's order.
    pub content: Vec<Arc<TensorRequest>>,
}

impl Artifact {
    /// The files of the artifact, in the order of their paths.
    ///
    /// # Errors
    /// If a page of the table or of the layout cannot be read, or is not what the manifest names.
    pub async fn files(&self) -> Result<Vec<ListedFile>, StoreError> {
        let pages = (self.tensor_pages()..self.manifest.table().pages.len()).collect();
        let pages = self.pages(&pages).await?;
        Ok(pages.into_iter().flat_map(|(page, places)| listed(page, &places)).collect())
    }

    /// What the file `path` is loaded by, which has no tensors and is at most `limit` bytes long; `None` if
    /// there is no such file.
    ///
    /// # Errors
    /// If the file is longer or holds tensors, or the table cannot be read.
    pub async fn select_file(
        &self,
        path: &str,
        limit: u64,
    ) -> Result<Option<Vec<Arc<TensorRequest>>>, StoreError> {
        let pages = &self.manifest.table().pages;
        let tensors = self.tensor_pages();
        let own = pages.get(tensors..).unwrap_or_default();
        // Pages are sorted, and so are files in a page: only the last that begins before it has it.
        let Some(page) = own.partition_point(|page| page.first.as_str() <= path).checked_sub(1)
        else {
            return Ok(None);
        };
        let pages = self.pages(&BTreeSet::from([tensors + page])).await?;
        let mut files = pages.into_iter().flat_map(|(page, places)| listed(page, &places));
        let Some(file) = files.find(|file| file.entry.path == path) else { return Ok(None) };
        let refuse = |error| StoreError::File { path: path.to_owned(), error };
        let size = file.entry.size;
        if size > limit {
            return Err(refuse(FileError::Large { size, limit }));
        }
        if file.entry.extents.iter().any(|part| matches!(part, Extent::Tensor { .. })) {
            return Err(refuse(FileError::Tensors));
        }
        Ok(Some(file.content))
    }
}

/// The files of a page.
fn listed(page: Page, places: &[Place]) -> Vec<ListedFile> {
    let bases = page.bases.iter().zip(places.iter().skip(page.first_base as usize));
    let bases: Bases<'_> = bases.map(|base| (base.0.decoded, base)).collect();
    let Entries::Files(files) = page.entries else { return Vec::new() };
    let listed = files.into_iter().map(|file| {
        let places = places.iter().skip(file.first_record as usize);
        let content = file.records.into_iter().zip(places).map(|(record, place)| {
            let (mut records, mut own) = (vec![record], vec![*place]);
            add_bases(&bases, &mut records, &mut own);
            let entry = TensorEntry::of_content(&file.entry.path, &record);
            Arc::new(TensorRequest::new(entry, records, own, None))
        });
        ListedFile { content: content.collect(), entry: file.entry }
    });
    listed.collect()
}
