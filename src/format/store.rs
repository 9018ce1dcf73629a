//! Where objects lie in a store, and its small documents (sections 2 and 9).

use serde::{Deserialize, Serialize};

use super::error::FormatError;
use super::json;
use super::limits::{MAX_LEASE, MAX_SMALL};
use super::path::ObjectPath;
use crate::format::id::{ContentDigest, ManifestId, NodeId, PackId, TableId};

/// The version of the format that this release writes.
pub const STORE_VERSION: u64 = 1;

fn path(text: String) -> ObjectPath {
    ObjectPath::new(text).unwrap_or_else(|| unreachable!("digests and names are path segments"))
}

/// `tenpak.json`.
pub fn descriptor() -> ObjectPath {
    path("tenpak.json".to_owned())
}

/// `manifests/<id>`.
pub fn manifest(id: ManifestId) -> ObjectPath {
    path(format!("manifests/{id}"))
}

/// `tables/<id>`.
pub fn table(id: TableId) -> ObjectPath {
    path(format!("tables/{id}"))
}

/// `layouts/<manifest id>`.
pub fn layout(id: ManifestId) -> ObjectPath {
    path(format!("layouts/{id}"))
}

/// `packs/<id>`.
pub fn pack(id: PackId) -> ObjectPath {
    path(format!("packs/{id}"))
}

/// `by-recipe/<recipe digest>/<manifest id>`.
pub fn by_recipe(recipe: ContentDigest, id: ManifestId) -> ObjectPath {
    path(format!("by-recipe/{recipe}/{id}"))
}

/// What every hint of a recipe begins with.
pub fn by_recipe_prefix(recipe: ContentDigest) -> String {
    format!("by-recipe/{recipe}/")
}

/// `by-tensor/<content digest>`.
pub fn by_tensor(digest: ContentDigest) -> ObjectPath {
    path(format!("by-tensor/{digest}"))
}

/// `refs/index`: the root of the index of refs.
pub fn index() -> ObjectPath {
    path("refs/index".to_owned())
}

/// `names/<id>`: a node of the index of refs.
pub fn node(id: NodeId) -> ObjectPath {
    path(format!("names/{id}"))
}

/// `tombstones/<path>`.
pub fn tombstone(of: &ObjectPath) -> ObjectPath {
    path(format!("tombstones/{of}"))
}

/// `leases/<32 hex>`.
pub fn lease(id: &[u8; 16]) -> ObjectPath {
    path(format!("leases/{}", crate::format::id::to_hex(id)))
}

macro_rules! documents {
    ($($(#[$doc:meta])* $name:ident, $format:literal, $limit:expr, {
        $($(#[$field_doc:meta])* $field:ident: $ty:ty,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name {
            format: String,
            $($(#[$field_doc])* pub $field: $ty,)*
        }

        impl $name {
            /// The document.
            pub fn new($($field: $ty),*) -> Self {
                Self { format: $format.to_owned(), $($field),* }
            }

            /// Its canonical bytes.
            ///
            /// # Errors
            /// If a number has no canonical form.
            pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
                json::to_bytes(self).map_err(FormatError::json($format))
            }

            /// Reads it.
            ///
            /// # Errors
            /// If it is malformed.
            pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
                let document: Self =
                    json::parse(bytes, $limit).map_err(FormatError::json($format))?;
                if document.format != $format {
                    return Err(FormatError::Magic { what: $format });
                }
                Ok(document)
            }
        }
    )*};
}

documents! {
    /// `tenpak.json`: what makes a folder a store.
    Descriptor, "tenpak-store", MAX_SMALL, {
        /// 32 random hexadecimal digits.
        store_id: String,
        /// The format's version.
        version: u64,
    }
    /// A hint: which manifest holds a tensor or content extent.
    ByTensor, "tenpak-by-tensor", MAX_SMALL, {
        /// The manifest.
        manifest: ManifestId,
    }
    /// A hint: a manifest of what a recipe produced.
    ByRecipe, "tenpak-by-recipe", MAX_SMALL, {
        /// The manifest.
        manifest: ManifestId,
    }
    /// What a running writer needs; nothing it lists may be deleted.
    Lease, "tenpak-lease", MAX_LEASE, {
        /// When it stops counting, in Unix seconds.
        expires: u64,
        /// Paths of the objects written or linked.
        objects: Vec<String>,
        /// When the writer began, in Unix seconds.
        started: u64,
    }
    /// An object marked for deletion.
    Tombstone, "tenpak-tombstone", MAX_SMALL, {
        /// When, in Unix seconds.
        marked: u64,
    }
}

impl Descriptor {
    /// Refuses a store of a version that this release does not know.
    ///
    /// # Errors
    /// If it is one.
    pub fn check(&self) -> Result<(), FormatError> {
        if crate::format::id::from_hex::<16>(&self.store_id).is_none() {
            let why = format!("{:?} is no store id", self.store_id);
            return Err(FormatError::invalid("store", why));
        }
        if self.version == STORE_VERSION {
            return Ok(());
        }
        Err(FormatError::Version { what: "store", found: self.version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_round_trip_and_tell_each_other_apart() {
        let lease = Lease::new(9, vec!["packs/x".into()], 3);
        let bytes = lease.to_bytes().unwrap();
        assert_eq!(Lease::parse(&bytes).unwrap(), lease);
        assert!(Tombstone::parse(&bytes).is_err());
        assert!(Descriptor::new("00".into(), 2).check().is_err());
        let object = pack(PackId::of(b""));
        assert_eq!(tombstone(&object).as_str(), format!("tombstones/{object}"));
    }
}
