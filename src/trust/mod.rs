//! Who is trusted, for what, and until when.
//!
//! A manifest or a ref counts only after [`TrustSet`] has found a valid signature over its exact
//! bytes by a key which the user named, which is not revoked, and which may sign that name.
//! Messages begin with a domain, so that a signature made for one kind of object says nothing
//! about any other.

mod envelope;
mod error;
mod key;
mod openpgp;
mod seen;
mod set;
mod signer;
mod trust_file;
mod verdict;

pub use envelope::{Envelope, MAX_SIGNATURES};
pub use error::TrustError;
pub use key::{
    KeyId, Keygen, MAX_SIGNATURE_FILE, Method, keygen, manifest_message, signature_path,
};
pub use openpgp::check_signature_packets;
pub use seen::{SeenRefs, SeenState};
pub use set::{ManifestTrust, TrustSet, Verified};
pub use signer::Signer;
pub use trust_file::{TrustFile, TrustLine};

/// The folder of the user's state.
pub(crate) fn state_folder() -> Option<std::path::PathBuf> {
    seen::xdg("XDG_STATE_HOME", ".local/state")
}
