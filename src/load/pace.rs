//! How many requests there are to a store at a time, before that was measured, and at most.

use crate::memory::pool::cores;
use crate::store::Store;

/// Requests at a time to a web server or a bucket: at first, and at most.
pub(super) const CONNECTIONS: usize = 4;
const MOST_CONNECTIONS: usize = 128;
/// Requests at a time for files, each of which has a thread, at most.
const MOST_FILES: usize = 64;
/// Bytes per second that one core receives and hashes, with something to spare.
const CORE: u64 = 750_000_000;

/// Requests at a time: before anything was measured but the time to an answer, and at most.
pub(super) fn connections(store: &Store) -> (usize, usize) {
    if reads_block(store) {
        // The bytes of a file in memory are there as quickly as they are hashed, on a core for each request; where
        // the disk is waited for, as long over a network, more requests bring more.
        return (cores(), MOST_FILES);
    }
    let first = store.way().requests().unwrap_or(CONNECTIONS);
    (first, MOST_CONNECTIONS)
}

/// Bytes of one request that come in the time to an answer, before that was measured.
pub(super) fn on_the_way(store: &Store) -> u64 {
    // What opening a file took tells of the disk.
    if reads_block(store) { 0 } else { store.way().on_the_way() }
}

pub(super) fn reads_block(store: &Store) -> bool {
    store.transports().iter().any(|transport| transport.reads_block())
}

/// Bytes per second that this machine takes.
pub(super) fn enough() -> u64 {
    CORE * std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
}
