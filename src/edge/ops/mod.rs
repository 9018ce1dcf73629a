//! What keeps an edge running: limits, the access log, metrics and traces, filling and emptying the
//! cache.

pub(crate) mod limits;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod prefetch;
pub(crate) mod purge;
pub(crate) mod trace;
pub(crate) mod traffic;
pub(crate) mod watch;
