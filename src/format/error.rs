//! What is wrong with bytes that claim to be in the format.

use super::json::JsonError;
use super::name::{ArtifactName, Tag};

/// Bytes that are not what the format says. The caller adds which object they came from.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end too early, or go on too long.
    #[error("{what}: {have} bytes where {need} are needed")]
    Length { what: &'static str, need: u64, have: u64 },
    /// The object does not begin (or end) with its magic.
    #[error("{what}: wrong magic, this is something else")]
    Magic { what: &'static str },
    /// A version that this release does not know.
    #[error("{what}: version {found} is not known to this release; use a newer tenpak")]
    Version { what: &'static str, found: u64 },
    /// Reserved bytes are not zero: a later version wrote this.
    #[error("{what}: reserved bytes at {at} are not zero; use a newer tenpak")]
    Reserved { what: &'static str, at: u64 },
    /// A value is beyond its limit.
    #[error("{what}: {value} exceeds the limit of {limit}")]
    Limit { what: &'static str, value: u64, limit: u64 },
    /// A rule of the format does not hold.
    #[error("{what}: {why}")]
    Invalid { what: &'static str, why: String },
    /// The digest is not the one that was promised.
    #[error("{what}: the digest is {found}, not {expected}")]
    Digest { what: &'static str, expected: String, found: String },
    /// An index whose refs do not ascend.
    #[error("{name}:{tag} is out of order or listed twice")]
    RefOrder { name: ArtifactName, tag: Tag },
    /// A JSON object is malformed.
    #[error("{what}: {source}")]
    Json { what: &'static str, source: JsonError },
}

impl FormatError {
    /// A broken rule.
    pub(crate) fn invalid(what: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { what, why: why.into() }
    }

    /// An error constructor for JSON objects called `what`.
    pub(crate) fn json(what: &'static str) -> impl Fn(JsonError) -> Self {
        move |source| Self::Json { what, source }
    }
}

/// The error and what it was caused by, where its own text does not say that.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
