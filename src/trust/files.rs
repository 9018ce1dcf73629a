//! The files of keys and trust: reading them, and making a key pair. What they say is for
//! [`super::key`] and [`super::trust_file`], which see bytes only.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;

use super::error::TrustError;
use super::key::{
    KeyId, Method, PUBLIC_PREFIX, SECRET_PREFIX, hmac_secret, is_openpgp, parse_public, public_key,
};
use super::key_error::KeyError;
use super::set::TrustSet;
use super::signer::Signer;
use super::trust_file::{TrustFile, TrustLine};
use crate::format::id::to_hex;

/// The largest key or trust file.
const MAX_KEY_FILE: u64 = 1 << 20;

/// The directory that `variable` names, else `fallback` in the home directory. Relative paths are
/// ignored, as the XDG base directory specification asks.
pub(super) fn xdg(variable: &str, fallback: &str) -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(fallback)))
}

/// The folder of the user's state.
pub(crate) fn state_folder() -> Option<PathBuf> {
    xdg("XDG_STATE_HOME", ".local/state")
}

/// The trust file that counts when no `--trust` is given: `tenpak/trust` in the user's
/// configuration directory.
fn default_trust_file() -> Option<PathBuf> {
    xdg("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("tenpak/trust"))
}

/// A key or trust file, whole, unless it is longer than any such file may be.
fn read_file(path: &Path) -> Result<Vec<u8>, TrustError> {
    let failed =
        |source| TrustError::Io { path: path.to_owned(), action: "read the key file", source };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(MAX_KEY_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_KEY_FILE {
        let reason = KeyError::TooLong(MAX_KEY_FILE);
        return Err(TrustError::BadKey { path: path.to_owned(), reason });
    }
    Ok(bytes)
}

/// A key pair that was just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keygen {
    /// The id of both halves.
    pub key_id: KeyId,
    /// Where the secret half lies, readable by its owner only.
    pub secret: PathBuf,
    /// Where the public half lies.
    pub public: PathBuf,
}

/// Makes an Ed25519 key pair: `out`, and `out` with `.pub` added. Neither may exist.
///
/// # Errors
/// If one does, or cannot be written.
pub fn keygen(out: &Path) -> Result<Keygen, TrustError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| TrustError::Io {
        path: out.to_owned(),
        action: "get random bytes for a key",
        source: io::Error::other(error),
    })?;
    let key = SigningKey::from_bytes(&seed);
    let mut public = OsString::from(out);
    public.push(".pub");
    let public = PathBuf::from(public);
    let secret_line = format!("{SECRET_PREFIX} {}\n", to_hex(&seed));
    let public_line = format!("{PUBLIC_PREFIX} {}\n", to_hex(key.verifying_key().as_bytes()));
    // The public half first: it is the one that can be removed again without a loss.
    create(&public, 0o666, &public_line)?;
    if let Err(error) = create(out, 0o600, &secret_line) {
        fs::remove_file(&public).map_err(|source| TrustError::Io {
            path: public.clone(),
            action: "remove the public key of the pair that could not be written",
            source,
        })?;
        return Err(error);
    }
    let key_id = KeyId::of_ed25519(&key.verifying_key());
    Ok(Keygen { key_id, secret: out.to_owned(), public })
}

fn create(path: &Path, mode: u32, line: &str) -> Result<(), TrustError> {
    let failed = |action| move |source| TrustError::Io { path: path.to_owned(), action, source };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed("create this key file (an existing one is never overwritten)"))?;
    let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_all());
    if let Err(source) = written {
        // Ours, and incomplete: a half key must not stay behind.
        fs::remove_file(path).map_err(failed("remove the incomplete key file"))?;
        return Err(failed("write this key file")(source));
    }
    Ok(())
}

impl TrustSet {
    /// Reads what `--trust` was given: `hmac:FILE`, a public key, or a trust file. Without any,
    /// the user's default trust file is read if there is one; the set may stay empty.
    ///
    /// # Errors
    /// If one cannot be read or understood.
    pub fn load(arguments: &[String]) -> Result<Self, TrustError> {
        let mut set = Self::default();
        for argument in arguments {
            set.add_argument(argument)?;
        }
        if arguments.is_empty()
            && let Some(path) = default_trust_file()
        {
            // Only a file that is not there is no file: one that cannot be read must not turn
            // verification off.
            match path.try_exists() {
                Ok(true) => set.add_trust_file(&path)?,
                Ok(false) => {}
                Err(source) => {
                    return Err(TrustError::Io { path, action: "look for the trust file", source });
                }
            }
        }
        Ok(set)
    }

