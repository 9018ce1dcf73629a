//! In the place of `openpgp.rs` in a build without that feature: there are no OpenPGP keys, and
//! whoever names one is told so, so that a key is never silently left out of what is trusted.

use super::key::KeyId;
use super::verdict::Refusal;

const MISSING: &str = "this build has no OpenPGP: it needs the feature `openpgp`";

/// A certificate, of which there is none.
#[derive(Debug, Clone)]
pub(super) enum Certificate {}

impl Certificate {
    pub(super) fn parse_all(_: &[u8]) -> Result<Vec<Self>, String> {
        Err(MISSING.to_owned())
    }

    pub(super) fn key_id(&self) -> KeyId {
        match *self {}
    }

    pub(super) fn verify(
        &self,
        _: &[u8],
        _: &[u8],
        _: u64,
        _: impl Fn(&KeyId) -> bool,
    ) -> Result<(), Refusal> {
        match *self {}
    }
}

/// A secret key, of which there is none.
pub enum SecretKey {}

impl SecretKey {
    pub(super) fn parse(_: &[u8]) -> Result<Self, String> {
        Err(MISSING.to_owned())
    }

    pub(super) fn key_id(&self) -> KeyId {
        match *self {}
    }

    pub(super) fn sign(&self, _: &[u8], _: u64) -> Result<Vec<u8>, String> {
        match *self {}
    }
}
