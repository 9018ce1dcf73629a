//! Reading ahead: what is planned for a reader is fetched, decoded and put into the kernel's pages, in order.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;

use super::core::follow::{Ahead, ReaderId};
use super::core::inodes::Block;
use super::pages::PAGE;
use super::view::{Artifact, Opened, View, Wanted};
use crate::memory::pool::Urgency;
use crate::transport::TransportError;

/// Bytes that are fetched or decoded for one reader at a time; more is asked for when half of them are there, so
/// that neighbours come in one request.
const FETCHING: u64 = 32 << 20;
/// What of a run is put together at a time for the kernel alone.
const PIECE: u64 = 1 << 20;
/// Less than this is put into the kernel's pages together with what follows.
const LITTLE: usize = 128 << 10;

/// A run that is fetched and decoded.
type Coming = (Ahead, Wanted, JoinHandle<Result<Vec<Bytes>, Arc<TransportError>>>);

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
    let mut pages = Storing::new(&view, &block, &opened);
    loop {
        if fetching <= FETCHING / 2 {
            let mut planned = Vec::new();
            while fetching < FETCHING
                && let Some((ahead, wanted)) = opened.take(id, view.most())
            {
                fetching += ahead.bytes.end - ahead.bytes.start;
                planned.push((ahead, wanted));
            }
            begin(&view, &opened, planned, &mut coming);
        }
        let Some((ahead, wanted, job)) = coming.pop_front() else {
            pages.flush(true).await;
            match opened.rest(id, view.most()) {
                true => return,
                false => continue,
            }
        };
        fetching -= ahead.bytes.end - ahead.bytes.start;
        match job.await {
            // Also if the reader went elsewhere: what was fetched for it need not be fetched again.
            Ok(Ok(bytes)) => {
                pages.add(&ahead, bytes).await;
                drop(wanted);
                let_go(&view, &opened, ahead.file, &ahead.bytes).await;
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
    planned: Vec<(Ahead, Wanted)>,
    coming: &mut VecDeque<Coming>,
) {
    let (mut units, mut counts) = (Vec::new(), Vec::new());
    for (ahead, _) in &planned {
        let own = opened.map(ahead.file).units(&opened.whole, &ahead.bytes);
        counts.push(own.len());
        units.extend(own);
    }
    let mut begun = view.chunks.begin(&opened.whole, units, Urgency::Ahead).into_iter();
    for ((ahead, wanted), count) in planned.into_iter().zip(counts) {
        let own: Vec<_> = begun.by_ref().take(count).collect();
        let (view, opened) = (view.clone(), opened.clone());
        let finish = async move {
            let mut bytes = Vec::with_capacity(own.len());
            for one in own {
                bytes.push(view.chunks.finish(&opened.whole, one, Urgency::Ahead).await?);
            }
            Ok(bytes)
        };
        coming.push_back((ahead, wanted, tokio::spawn(finish)));
    }
}

/// What lies behind the bytes asked for in their run, decoded, for whoever reads on: put into the kernel's pages before
/// the answer, it is there when the reader comes to it.
pub(crate) async fn before_answer(
    view: &View,
    block: &Block<Artifact>,
    opened: &Opened,
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
    if end <= behind || opened.gap(file, &(behind..behind + 1)).is_none() {
        return;
    }
    let units = map.units(&opened.whole, &(behind..end));
    let parts: Option<Vec<Bytes>> =
        units.iter().map(|unit| view.chunks.at_once(&opened.whole, unit)).collect();
    let Some(parts) = parts else { return };
    let Some(own) = opened.claim(file, &(behind..end)) else { return };
    let is_there = own.start == behind
        && view.pages.try_store(number, behind, head(&parts, own.end - behind)).await;
    opened.settle(file, &own, is_there);
}

/// The bytes that are fetched whenever some of `asked` are, if the kernel lacks any of their pages.
pub(crate) fn lacking(opened: &Opened, file: u32, asked: &Range<u64>) -> Option<Range<u64>> {
    let map = opened.map(file);
    let runs = map.run(asked.start)?.start..map.run(asked.end.checked_sub(1)?)?.end;
    let end = if runs.end == map.size() { runs.end } else { runs.end / PAGE * PAGE };
    // What is asked for comes with the answer.
    let behind = asked.end.max(runs.start).next_multiple_of(PAGE)..end;
    let before = runs.start.next_multiple_of(PAGE)..asked.start;
    let lacks = |bytes| opened.gap(file, &bytes).is_some();
    (lacks(behind) || lacks(before)).then_some(runs)
}

/// Gives the kernel all of what was fetched since some of it was asked for, as far as it is still decoded.
pub(crate) async fn hand_over(
    view: Arc<View>,
    block: Arc<Block<Artifact>>,
    opened: Arc<Opened>,
    file: u32,
    bytes: Range<u64>,
) {
    let Some(_turn) = view.pages.turn().await else { return };
    let map = opened.map(file);
    let mut pages = Storing::new(&view, &block, &opened);
    let mut at = bytes.start;
    while let Some(gap) = opened.gap(file, &(at..bytes.end)) {
        let end = map.run_end(gap.start).min(gap.start + PIECE).min(gap.end).max(gap.start + 1);
        let units = map.units(&opened.whole, &(gap.start..end));
        let parts: Option<Vec<Bytes>> =
            units.iter().map(|unit| view.chunks.at_once(&opened.whole, unit)).collect();
        // Whoever asks for it fetches it.
        let Some(parts) = parts.filter(|_| !pages.gone) else { break };
        pages.add(&Ahead { file, bytes: gap.start..end, probe: false }, parts).await;
        at = end;
    }
    pages.flush(true).await;
}

/// The kernel has these bytes: what it has all pages of is decoded for nobody.
pub(crate) async fn let_go(view: &View, opened: &Opened, file: u32, bytes: &Range<u64>) {
    for unit in opened.done(file, bytes) {
        view.chunks.let_go(&opened.whole, opened.repeated(), &unit).await;
    }
}

/// The first `len` bytes of `parts`.
fn head(parts: &[Bytes], len: u64) -> Vec<Bytes> {
    let (mut left, mut own) = (usize::try_from(len).unwrap_or(usize::MAX), Vec::new());
    for part in parts {
        let count = part.len().min(left);
        if count > 0 {
            own.push(part.slice(..count));
        }
        left -= count;
    }
    // Many small ones are joined: the system takes so many at a time.
    if own.len() > 64 {
        let mut joined = BytesMut::with_capacity(own.iter().map(Bytes::len).sum());
        own.iter().for_each(|part| joined.extend_from_slice(part));
        own = vec![joined.freeze()];
    }
    own
}

/// Runs on their way into the kernel's pages: neighbours are joined, and whole pages go, those that it lacks.
struct Storing {
    view: Arc<View>,
    block: Arc<Block<Artifact>>,
    opened: Arc<Opened>,
    /// What is kept: of which file, and from which byte on.
    file: u32,
    at: u64,
    kept: Vec<Bytes>,
    len: usize,
    /// A file that the kernel does not know.
    unknown: Option<u32>,
    /// Whether the mount is gone.
    gone: bool,
}

impl Storing {
    fn new(view: &Arc<View>, block: &Arc<Block<Artifact>>, opened: &Arc<Opened>) -> Self {
        Self {
            view: view.clone(),
            block: block.clone(),
            opened: opened.clone(),
            file: 0,
            at: 0,
            kept: Vec::new(),
            len: 0,
            unknown: None,
            gone: false,
        }
    }

    /// More bytes of a file.
    async fn add(&mut self, ahead: &Ahead, parts: Vec<Bytes>) {
        let follows = self.file == ahead.file && self.at + self.len as u64 == ahead.bytes.start;
        if !follows || ahead.probe {
            self.flush(!follows).await;
        }
        if !follows {
            (self.file, self.at) = (ahead.file, ahead.bytes.start);
        }
        for part in parts {
            self.len += part.len();
            self.kept.push(part);
        }
        // It begins with a page, or behind one that is left out.
        let left_out = if ahead.probe { PAGE } else { 0 };
        self.skip(self.at.next_multiple_of(PAGE) - self.at + left_out);
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
        let (size, end) = (self.opened.size(self.file), self.at + self.len as u64);
        let whole = if end == size { end } else { end / PAGE * PAGE };
        while !self.gone
            && self.at < whole
            && self.unknown != Some(self.file)
            && let Some(own) = self.opened.claim(self.file, &(self.at..whole))
        {
            self.skip(own.start - self.at);
            let stored = self.store(head(&self.kept, own.end - own.start)).await;
            self.opened.settle(self.file, &own, stored.is_ok());
            if stored.is_ok() {
                let_go(&self.view, &self.opened, self.file, &own).await;
            }
            self.skip(own.end - own.start);
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

    /// Stores bytes that begin with those that are kept.
    async fn store(&self, bytes: Vec<Bytes>) -> io::Result<()> {
        let number = self.block.tree.of_file(self.file).map(|node| self.block.number(node));
        match number {
            Some(number) => self.view.pages.store(number, self.at, bytes).await,
            None => Ok(()),
        }
    }
}
