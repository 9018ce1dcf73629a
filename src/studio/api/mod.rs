//! The interface: one router, whose routes the document lists.

mod artifacts;
mod asking;
mod document;
mod events;
mod jobs;
mod page;
mod router;
mod shown;
mod submit;
mod system;
mod uploads;

pub(super) use router::router;
