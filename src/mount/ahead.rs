//! Reading ahead: what is planned for a reader is fetched, decoded and put into the kernel's pages, in order.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;

use super::core::follow::{Ahead, ReaderId};
use super::core::inodes::Block;
use super::pages::{PAGE, Pages};
use super::view::{Artifact, Opened, View};
use crate::memory::pool::Urgency;
use crate::transport::TransportError;

/// Bytes that are fetched or decoded for one reader at a time; more is asked for when half of them are there, so
/// that neighbours come in one request.
const FETCHING: u64 = 32 << 20;
/// Less than this is put into the kernel's pages together with what follows.
const LITTLE: usize = 128 << 10;

/// A run that is fetched and decoded.
type Coming = (Ahead, JoinHandle<Result<Vec<Bytes>, Arc<TransportError>>>);

/// Reads ahead of a reader until its window is full.
pub(crate) async fn serve(
    view: Arc<View>,
    block: Arc<Block<Artifact>>,
    opened: Arc<Opened>,
    id: ReaderId,
) {
    let _busy = view.busy();
    let mut coming: VecDeque<Coming> = VecDeque::new();
    let mut fetching = 0;
    let mut pages = Storing::new(&view, &block);
    loop {
        if fetching <= FETCHING / 2 {
            let mut planned = Vec::new();
            while fetching < FETCHING
                && let Some(ahead) = opened.take(id, view.most())
            {
                fetching += ahead.bytes.end - ahead.bytes.start;
                planned.push(ahead);
            }
            begin(&view, &opened, planned, &mut coming);
        }
        let Some((ahead, job)) = coming.pop_front() else {
            pages.flush(true).await;
            match opened.rest(id, view.most()) {
                true => return,
                false => continue,
            }
        };
        fetching -= ahead.bytes.end - ahead.bytes.start;
        if opened.still_ahead(id, &ahead).is_none() {
            // The reader is past it, or elsewhere: nobody waits for it here.
            continue;
        }
        match job.await {
            // What nobody needs there any more is decoded, for whoever may come.
            Ok(Ok(bytes)) => {
                if let Some(left) = opened.still_ahead(id, &ahead) {
                    // Said before: whoever answers meanwhile does not store the same.
                    opened.stored(id, ahead.file, &ahead.bytes);
                    pages.add(&ahead, left, bytes, opened.size(ahead.file)).await;
                }
            }
            Ok(Err(error)) => {
                view.tell(&block, ahead.file, &error);
                return opened.forget(id);
            }
            // The runtime ends.
            Err(_) => return opened.forget(id),
        }
        if pages.gone {
            return opened.forget(id);
        }
    }
}

fn begin(
    view: &Arc<View>,
    opened: &Arc<Opened>,
    planned: Vec<Ahead>,
    coming: &mut VecDeque<Coming>,
) {
    let (mut units, mut counts) = (Vec::new(), Vec::new());
    for ahead in &planned {
        let own = opened.map(ahead.file).units(&opened.whole, &ahead.bytes);
        counts.push(own.len());
        units.extend(own);
    }
    let mut begun = view.chunks.begin(&opened.whole, units, Urgency::Ahead).into_iter();
    for (ahead, count) in planned.into_iter().zip(counts) {
        let own: Vec<_> = begun.by_ref().take(count).collect();
        let (view, opened) = (view.clone(), opened.clone());
        let finish = async move {
            let mut bytes = Vec::with_capacity(own.len());
            for one in own {
                bytes.push(view.chunks.finish(&opened.whole, one, Urgency::Ahead).await?);
            }
            Ok(bytes)
        };
        coming.push_back((ahead, tokio::spawn(finish)));
    }
}

/// What lies behind the bytes asked for in their run, decoded, for whoever reads on: put into the kernel's pages before
/// the answer, it is there when the reader comes to it.
pub(crate) async fn before_answer(
    view: &View,
    block: &Block<Artifact>,
    opened: &Opened,
    id: ReaderId,
    file: u32,
    behind: u64,
) {
    let map = opened.map(file);
    if !behind.is_multiple_of(PAGE) || behind >= map.size() {
        return;
    }
    let end = map.run_end(behind);
    let end = if end == map.size() { end } else { end / PAGE * PAGE };
    let Some(number) = block.tree.of_file(file).map(|node| block.number(node)) else { return };
    let units = if end > behind { map.units(&opened.whole, &(behind..end)) } else { Vec::new() };
    let parts: Option<Vec<Bytes>> =
        units.iter().map(|unit| view.chunks.at_once(&opened.whole, unit)).collect();
    if let Some(parts) = parts.filter(|parts| !parts.is_empty())
        && opened.stored(id, file, &(behind..end))
    {
        view.pages.try_store(number, behind, parts).await;
    }
}

