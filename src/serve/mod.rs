//! `tenpak serve`: an OpenAI-compatible server over the embedded engine, or another engine as a child of ours
//! that takes every byte from an edge inside this process.

pub mod deploy;
pub mod external;
pub mod http;
pub mod speed;
