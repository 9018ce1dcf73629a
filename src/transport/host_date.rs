//! The client of buckets: it notes the time by their host (what the `Date` of its answers says, and the time since),
//! and asks no proxy where `NO_PROXY` excepts one port of a host, which the client below does not know.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use hyper::header::DATE;
use hyper::http::Uri;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::{ClientConfigKey, ClientOptions};

use super::http::Proxies;

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
        let connector = ReqwestConnector::default();
        let inner = connector.connect(options)?;
        let proxies = Proxies::from_env();
        let has_own = options.get_config_value(&ClientConfigKey::ProxyUrl).is_some();
        let straight = match proxies.leave_ports_out() && !has_own {
            true => {
                let [(url, to), (excludes, all)] = STRAIGHT;
                let options = options.clone().with_config(url, to).with_config(excludes, all);
                Some((connector.connect(&options)?, proxies))
            }
            false => None,
        };
        Ok(HttpClient::new(Client { inner, straight, date: self.clone() }))
    }
}

/// A client that is given a proxy asks none of the environment; this one is asked for no host.
const STRAIGHT: [(ClientConfigKey, &str); 2] = [
    (ClientConfigKey::ProxyUrl, "http://127.0.0.1:9"),
    (ClientConfigKey::ProxyExcludes, "*,0.0.0.0/0,::/0"),
];

/// A client that notes the date of each answer.
#[derive(Debug)]
struct Client {
    /// Asks the proxies of the environment.
    inner: HttpClient,
    /// Asks none, for what is excepted.
    straight: Option<(HttpClient, Proxies)>,
    date: HostDate,
}

impl Client {
    fn of(&self, uri: &Uri) -> &HttpClient {
        let port = uri.port_u16().or(match uri.scheme_str() {
            Some("http") => Some(80),
            Some("https") => Some(443),
            _ => None,
        });
        match &self.straight {
            Some((client, proxies)) if proxies.are_past(uri.host().unwrap_or_default(), port) => {
                client
            }
            _ => &self.inner,
        }
    }
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self.of(request.uri()).execute(request).await?;
        let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) {
            self.date.saw(date);
        }
        Ok(answer)
    }
}
