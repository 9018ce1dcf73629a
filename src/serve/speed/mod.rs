//! Speed as users see it: times to the first token and from token to token, with so many requests at a time.
//!
//! Requests of a level follow each other without a pause, as many at a time as the level says; the first ones, before
//! anything is measured, warm the server up. What is measured is a [`Target`]: the embedded engine, in this process, or any
//! server that speaks as OpenAI's does.

mod client;
mod embedded;
mod events;
mod pool;
mod prompts;
mod run;
mod statistics;

pub use client::{Client, ClientError};
pub use embedded::Embedded;
pub use run::{Plan, Prompt, Target, measure};
pub use statistics::{Level, Percentiles, Repeat, Spread, Spreads, Timing, percentile};
