//! The embedded engine: runs an artifact's model on the processor, on weights as they are stored, and begins
//! while they still arrive.
//!
//! One thread runs the model; [`Engine::submit`] gives it a request and returns what comes of it, token by
//! token. What a request gets does not depend on what else runs: every sum is taken in one order, whatever the
//! batch.

mod batch;
pub mod compute;
mod model;
mod open;
mod request;
mod run;
pub mod sample;
pub mod text;

pub use model::{Adapter, Model, ModelError, ModelOptions};
pub use open::{Running, open, quantization};
pub use request::{
    Engine, EngineLoad, Event, Events, Finish, Likely, ModelInfo, Refused, Request, Scored,
};
pub use run::{Embedder, EngineOptions, Generator};
