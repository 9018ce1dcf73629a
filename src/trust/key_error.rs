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
    /// What is wrong with a key or a signature of OpenPGP, as its library says.
    #[error("{0}")]
    OpenPgp(String),
    /// No method.
    #[error("`{0}` is no method: expected ed25519, hmac or openpgp")]
    Method(String),
    /// No key id.
    #[error("`{0}` is no key id: expected 32, 40 or 64 lowercase hexadecimal digits")]
    Id(String),
    /// Bytes where a trust file could be.
    #[error("neither a key nor a trust file: it is not text")]
    NoTrustFile,
    /// A line of a trust file.
    #[error("line {line}: {error}")]
    Line { line: usize, error: Box<KeyError> },
    /// A line that says nothing known.
    #[error("`{0}` is not understood: expected `ed25519`, `openpgp`, `hmac` or `revoked`")]
    Kind(String),
    /// A line that ends too early.
    #[error("`{0}` needs a value")]
    NoValue(String),
    /// A line that goes on.
    #[error("unexpected `{}`", .0.escape_debug())]
    Word(String),
    /// A word where only names can be.
    #[error("unexpected `{}`: expected `names=GLOB,GLOB`", .0.escape_debug())]
    NoNames(String),
    /// An empty one of several names.
    #[error("an empty name in `names=`")]
    EmptyName,
    /// An Ed25519 key in a trust file that is none.
    #[error("expected 64 lowercase hexadecimal digits")]
    KeyDigits,
    /// A key that is to be revoked for some names.
    #[error("a key is revoked for every name: `names=` cannot limit it")]
    RevokedNames,
}
