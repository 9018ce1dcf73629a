//! What an edge cannot be made of, and why it ends.

use std::io;
use std::path::PathBuf;

use rustls::pki_types::pem;

use crate::format::glob::GlobError;

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeError {
    /// An edge without an origin.
    #[error("no origin was given")]
    NoOrigin,
    /// The system gives no more connections.
    #[error("cannot accept connections")]
    Accept(#[source] io::Error),
    /// Traces cannot be sent.
    #[error("cannot set up the client of the collector of traces")]
    Traces(#[source] io::Error),
    /// The folder of the cache cannot be used.
    #[error("{}: {source}", folder.display())]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What a setting of an edge cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// A line of a token file.
    #[error("line {line}: {source}")]
    Tokens {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        source: TokenError,
    },
    /// A secret that could be guessed.
    #[error("{len} bytes, where a secret has at least {least}: `openssl rand -hex 32` makes one")]
    Secret {
        /// Its bytes.
        len: usize,
        /// The fewest that it may have.
        least: usize,
    },
    /// A URL that is to be signed.
    #[error("{url}: {source}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        source: url::ParseError,
    },
    /// A URL that is to be signed, and no edge has.
    #[error("{0}: expected http(s)://HOST/PATH without a query")]
    SignedUrl(url::Url),
    /// Where no collector of traces can be.
    #[error("{0}: expected http(s)://HOST:PORT of an OTLP/HTTP collector")]
    Collector(String),
    /// A file of certificates, or of a key.
    #[error("{}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file without a certificate.
    #[error("{}: no certificate in it", .0.display())]
    NoCertificate(PathBuf),
    /// A key that is not the certificate's.
    #[error("{}: {source}", path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
}

/// What a line of a token file cannot mean.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// No SHA-256.
    #[error("expected 64 lowercase hexadecimal digits after sha256:")]
    Digest,
    /// A token without its SHA-256.
    #[error("`{}` needs `sha256:`", .0.escape_debug())]
    NoDigest(String),
    /// A word that means nothing.
    #[error("`{}` is not understood: expected `repos=` or `admin`", .0.escape_debug())]
    Word(String),
    /// Nobody in particular may not look after the edge.
    #[error("`anonymous` cannot be `admin`")]
    AnonymousAdmin,
    /// Who shows a token is not anonymous.
    #[error("`anonymous` has no token")]
    AnonymousToken,
    /// The same token twice.
    #[error("this token stands in an earlier line")]
    Again,
    /// A list of names with nothing between two commas.
    #[error("an empty name in `repos=`")]
    NoName,
    /// A pattern of names.
    #[error("{glob}: {source}")]
    Glob {
        /// The pattern.
        glob: String,
        /// What is wrong with it.
        source: GlobError,
    },
}
