//! The cheapest model that keeps limits of quality, latency and size: candidates are produced and measured, and
//! the best of them becomes an artifact whose manifest says why.
//!
//! What decides is pure: [`constraints`], the model of latency ([`roofline`], [`kernels`], [`latency`]), the
//! sequential test ([`sequential`], [`quality`]) and the [`choice`]. [`optimize_model`] takes the stages, cheap
//! before dear.

#[cfg(test)]
mod calibration;
pub mod candidate;
pub mod choice;
pub mod constraints;
pub mod endpoint;
mod error;
mod evidence;
mod exam;
pub mod figure;
pub mod fits;
pub mod hardware;
mod kernel_data;
pub mod kernels;
pub mod latency;
mod measure;
mod options;
pub mod outcome;
pub mod prices;
mod published;
pub mod quality;
mod reading;
pub mod report;
pub mod roofline;
mod rounds;
mod run;
mod section;
pub mod sequential;
mod served;
pub mod shape;
pub mod solve;
mod stages;
mod student;
mod study;
mod told;
pub mod workload;

pub use constraints::OptimizationConstraints;
pub use error::OptimizeError;
pub use options::{OptimizeOptions, Subject, Watch};
pub use outcome::Outcome;
pub use run::optimize_model;
pub use study::Packing;