/// Hands over the rest of the chunk that holds byte `at`, which is decoded.
pub(crate) async fn hand_over(
    view: Arc<View>,
    block: Arc<Block<Artifact>>,
    opened: Arc<Opened>,
    file: u32,
    at: u64,
) {
    let map = opened.map(file);
    // What was asked for twice was not read ahead.
    let Some(run) = map.run(at) else { return };
    let mut pages = Storing::new(&view, &block);
    let mut parts = Vec::new();
    for unit in map.units(&opened.whole, &run) {
        match view.chunks.unit(&opened.whole, unit, Urgency::Ahead).await {
            Ok(bytes) => parts.push(bytes),
            // Whoever asks for these bytes is told.
            Err(_) => return,
        }
    }
    pages.add(&Ahead::alone(file, run.clone()), run, parts, map.size()).await;
    pages.flush(true).await;
}

/// Runs on their way into the kernel's pages: neighbours are joined, and whole pages go.
struct Storing {
    pages: Arc<Pages>,
    block: Arc<Block<Artifact>>,
    /// What is kept: of which file, from which byte on, and how large that is.
    file: u32,
    size: u64,
    at: u64,
    kept: Vec<Bytes>,
    len: usize,
    /// A file that the kernel does not know.
    unknown: Option<u32>,
    /// Whether the mount is gone.
    gone: bool,
}

impl Storing {
    fn new(view: &View, block: &Arc<Block<Artifact>>) -> Self {
        let (pages, block, kept) = (view.pages.clone(), block.clone(), Vec::new());
        let (file, size, at, len, unknown, gone) = (0, 0, 0, 0, None, false);
        Self { pages, block, file, size, at, kept, len, unknown, gone }
    }

    /// More bytes of a file of `size` bytes, of which those that are `left` are to be stored.
    async fn add(&mut self, ahead: &Ahead, left: Range<u64>, parts: Vec<Bytes>, size: u64) {
        let follows = self.file == ahead.file && self.at + self.len as u64 == ahead.bytes.start;
        if !follows || ahead.probe {
            self.flush(!follows).await;
        }
        if !follows {
            self.kept.clear();
            (self.file, self.at, self.len) = (ahead.file, ahead.bytes.start, 0);
        }
        self.size = size;
        for part in parts {
            self.len += part.len();
            self.kept.push(part);
        }
        // It begins with a page, in the middle of which other bytes may lie, or behind one that is left out.
        let first = self.at.max(left.start.min(ahead.bytes.end));
        let from = if left.start > ahead.bytes.start { first } else { self.at };
        let skip = from.next_multiple_of(PAGE) - self.at + if ahead.probe { PAGE } else { 0 };
        self.skip(skip);
        if self.len >= LITTLE {
            self.flush(false).await;
        }
    }

    /// Lets the first bytes go.
    fn skip(&mut self, count: u64) {
        let mut left = usize::try_from(count).unwrap_or(usize::MAX).min(self.len);
        (self.at, self.len) = (self.at + left as u64, self.len - left);
        while left > 0
            && let Some(first) = self.kept.first_mut()
        {
            if first.len() > left {
                drop(first.split_to(left));
                return;
            }
            left -= first.len();
            self.kept.remove(0);
        }
    }

    /// Stores all whole pages; what is left of a page is kept, unless nothing follows.
    async fn flush(&mut self, is_last: bool) {
        let end = self.at + self.len as u64;
        let whole = if end == self.size { end } else { end / PAGE * PAGE };
        if whole > self.at && self.at.is_multiple_of(PAGE) && self.unknown != Some(self.file) {
            let own = self.head((whole - self.at) as usize);
            let number = self.block.tree.of_file(self.file).map(|node| self.block.number(node));
            let stored = match number {
                Some(number) => self.pages.store(number, self.at, own).await,
                None => Ok(()),
            };
            if let Err(error) = stored {
                let unknown = error.raw_os_error() == Some(libc::ENOENT);
                match unknown || error.kind() == io::ErrorKind::InvalidInput {
                    true => self.unknown = Some(self.file),
                    false => self.gone = true,
                }
            }
        }
        match is_last {
            true => self.skip(u64::MAX),
            false => self.skip(whole.saturating_sub(self.at)),
        }
    }

    /// The first `len` bytes that are kept.
    fn head(&self, len: usize) -> Vec<Bytes> {
        let (mut left, mut own) = (len, Vec::new());
        for part in &self.kept {
            let count = part.len().min(left);
            if count > 0 {
                own.push(part.slice(..count));
            }
            left -= count;
        }
        // Many small ones are joined: the system takes so many at a time.
        if own.len() > 64 {
            let mut joined = BytesMut::with_capacity(len);
            own.iter().for_each(|part| joined.extend_from_slice(part));
            own = vec![joined.freeze()];
        }
        own
    }
}
