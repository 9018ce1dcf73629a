//! Serves a store over HTTP, verified: its own layout for loaders and further edges, and its artifacts
//! as repositories for clients of the Hugging Face Hub.
//!
//! Chunks pass through one cache, which nothing enters unverified. Only paths of a store's own folders
//! are answered. A body that cannot be finished ends its connection, so that no client takes a part for
//! the whole.

mod api;
pub(crate) mod cache;
mod error;
mod front;
mod http;
mod ops;
mod options;
mod serve;
mod state;

pub use error::{EdgeError, SettingError, TokenError};
pub use front::{Front, FrontAnswer, FrontError, FrontFigures};
pub use http::access::Access;
pub use http::client_stream::RequestBody;
pub use http::connections::ConnectionLimits;
pub(crate) use http::server::{HEADER_TIME, accept, protocols, talk};
pub use http::signed_url::UrlKey;
pub use http::tls::Tls;
pub use ops::log::AccessLog;
pub use ops::trace::TraceTarget;
pub(crate) use ops::trace::{Tracer, Work};
pub use options::{Clock, EdgeOptions, Validity};
pub use serve::serve;
pub use state::Edge;
