//! An OpenAI-compatible server over whatever runs a model.
//!
//! Everything a request asks is held against its bounds before the engine sees it. A client that goes away, or
//! does not read, ends its texts; streamed or not, an answer says the same.

mod access;
mod answer;
mod body;
mod choice;
mod embed;
mod error;
mod metrics;
mod outbox;
mod plan;
mod reader;
mod request;
mod response;
mod routes;
mod serve;
mod state;
mod told;

pub use reader::Reader;
pub use serve::serve;
pub use state::{Limits, Server};
