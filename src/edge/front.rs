//! Another service at the edge's address: it is asked first, and says which paths are its own. Connections, their
//! limits and the log are the edge's; who may ask what is the service's own matter.

use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{Request, Response};

use super::http::client_stream::RequestBody;

/// Why a body could not be finished.
pub type FrontError = Box<dyn Error + Send + Sync>;
/// An answer, once it is known.
pub type FrontAnswer =
    Pin<Box<dyn Future<Output = Response<UnsyncBoxBody<Bytes, FrontError>>> + Send>>;

/// Figures in the text form that Prometheus reads, once they are known.
pub type FrontFigures = Pin<Box<dyn Future<Output = String> + Send>>;

/// A service that answers some paths.
pub trait Front: Debug + Send + Sync {
    /// Whether it answers this path.
    fn takes(&self, path: &str) -> bool;
    /// Whether it answers this path however much is asked: an answer that costs nothing.
    fn is_vital(&self, path: &str) -> bool;
    /// Its figures, which stand below the edge's own on one page.
    fn figures(&self) -> FrontFigures;
    /// Answers a request of a client.
    fn answer(&self, request: Request<RequestBody>, client: IpAddr) -> FrontAnswer;
}
