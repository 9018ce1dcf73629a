//! What is wrong with a key, or with what is said of one.

use crate::format::glob::GlobError;

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum KeyError {
    /// Not a line of such a key.
    #[error("expected a line beginning with `{0}`")]
    Prefix(&'static str),
    /// More than one line.
    #[error("expected one line, found several")]
    SeveralLines,
    /// Not as many digits as a key has.
    #[error("expected 64 lowercase hexadecimal digits after `{prefix}`, found {found}")]
    Digits { prefix: &'static str, found: usize },
    /// No point of the curve, or one that verifies forgeries.
    #[error("these digits are no usable Ed25519 public key")]
    Weak,
    /// A secret that can be guessed.
    #[error("an HMAC secret of {have} bytes is too short: at least {least} are needed")]
    ShortSecret { have: usize, least: usize },
    /// No text.
    #[error("not a line of text")]
    NotText,
    /// A file that is larger than any key.
    #[error("longer than the {0} bytes that a key file may have")]
    TooLong(u64),
    /// A pattern for names that cannot be read.
    #[error("the pattern {pattern:?}: {error}")]
    Names { pattern: String, error: GlobError },
    /// The public half, where the secret one is needed.
    #[error("this is a public key: sign with its secret half, the file whose name lacks `.pub`")]
    PublicHalf,
    /// The secret half, where the public one is needed.
    #[error("this is a secret key: trust its public half, the `.pub` file")]
    SecretHalf,
    /// Nothing that can be told from other bytes.
    #[error(
        "neither a tenpak nor an OpenPGP secret key: if this is an HMAC secret, say that the method is hmac"
    )]
    Unknown,
    /// What is wrong with a key of OpenPGP.
    #[error("{0}")]
    OpenPgp(String),
    /// What is wrong with a trust file, and in which line.
    #[error("{0}")]
    TrustFile(String),
}
