//! The interface: one router, whose routes the document lists.

mod artifacts;
mod asking;
mod document;
mod estimate;
mod events;
mod jobs;
mod lineage;
mod links;
mod operators;
mod page;
mod router;
mod schemas;
mod shown;
mod submit;
mod system;
mod uploads;
mod webhooks;

pub(super) use router::router;
pub(super) use system::figures;
