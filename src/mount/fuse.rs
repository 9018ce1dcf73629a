//! The kernel's requests, answered.
//!
//! A request that has to wait is answered by a task: threads that ask never wait for each other, however many they
//! are. The kernel reads nothing ahead by itself, so that what it asks for is what somebody touches.
//!
//! One file: the kernel's protocol in its order, a few lines for each kind of request.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use fuser::{
    BackingId, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use tokio::runtime::Handle;

use super::ahead;
use super::core::folders::Entry;
use super::core::follow::Next;
use super::core::inodes::{Block, Means};
use super::core::tree::{File, Kind, NodeIndex};
use super::keep::keep;
use super::pages::PAGE;
use super::view::{Artifact, Found, Opened, View, lock};
use crate::memory::pool::Urgency;
use crate::transport::TransportError;

/// How long the kernel may keep what never changes.
const FOREVER: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Requests of one mount that the kernel may have read ahead, as `MADV_WILLNEED` asks it to.
const BACKGROUND: u16 = 1024;
/// The block of a file's size, and what is told to be a good size to read.
const SECTOR: u64 = 512;
const GOOD_READ: u32 = 1 << 20;
/// The extended attributes.
const SHA256: &str = "user.tenpak.sha256";
const MANIFEST: &str = "user.tenpak.manifest";
/// How many file systems may lie below this one where the kernel reads files itself: one, as of a container.
const STACK: u32 = 2;

/// The file system.
pub(crate) struct Fuse {
    view: Arc<View>,
    runtime: Handle,
    owner: (u32, u32),
    started: SystemTime,
    handles: Arc<Mutex<HashMap<u64, Arc<Open>>>>,
    folders: Arc<Mutex<HashMap<u64, Arc<Vec<Entry>>>>>,
    next: AtomicU64,
    ways: Arc<Mutex<HashMap<u64, Way>>>,
    /// Whether the kernel can read files itself.
    passes: bool,
}

/// An open file.
struct Open {
    block: Arc<Block<Artifact>>,
    opened: Arc<Opened>,
    file: u32,
    number: u64,
}

/// How a file that is open is read: for the kernel it must be the same way for all who have it open.
enum Way {
    /// Through us, by so many.
    Asked(u64),
    /// By the kernel itself.
    Passed(u64, Arc<BackingId>),
}

impl Fuse {
    pub(crate) fn new(view: Arc<View>, runtime: Handle) -> Self {
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Self {
            view,
            runtime,
            owner,
            started: SystemTime::now(),
            handles: Arc::default(),
            folders: Arc::default(),
            next: AtomicU64::new(1),
            ways: Arc::default(),
            passes: false,
        }
    }

    fn means(&self, number: INodeNo) -> Option<Means<Artifact>> {
        lock(&self.view.inodes).means(number.0)
    }

    fn node(&self, number: INodeNo) -> Option<(Arc<Block<Artifact>>, NodeIndex)> {
        match self.means(number)? {
            Means::Node(block, node) => Some((block, node)),
            Means::Folder(_) => None,
        }
    }

    fn file(&self, number: INodeNo) -> Option<(Arc<Block<Artifact>>, File)> {
        let (block, node) = self.node(number)?;
        match block.tree.node(node)?.kind {
            Kind::File(file) => Some((block, file)),
            Kind::Folder(_) => None,
        }
    }

    fn attributes(&self, number: u64, means: &Means<Artifact>) -> FileAttr {
        attributes(number, means, self.owner, self.started)
    }
}

/// What the kernel is told of a node.
fn attributes(
    number: u64,
    means: &Means<Artifact>,
    (uid, gid): (u32, u32),
    started: SystemTime,
) -> FileAttr {
    let (mut size, mut perm, mut kind, mut time) = (0, 0o555, FileType::Directory, started);
    if let Means::Node(block, node) = means {
        // Not the time of the mount: tools that copy what is newer would copy everything each time.
        time = block.artifact.published.unwrap_or(SystemTime::UNIX_EPOCH);
        if let Some(Kind::File(file)) = block.tree.node(*node).map(|node| &node.kind) {
            (size, kind) = (file.size, FileType::RegularFile);
            perm = if file.executable { 0o555 } else { 0o444 };
        }
    }
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(SECTOR),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink: if kind == FileType::Directory { 2 } else { 1 },
        uid,
        gid,
        rdev: 0,
        blksize: GOOD_READ,
        flags: 0,
    }
}

