//! URLs that say until when they hold, signed with a secret of the edge. Pure.
//!
//! The signature is HMAC-SHA256 over `tenpak/v1/url`, NUL, the path as it is sent, a line feed and the
//! decimal Unix time from which the URL no longer holds. It stands in the query:
//! `?expires=TIME&signature=HEX`.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::edge::error::SettingError;
use crate::format::id::{from_hex, to_hex};

const DOMAIN: &[u8] = b"tenpak/v1/url\0";
/// The shortest secret.
const MIN_SECRET: usize = 32;

/// The secret that signs URLs.
#[derive(Clone)]
pub struct UrlKey(Vec<u8>);

impl fmt::Debug for UrlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UrlKey")
    }
}

/// What a query says of its URL's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UrlSignature {
    expires: Option<u64>,
    mac: Option<[u8; 32]>,
}

/// What a signature is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    Right,
    /// Not made with this key for this path and time.
    Wrong,
    /// Right, and over.
    Late,
}

impl UrlKey {
    /// Takes the content of a key file; blanks around it do not count.
    ///
    /// # Errors
    ///
    /// If it is too short for a secret.
    pub fn new(content: &[u8]) -> Result<Self, SettingError> {
        let secret = content.trim_ascii();
        if secret.len() < MIN_SECRET {
            return Err(SettingError::Secret { len: secret.len(), least: MIN_SECRET });
        }
        Ok(Self(secret.to_vec()))
    }

    /// The URL `url` (`http(s)://HOST/PATH`), signed to hold until `expires` (Unix seconds).
    ///
    /// # Errors
    ///
    /// If it is no such URL, or has a query.
    pub fn sign(&self, url: &str, expires: u64) -> Result<String, SettingError> {
        let wrong = |source| SettingError::Url { url: url.to_owned(), source };
        let mut url = url::Url::parse(url).map_err(wrong)?;
        if !matches!(url.scheme(), "http" | "https") || url.query().is_some() {
            return Err(SettingError::SignedUrl(url));
        }
        url.set_fragment(None);
        let mac = to_hex(&self.mac(url.path(), expires).finalize().into_bytes());
        url.set_query(Some(&format!("expires={expires}&signature={mac}")));
        Ok(url.into())
    }

    /// Holds a signature against the path of a request.
    pub(crate) fn check(&self, path: &str, signature: &UrlSignature, now: u64) -> Check {
        let (Some(expires), Some(mac)) = (signature.expires, signature.mac) else {
            return Check::Wrong;
        };
        match self.mac(path, expires).verify_slice(&mac) {
            Err(_) => Check::Wrong,
            Ok(()) if expires <= now => Check::Late,
            Ok(()) => Check::Right,
        }
    }

    fn mac(&self, path: &str, expires: u64) -> Hmac<Sha256> {
        // HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0)
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        mac.update(DOMAIN);
        mac.update(path.as_bytes());
        mac.update(format!("\n{expires}").as_bytes());
        mac
    }
}

/// The signature in a query; `None` if there is none at all.
pub(crate) fn of_query(query: &str) -> Option<UrlSignature> {
    let mut found = UrlSignature { expires: None, mac: None };
    let mut any = false;
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "expires" => found.expires = value.parse().ok(),
            "signature" => {
                any = true;
                found.mac = from_hex(&value);
            }
            _ => {}
        }
    }
    any.then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_holds_for_its_path_until_its_time() {
        let key = UrlKey::new(b" 0123456789abcdef0123456789abcdef\n").unwrap();
        assert!(UrlKey::new(b"short").is_err());
        let url = key.sign("http://edge:80/org/m/resolve/main/a%20b", 1000).unwrap();
        let query = url.split_once('?').unwrap().1;
        // HMAC-SHA256 as Python's hmac module computes it.
        let right = "b473d0d1f3803a1812bead8c75a51f99c2f5e27bb5bc2baeb9e87d7e851e8dc7";
        let path = "/org/m/resolve/main/a%20b";
        let check = |path: &str, query: &str, now| key.check(path, &of_query(query).unwrap(), now);
        assert_eq!(check(path, query, 999), Check::Right);
        assert_eq!(check(path, query, 1000), Check::Late);
        assert_eq!(check("/org/m/resolve/main/a b", query, 999), Check::Wrong);
        assert_eq!(check(path, &query.replace("1000", "1001"), 999), Check::Wrong);
        assert_eq!(check(path, &query.replace("signature=", "signature=0"), 999), Check::Wrong);
        assert_eq!(check(path, "signature=", 999), Check::Wrong);
        assert_eq!(check(path, "expires=5000&signature=00", 999), Check::Wrong);
        let other = UrlKey::new(b"1123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(other.check(path, &of_query(query).unwrap(), 999), Check::Wrong);
        assert_eq!(of_query("expires=1000"), None);
        assert!(query.contains(right), "{query}");
        for bad in ["edge/x", "ftp://edge/x", "http://edge/x?y"] {
            assert!(key.sign(bad, 1).is_err(), "{bad}");
        }
    }
}
