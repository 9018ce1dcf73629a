//! Who is trusted, for what, and until when.
//!
//! A manifest or a ref counts only after [`TrustSet`] has found a valid signature over its exact
//! bytes by a key which the user named, which is not revoked, and which may sign that name.
//! Messages begin with a domain, so that a signature made for one kind of object says nothing
//! about any other.

#![warn(clippy::indexing_slicing)]

mod envelope;
mod error;
#[cfg(feature = "load")]
mod files;
mod key;
mod key_error;
#[cfg_attr(not(feature = "openpgp"), path = "no_openpgp.rs")]
mod openpgp;
#[cfg(feature = "load")]
mod seen;
mod set;
mod signer;
mod trust_file;
mod verdict;

pub use envelope::Envelope;
pub use error::{DocumentError, TrustError};
#[cfg(feature = "load")]
pub(crate) use files::state_folder;
#[cfg(feature = "load")]
pub use files::{Keygen, keygen};
pub use key::{KeyId, Method, manifest_message, parse_public, public_key, signature_path};
pub use key_error::KeyError;
#[cfg(feature = "openpgp")]
pub use openpgp::check_signature_packets;
#[cfg(feature = "load")]
pub use seen::{SeenRefs, SeenState};
pub use set::{ManifestTrust, TrustSet, Verified};
pub use signer::Signer;
pub use trust_file::{TrustFile, TrustLine};