/// A number for an entry of which nothing but the name is known.
fn unknown(name: &str) -> INodeNo {
    let digest = blake3::hash(name.as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    INodeNo(u64::from_le_bytes([a, b, c, d, e, f, g, h | 0x80]))
}

impl Filesystem for Fuse {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Its least; what is touched is asked for, and what is read on is put there.
        config.set_max_readahead(PAGE as u32).unwrap_or_default();
        config.set_max_background(BACKGROUND).unwrap_or_default();
        // Many may look into one folder at a time. A kernel without it takes turns.
        config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS).unwrap_or_default();
        self.passes = self.view.decoded.is_some()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(STACK).is_ok();
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some(name) = name.to_str() else { return reply.error(Errno::ENOENT) };
        match self.means(parent) {
            None => reply.error(Errno::ESTALE),
            Some(Means::Node(block, folder)) => {
                let Some(node) = block.tree.child(folder, name) else {
                    return reply.error(Errno::ENOENT);
                };
                if !lock(&self.view.inodes).refer(&block) {
                    return reply.error(Errno::ESTALE);
                }
                let number = block.number(node);
                let attributes = self.attributes(number, &Means::Node(block, node));
                reply.entry(&FOREVER, &attributes, Generation(0));
            }
            Some(Means::Folder(folder)) => {
                let (view, name) = (self.view.clone(), name.to_owned());
                let (owner, started) = (self.owner, self.started);
                self.runtime.spawn(async move {
                    let (number, means) = match view.look(&folder, &name).await {
                        Ok(None) => return reply.error(Errno::ENOENT),
                        Err(error) => {
                            view.say(format!("{folder}/{name}: {error}"));
                            return reply.error(Errno::EIO);
                        }
                        Ok(Some(Found::Folder(folder))) => {
                            (lock(&view.inodes).folder(&folder), Means::Folder(folder))
                        }
                        Ok(Some(Found::Artifact(block))) => {
                            if !lock(&view.inodes).refer(&block) {
                                return reply.error(Errno::ESTALE);
                            }
                            (block.number(0), Means::Node(block, 0))
                        }
                    };
                    let attributes = attributes(number, &means, owner, started);
                    // The name may mean another artifact soon; what an artifact is stays.
                    reply.entry_with_ttls(&FOREVER, &view.fresh, &attributes, Generation(0));
                });
            }
        }
    }

    fn forget(&self, _: &Request, number: INodeNo, count: u64) {
        lock(&self.view.inodes).forget(number.0, count);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.means(number) {
            Some(means) => reply.attr(&FOREVER, &self.attributes(number.0, &means)),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let Some((block, file)) = self.file(number) else { return reply.error(Errno::ESTALE) };
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        let (view, number, passes) = (self.view.clone(), number.0, self.passes);
        let (handles, ways) = (self.handles.clone(), self.ways.clone());
        self.runtime.spawn(async move {
            match view.open(&block).await {
                Ok(opened) => {
                    let own = Open { block, opened, file: file.index, number };
                    lock(&handles).insert(handle, Arc::new(own));
                    let whole = view.decoded.as_ref().filter(|_| passes);
                    let whole = whole.and_then(|files| files.find(&file.sha256));
                    let mut ways = lock(&ways);
                    match way(&mut ways, number, whole.as_deref(), &reply) {
                        Some(backing) => {
                            view.passed.fetch_add(1, Ordering::Relaxed);
                            let flags = FopenFlags::empty();
                            reply.opened_passthrough(FileHandle(handle), flags, &backing);
                        }
                        // What the kernel has of the file is right, whoever read it.
                        None => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE),
                    }
                }
                Err(error) => {
                    let path = block.tree.of_file(file.index).map(|node| block.tree.path(node));
                    view.say(format!("{}: {error}", path.unwrap_or_default()));
                    reply.error(Errno::EIO);
                }
            }
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(open) = lock(&self.handles).get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        self.view.reads.fetch_add(1, Ordering::Relaxed);
        let end = offset.saturating_add(u64::from(size)).min(open.opened.size(open.file));
        let wanted = offset..end.max(offset);
        let next = open.opened.asked(open.file, &wanted, self.view.most());
        let reads_on = next != Next::Nothing;
        let known = at_once(&self.view, &open, &wanted);
        let lacks = ahead::lacking(&open.opened, open.file, &wanted);
        match known {
            Some(bytes) if !reads_on && lacks.is_none() => {
                open.opened.answered(open.file, &wanted);
                reply.data(&bytes);
            }
            known => {
                let (view, open, wanted) = (self.view.clone(), open.clone(), wanted.clone());
                self.runtime.spawn(async move {
                    let bytes = match known {
                        Some(bytes) => Ok(bytes),
                        None => bytes(&view, &open, &wanted).await,
                    };
                    if reads_on {
                        let (block, opened, behind) = (&open.block, &open.opened, wanted.end);
                        ahead::before_answer(&view, block, opened, open.file, behind).await;
                    }
                    match bytes {
                        Ok(bytes) => {
                            // Said before: whoever is answered may ask for what follows.
                            open.opened.answered(open.file, &wanted);
                            reply.data(&bytes);
                        }
                        Err(error) => {
                            view.tell(&open.block, open.file, &error);
                            return reply.error(Errno::EIO);
                        }
                    }
                    ahead::let_go(&view, &open.opened, open.file, &wanted).await;
                    if let Some(lacks) = lacks {
                        let (block, opened) = (open.block.clone(), open.opened.clone());
                        ahead::hand_over(view, block, opened, open.file, lacks).await;
                    }
                });
            }
        }
        if let Next::Begin(id) = next {
            let (view, block) = (self.view.clone(), open.block.clone());
            self.runtime.spawn(ahead::serve(view, block, open.opened.clone(), id));
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Nothing is ever written: the kernel need not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let open = lock(&self.handles).remove(&handle.0);
        if let Some(open) = open
            && leave(&mut lock(&self.ways), open.number)
            && self.passes
            && let Some((_, file)) = self.file(INodeNo(open.number))
        {
            let (view, opened) = (self.view.clone(), open.opened.clone());
            self.runtime.spawn(keep(view, opened, file));
        }
        reply.ok();
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let folder = match self.means(number) {
            None => return reply.error(Errno::ESTALE),
            // It never changes.
            Some(Means::Node(..)) => {
                let flags = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                return reply.opened(FileHandle(0), flags);
            }
            Some(Means::Folder(folder)) => folder,
        };
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        let (view, folders) = (self.view.clone(), self.folders.clone());
        self.runtime.spawn(async move {
            match view.list(&folder).await {
                Ok(entries) => {
                    lock(&folders).insert(handle, Arc::new(entries));
                    reply.opened(FileHandle(handle), FopenFlags::empty());
                }
                Err(error) => {
                    view.say(format!("{folder}/: {error}"));
                    reply.error(Errno::EIO);
                }
            }
        });
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (folder, file) = (FileType::Directory, FileType::RegularFile);
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut all = Vec::new();
        if let Some((block, node)) = self.node(number) {
            let Some(Kind::Folder(children)) = block.tree.node(node).map(|node| &node.kind) else {
                return reply.error(Errno::ENOTDIR);
            };
            let parent = block.tree.node(node).map_or(0, |node| block.number(node.parent));
            all.push((number, folder, "."));
            all.push((INodeNo(parent), folder, ".."));
            all.extend(children.iter().map(|(name, child)| {
                let is_file =
                    matches!(block.tree.node(*child), Some(n) if matches!(n.kind, Kind::File(_)));
                let kind = if is_file { file } else { folder };
                (INodeNo(block.number(*child)), kind, name.as_str())
            }));
            fill(&all, at, &mut reply);
        } else {
            let Some(entries) = lock(&self.folders).get(&handle.0).cloned() else {
                return reply.error(Errno::EBADF);
            };
            all.push((number, folder, "."));
            all.push((unknown(".."), folder, ".."));
            all.extend(entries.iter().map(|e| (unknown(&e.name), folder, e.name.as_str())));
            fill(&all, at, &mut reply);
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        lock(&self.folders).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, number: INodeNo, reply: ReplyStatfs) {
        let (mut blocks, mut files) = (0, 0);
        if let Some((block, _)) = self.node(number) {
            (blocks, files) = (block.artifact.bytes.div_ceil(PAGE), block.tree.len());
        }
        reply.statfs(blocks, 0, 0, files, 0, PAGE as u32, 255, PAGE as u32);
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.node(number).and_then(|(block, node)| {
            match (name.to_str()?, &block.tree.node(node)?.kind) {
                (SHA256, Kind::File(file)) => Some(hex(&file.sha256)),
                (MANIFEST, _) => Some(block.artifact.id.to_hex()),
                _ => None,
            }
        });
        match value {
            Some(value) => answer(value.as_bytes(), size, reply),
            None => reply.error(Errno::NO_XATTR),
        }
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let names: &[&str] = match self.means(number) {
            Some(Means::Node(block, node)) => match block.tree.node(node).map(|node| &node.kind) {
                Some(Kind::File(_)) => &[SHA256, MANIFEST],
                _ => &[MANIFEST],
            },
            _ => &[],
        };
        let list: String = names.iter().flat_map(|name| [*name, "\0"]).collect();
        answer(list.as_bytes(), size, reply);
    }
}

/// The way in which one more who opens a file reads it: where nobody has it open, the kernel reads `whole` itself.
fn way(
    ways: &mut HashMap<u64, Way>,
    number: u64,
    whole: Option<&std::fs::File>,
    reply: &ReplyOpen,
) -> Option<Arc<BackingId>> {
    match ways.get_mut(&number) {
        Some(Way::Asked(count)) => {
            *count += 1;
            None
        }
        Some(Way::Passed(count, backing)) => {
            *count += 1;
            Some(backing.clone())
        }
        None => {
            // It may be refused, as to who is not root.
            let backing = whole.and_then(|whole| reply.open_backing(whole).ok()).map(Arc::new);
            let own = match &backing {
                Some(backing) => Way::Passed(1, backing.clone()),
                None => Way::Asked(1),
            };
            ways.insert(number, own);
            backing
        }
    }
}

/// One who has a file open closes it. Whether it was the last, and read it through us.
fn leave(ways: &mut HashMap<u64, Way>, number: u64) -> bool {
    let (count, asked) = match ways.get_mut(&number) {
        Some(Way::Asked(count)) => (count, true),
        Some(Way::Passed(count, _)) => (count, false),
        None => return false,
    };
    *count -= 1;
    let last = *count == 0;
    if last {
        ways.remove(&number);
    }
    last && asked
}

/// Puts entries from `at` on into an answer, as many as fit.
fn fill(all: &[(INodeNo, FileType, &str)], at: usize, reply: &mut ReplyDirectory) {
    for (place, (number, kind, name)) in all.iter().enumerate().skip(at) {
        if reply.add(*number, place as u64 + 1, *kind, name) {
            return;
        }
    }
}

/// Answers with the value, or with its length if nothing else was asked for.
fn answer(value: &[u8], size: u32, reply: ReplyXattr) {
    match (u32::try_from(value.len()), size) {
        (Ok(len), 0) => reply.size(len),
        (Ok(len), size) if len <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of an open file, if all of them are decoded.
fn at_once(view: &View, open: &Open, wanted: &Range<u64>) -> Option<Bytes> {
    let opened = &open.opened;
    let units = opened.map(open.file).units(&opened.whole, wanted);
    let parts: Option<Vec<Bytes>> =
        units.iter().map(|unit| view.chunks.at_once(&opened.whole, unit)).collect();
    Some(joined(parts?))
}

/// The bytes of an open file.
async fn bytes(
    view: &View,
    open: &Open,
    wanted: &Range<u64>,
) -> Result<Bytes, Arc<TransportError>> {
    let whole = &open.opened.whole;
    let units = open.opened.map(open.file).units(whole, wanted);
    // All are fetched at a time.
    let begun = view.chunks.begin(whole, units, Urgency::Now);
    let mut parts = Vec::with_capacity(begun.len());
    for one in begun {
        parts.push(view.chunks.finish(whole, one, Urgency::Now).await?);
    }
    Ok(joined(parts))
}

fn joined(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() <= 1 {
        return parts.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| all.extend_from_slice(part));
    all.freeze()
}
