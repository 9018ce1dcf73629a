//! Making sure that an object is there, whatever a collection does meanwhile.

use bytes::Bytes;

use super::{Store, StoreError};
use crate::format::store as paths;
use crate::transport::ObjectPath;

impl Store {
    /// Writes the object unless it is there just so, and takes away a tombstone. Returns the bytes
    /// written.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn ensure(&self, path: &ObjectPath, bytes: &Bytes) -> Result<u64, StoreError> {
        let tombstone = paths::tombstone(path);
        if self.transport().head(&tombstone).await?.is_some() {
            self.transport().delete(&tombstone).await?;
        }
        // One that cannot be read, or is longer, is written anew.
        if self.read_optional(path, bytes.len()).await.ok().flatten().as_ref() == Some(bytes) {
            return Ok(0);
        }
        self.transport().put(path, vec![bytes.clone()]).await?;
        Ok(bytes.len() as u64)
    }
}
