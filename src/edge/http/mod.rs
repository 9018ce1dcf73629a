//! HTTP as every answer of the edge keeps it: who asks, what a request says, conditions and ranges,
//! how long answers hold, and bodies that never end early unnoticed. It knows no cache and no store.

pub(crate) mod access;
pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod client_stream;
pub(crate) mod conditions;
pub(crate) mod connections;
pub(crate) mod freshness;
pub(crate) mod object;
pub(crate) mod ranges;
pub(crate) mod request;
pub(crate) mod server;
pub(crate) mod signed_url;
pub(crate) mod tls;
