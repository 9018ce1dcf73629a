//! From what a user writes to the backend that is meant.

use std::path::PathBuf;
use std::sync::Arc;

use url::Url;

use super::dir::DirBackend;
use super::http::{HttpBackend, HttpOptions};
#[cfg(feature = "cloud")]
use super::object::ObjectBackend;
use super::{Transport, TransportError, TransportErrorKind};

/// Opens the store at a path or at a `file://`, `s3://bucket/prefix`, `gs://bucket/prefix`,
/// `az://container/prefix`, `http://`, `https://` or `memory://` address. Nothing is read or made
/// yet. Credentials come from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`; for `http` and `https` a
/// bearer token in `TENPAK_TOKEN`).
///
/// # Errors
/// If the address or the credentials cannot be understood.
pub fn open(location: &str) -> Result<Arc<dyn Transport>, TransportError> {
    let invalid =
        |why: String| TransportError::new(TransportErrorKind::Invalid, location, "store", why);
    let Some((scheme, rest)) = location.split_once("://") else {
        if location.is_empty() {
            return Err(invalid("the store's address is empty".into()));
        }
        return Ok(Arc::new(DirBackend::new(PathBuf::from(location))));
    };
    Ok(match scheme.to_ascii_lowercase().as_str() {
        "file" => {
            let path = Url::parse(location)
                .ok()
                .and_then(|url| url.to_file_path().ok())
                .ok_or_else(|| invalid("a file address reads file:///absolute/path".into()))?;
            Arc::new(DirBackend::new(path))
        }
        "http" | "https" => {
            let token = std::env::var("TENPAK_TOKEN").ok().filter(|token| !token.is_empty());
            Arc::new(HttpBackend::new(location, HttpOptions { token, ..HttpOptions::default() })?)
        }
        #[cfg(feature = "cloud")]
        "memory" => Arc::new(ObjectBackend::memory()),
        #[cfg(not(feature = "cloud"))]
        "memory" | "s3" | "gs" | "az" => {
            let _ = rest;
            return Err(invalid(format!("{scheme}:// needs a build with the feature `cloud`")));
        }
        #[cfg(feature = "cloud")]
        scheme @ ("s3" | "gs" | "az") => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            Arc::new(ObjectBackend::bucket(location, scheme, bucket, prefix)?)
        }
        other => {
            return Err(invalid(format!(
                "unknown scheme {other}://; use a path, file, s3, gs, az, http or https"
            )));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_backends() {
        for good in [
            "relative/dir",
            "/abs/dir",
            "file:///abs/dir",
            "http://localhost:1/a",
            "https://host",
            #[cfg(feature = "cloud")]
            "memory://",
        ] {
            let opened = open(good).map(|b| b.location().to_owned());
            assert!(opened.is_ok(), "{good}: {opened:?}");
        }
        for bad in [
            "",
            "ftp://host/a",
            "http://",
            "http://user:pass@host/",
            "https://host/?query",
            "file://relative",
            "s3:///prefix",
            "s3://bucket/../x",
        ] {
            let kind = open(bad).map(|_| ()).map_err(|e| e.kind);
            assert_eq!(kind, Err(TransportErrorKind::Invalid), "{bad}");
        }
    }
}
