//! The trust file: one key per line, each with the names it may sign, and the keys withdrawn.
//!
//! ```text
//! # comment
//! ed25519 <64 hex digits> [names=GLOB,GLOB]
//! openpgp <path, relative to this file> [names=GLOB,GLOB]
//! hmac <path, relative to this file> [names=GLOB,GLOB]
//! revoked <key id>
//! ```
//!
//! A word that is not understood refuses the whole file: a limit that was misspelt must not vanish.

use std::path::PathBuf;

use super::key::KeyId;
use super::key_error::KeyError;
use crate::format::id::from_hex;

/// One line that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrustLine {
    /// An Ed25519 public key.
    Ed25519 {
        /// The key.
        key: [u8; 32],
        /// The names it may sign; none given means every name.
        names: Option<Vec<String>>,
    },
    /// A file of OpenPGP public keys.
    OpenPgp {
        /// As written: relative to the trust file.
        path: PathBuf,
        /// The names it may sign.
        names: Option<Vec<String>>,
    },
    /// A file with an HMAC secret.
    Hmac {
        /// As written: relative to the trust file.
        path: PathBuf,
        /// The names it may sign.
        names: Option<Vec<String>>,
    },
    /// A key that counts no longer, whoever lists it.
    Revoked(KeyId),
}

/// A trust file, read but not resolved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustFile {
    /// What its lines say, in order.
    pub lines: Vec<TrustLine>,
}

impl TrustFile {
    /// Reads the content of a trust file.
    ///
    /// # Errors
    /// If it is no text, or a line of it is not understood: [`KeyError::Line`] says which.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(bytes).map_err(|_| KeyError::NoTrustFile)?;
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let in_line = |error| KeyError::Line { line: number + 1, error: Box::new(error) };
            lines.push(parse_line(line).map_err(in_line)?);
        }
        Ok(Self { lines })
    }
}

fn parse_line(line: &str) -> Result<TrustLine, KeyError> {
    let mut words = line.split_whitespace();
    let (kind, value) = (words.next().unwrap_or_default(), words.next());
    if !matches!(kind, "ed25519" | "openpgp" | "hmac" | "revoked") {
        let kind = kind.chars().take(40).flat_map(char::escape_debug).collect();
        return Err(KeyError::Kind(kind));
    }
    let value = value.ok_or_else(|| KeyError::NoValue(kind.to_owned()))?;
    let names = match words.next() {
        None => None,
        Some(word) => Some(parse_names(word)?),
    };
    if let Some(word) = words.next() {
        return Err(KeyError::Word(word.to_owned()));
    }
    Ok(match kind {
        "ed25519" => TrustLine::Ed25519 { key: from_hex(value).ok_or(KeyError::KeyDigits)?, names },
        "openpgp" => TrustLine::OpenPgp { path: value.into(), names },
        "hmac" => TrustLine::Hmac { path: value.into(), names },
        _ if names.is_some() => return Err(KeyError::RevokedNames),
        // GnuPG prints fingerprints in upper case.
        _ => TrustLine::Revoked(value.to_ascii_lowercase().parse()?),
    })
}

fn parse_names(word: &str) -> Result<Vec<String>, KeyError> {
    let Some(list) = word.strip_prefix("names=") else {
        return Err(KeyError::NoNames(word.to_owned()));
    };
    let globs: Vec<String> = list.split(',').map(str::to_owned).collect();
    if globs.iter().any(String::is_empty) {
        return Err(KeyError::EmptyName);
    }
    Ok(globs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_read() {
        let hex = "00".repeat(32);
        let id = "ab".repeat(20);
        let text = format!(
            "# keys\n\n ed25519 {hex}\ned25519 {hex} names=a,org/*\r\nopenpgp k.asc names=b\n\
             \thmac ../h\n  # more\nrevoked {}\n",
            id.to_uppercase()
        );
        let names = |list: &[&str]| Some(list.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(
            TrustFile::parse(text.as_bytes()).unwrap().lines,
            [
                TrustLine::Ed25519 { key: [0; 32], names: None },
                TrustLine::Ed25519 { key: [0; 32], names: names(&["a", "org/*"]) },
                TrustLine::OpenPgp { path: "k.asc".into(), names: names(&["b"]) },
                TrustLine::Hmac { path: "../h".into(), names: None },
                TrustLine::Revoked(id.parse().unwrap()),
            ]
        );
        assert_eq!(TrustFile::parse(b"").unwrap(), TrustFile::default());
    }

    #[test]
    fn a_line_that_is_not_understood_refuses_the_file() {
        let hex = "00".repeat(32);
        for bad in [
            "ed25519".to_owned(),
            format!("ed25519 {}", &hex[1..]),
            format!("Ed25519 {hex}"),
            format!("ed25519 {hex} name=a"),
            format!("ed25519 {hex} names="),
            format!("ed25519 {hex} names=a,"),
            format!("ed25519 {hex} names=a b"),
            format!("ed25519 {hex} # comment"),
            "revoked abc".to_owned(),
            format!("revoked {} names=a", "ab".repeat(16)),
            "allow everything".to_owned(),
        ] {
            let text = format!("# first\n{bad}\n");
            let error = TrustFile::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(error, KeyError::Line { line: 2, .. }), "{bad:?}: {error}");
        }
        assert!(TrustFile::parse(b"\xff\xfe").is_err());
    }
}
