//! The engines of others: programs that we start, fed from an edge inside our process.
//!
//! What is asked of an engine becomes a command, purely ([`External::invocation`]). Whether it loads the checkpoint
//! is told before it is started ([`Checkpoint::check`]), as is whether it is there and new enough ([`find`]).

mod child;
mod engine;
mod fit;
mod hub;
mod installed;
mod launch;
mod llama_cpp;
mod ready;
mod sglang;
mod supervise;
mod tgi;
mod version;
mod vllm;

pub use child::Child;
pub use engine::External;
pub use fit::{Checkpoint, Fitting, Unfit};
pub use hub::Hub;
pub use installed::{Installed, NotInstalled, find, program};
pub use launch::{
    Adapter, ComputeType, Invocation, Launch, ModelAt, Program, Unable, Word, own_option,
};
pub use ready::{NotReady, reached, ready};
pub use supervise::supervise;