    fn add_argument(&mut self, argument: &str) -> Result<(), TrustError> {
        if let Some(path) = argument.strip_prefix("hmac:") {
            return self.add_hmac_file(Path::new(path), None);
        }
        let path = Path::new(argument);
        let bytes = read_file(path)?;
        let bad = |reason| TrustError::BadKey { path: path.to_owned(), reason };
        if bytes.starts_with(SECRET_PREFIX.as_bytes()) {
            return Err(bad(KeyError::SecretHalf));
        }
        if bytes.starts_with(PUBLIC_PREFIX.as_bytes()) {
            let text = std::str::from_utf8(&bytes).map_err(|_| bad(KeyError::NotText))?;
            let key = parse_public(text).map_err(bad)?;
            return self.add_ed25519(key, None).map_err(bad);
        }
        if is_openpgp(&bytes) {
            return self.add_openpgp(&bytes, None).map_err(bad);
        }
        self.add_lines(path, &bytes)
    }

    fn add_trust_file(&mut self, path: &Path) -> Result<(), TrustError> {
        let bytes = read_file(path)?;
        self.add_lines(path, &bytes)
    }

    fn add_lines(&mut self, path: &Path, bytes: &[u8]) -> Result<(), TrustError> {
        let bad = |reason| TrustError::BadKey { path: path.to_owned(), reason };
        let beside = |file: PathBuf| path.parent().unwrap_or(Path::new("")).join(file);
        for line in TrustFile::parse(bytes).map_err(bad)?.lines {
            match line {
                TrustLine::Ed25519 { key, names } => {
                    let key = public_key(&key).map_err(bad)?;
                    self.add_ed25519(key, names).map_err(bad)?;
                }
                TrustLine::OpenPgp { path: file, names } => {
                    let file = beside(file);
                    let bytes = read_file(&file)?;
                    self.add_openpgp(&bytes, names)
                        .map_err(|reason| TrustError::BadKey { path: file, reason })?;
                }
                TrustLine::Hmac { path: file, names } => {
                    self.add_hmac_file(&beside(file), names)?;
                }
                TrustLine::Revoked(key) => {
                    self.revoke(key);
                }
            }
        }
        Ok(())
    }

    fn add_hmac_file(&mut self, path: &Path, names: Option<Vec<String>>) -> Result<(), TrustError> {
        let bytes = read_file(path)?;
        let bad = |reason| TrustError::BadKey { path: path.to_owned(), reason };
        self.add_hmac(hmac_secret(&bytes).map_err(bad)?, names).map_err(bad)
    }
}

impl Signer {
    /// Reads a secret key file, as [`Self::parse`] says.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn load(path: &Path, method: Option<Method>) -> Result<Self, TrustError> {
        let bytes = read_file(path)?;
        Self::parse(&bytes, method)
            .map_err(|reason| TrustError::BadKey { path: path.to_owned(), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::parse_secret;
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keygen_writes_a_private_pair_once() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("key");
        let made = keygen(&out).unwrap();
        assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
        let secret = fs::read_to_string(&out).unwrap();
        let public = fs::read_to_string(&made.public).unwrap();
        let key = parse_secret(&secret).unwrap();
        assert_eq!(parse_public(&public).unwrap(), key.verifying_key());
        assert_eq!(made.key_id, KeyId::of_ed25519(&key.verifying_key()));
        assert_eq!(made.public, dir.path().join("key.pub"));

        assert!(keygen(&out).is_err());
        assert_eq!(fs::read_to_string(&out).unwrap(), secret);
        assert_eq!(fs::read_to_string(&made.public).unwrap(), public);

        // A lone secret is kept, and no public half of another pair is put beside it.
        fs::remove_file(&made.public).unwrap();
        assert!(keygen(&out).is_err());
        assert_eq!(fs::read_to_string(&out).unwrap(), secret);
        assert!(!made.public.exists());
    }
}
