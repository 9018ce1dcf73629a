//! From what a user writes to the backend that is meant.

use std::path::PathBuf;
use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::dir::DirBackend;
use super::http::{HttpBackend, HttpOptions, Proxies, hidden};
#[cfg(feature = "cloud")]
use super::object::ObjectBackend;
use super::{Transport, TransportError, TransportErrorKind};

/// How stores over the network are reached.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WebOptions {
    /// Headers of every request to a store over http and https.
    pub headers: HeaderMap,
    /// Certificates (PEM) to trust beside the system's.
    pub certificates: Vec<Vec<u8>>,
}

impl WebOptions {
    /// What the environment says: `TENPAK_HEADERS` has a header on each line, as `Name: value`.
    ///
    /// # Errors
    /// If a line is no header.
    pub fn from_env() -> Result<Self, TransportError> {
        let mut options = Self::default();
        if let Ok(lines) = std::env::var("TENPAK_HEADERS") {
            for line in lines.lines().filter(|line| !line.trim().is_empty()) {
                options.add_header(line)?;
            }
        }
        Ok(options)
    }

    /// Adds a header, `Name: value`.
    ///
    /// # Errors
    /// If it is none. The error does not show the value.
    pub fn add_header(&mut self, line: &str) -> Result<(), TransportError> {
        let name = line.split_once(':').map_or("", |(name, _)| name.trim());
        let wrong = |why: &str| {
            TransportError::new(TransportErrorKind::Invalid, "header", name, why.to_owned())
        };
        let Some((_, value)) = line.split_once(':') else {
            return Err(wrong("a header is written as 'Name: value'"));
        };
        let parsed = HeaderName::try_from(name).map_err(|_| wrong("no header has such a name"))?;
        let mut value = HeaderValue::try_from(value.trim())
            .map_err(|_| wrong("its value has characters that no header may have"))?;
        value.set_sensitive(true);
        self.headers.insert(parsed, value);
        Ok(())
    }
}

/// Opens the store at an address as [`open_with`] does, with what the environment says.
///
/// # Errors
/// If the address, the credentials or `TENPAK_HEADERS` cannot be understood.
pub fn open(location: &str) -> Result<Arc<dyn Transport>, TransportError> {
    open_with(location, &WebOptions::from_env()?)
}

/// Opens the store at a path or at a `file://`, `s3://bucket/prefix`, `gs://bucket/prefix`,
/// `az://container/prefix`, `http://`, `https://` or `memory://` address. Nothing is read or made
/// yet. Credentials come from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`; for `http` and `https` a
/// bearer token in `TENPAK_TOKEN`), and so do proxies (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`). The query
/// of an `http` or `https` address, such as a signature, is sent with every request and shown in no message.
///
/// # Errors
/// If the address or the credentials cannot be understood.
pub fn open_with(
    location: &str,
    options: &WebOptions,
) -> Result<Arc<dyn Transport>, TransportError> {
    // A question mark in a path is a part of it.
    let is_url = location.contains("://");
    let shown = if is_url { hidden(location) } else { location.to_owned() };
    let invalid =
        |why: String| TransportError::new(TransportErrorKind::Invalid, &*shown, "store", why);
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
            let options = HttpOptions {
                token,
                more_roots_pem: options.certificates.clone(),
                proxies: Some(Proxies::from_env()),
                headers: options.headers.clone(),
                ..HttpOptions::default()
            };
            Arc::new(HttpBackend::new(location, options)?)
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
            if rest.contains('?') {
                return Err(invalid(
                    "a bucket's address has no query; a signed address begins with https://".into(),
                ));
            }
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let certificates = &options.certificates;
            Arc::new(ObjectBackend::bucket(location, scheme, bucket, prefix, certificates)?)
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
    fn secrets_are_not_shown() {
        let opened = open("https://host/store?sig=secret").unwrap();
        assert_eq!(opened.location(), "https://host/store?...");
        for bad in [
            "https://host/store?sig=secret#x",
            "https://:bad/store?sig=secret",
            "ftp://host/?sig=secret",
            "https://user:secret@host/",
            #[cfg(feature = "cloud")]
            "az://container?sig=secret",
        ] {
            let error = open(bad).map(|_| ()).unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(!told.contains("secret"), "{told}");
        }
        let mut options = WebOptions::default();
        for bad in ["Authorization secret", "A B: secret", "A: sec\nret", ": secret"] {
            let error = options.add_header(bad).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
        options.add_header("X-Api-Key:  secret ").unwrap();
        assert_eq!(options.headers["x-api-key"], "secret");
        assert!(!format!("{options:?}").contains("secret"));
        for own in ["Range: bytes=0-1", "Host: other"] {
            options.add_header(own).unwrap();
            let error = open_with("http://host/", &options).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("TenPak's own"), "{error}");
            options.headers.clear();
        }
    }

    #[test]
    fn addresses_name_backends() {
        for good in [
            "relative/dir",
            "/abs/dir",
            "file:///abs/dir",
            "http://localhost:1/a",
            "https://host",
            "https://host/?query",
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
            "s3://bucket/prefix?query",
            "https://host/#fragment",
            "file://relative",
            "s3:///prefix",
            "s3://bucket/../x",
        ] {
            let kind = open(bad).map(|_| ()).map_err(|e| e.kind);
            assert_eq!(kind, Err(TransportErrorKind::Invalid), "{bad}");
        }
    }
}
