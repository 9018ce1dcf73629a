//! The time by the host of a bucket: what the `Date` of its answers says, and the time since.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use hyper::header::DATE;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// The newest `Date` of a host, and when it came; shared by the clients of a bucket.
#[derive(Clone, Default)]
pub(super) struct HostDate(Arc<Mutex<Option<(SystemTime, Instant)>>>);

impl HostDate {
    /// What time it is there; `None` before it said so.
    pub(super) fn now(&self) -> Option<SystemTime> {
        let (date, at) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        date.checked_add(at.elapsed())
    }

    fn saw(&self, date: SystemTime) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((date, Instant::now()));
    }
}

impl fmt::Debug for HostDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostDate")
    }
}

impl HttpConnector for HostDate {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Dated { inner, date: self.clone() }))
    }
}

/// A client that notes the date of each answer.
#[derive(Debug)]
struct Dated {
    inner: HttpClient,
    date: HostDate,
}

#[async_trait]
impl HttpService for Dated {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self.inner.execute(request).await?;
        let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) {
            self.date.saw(date);
        }
        Ok(answer)
    }
}
