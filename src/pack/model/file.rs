//! One file on disk, open, with its parts.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::error::ModelError;
use super::fault::FaultKind;
use super::part::{Part, PartKind};
use super::{gguf, safetensors};

/// A file to be packed, opened.
#[derive(Debug)]
pub struct SourceFile {
    /// Its path in the artifact.
    pub path: String,
    /// Where it lies.
    pub location: PathBuf,
    /// The open file; links were followed.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Its parts, in order, covering it exactly.
    pub parts: Vec<Part>,
    /// Whether it is taken as bytes, whatever it claims to be.
    pub opaque: bool,
    /// Why it cannot be what its name says.
    pub fault: Option<FaultKind>,
    modified: Option<SystemTime>,
}

impl SourceFile {
    /// Opens the file at `location`, which the artifact will call `path`, and finds its parts.
    ///
    /// # Errors
    /// If it cannot be read, or is malformed.
    pub fn open(path: String, location: PathBuf) -> Result<Self, ModelError> {
        Self::open_as(path, location, false)
    }

    /// The same; an `opaque` one is taken as bytes, whatever it claims to be.
    pub(super) fn open_as(
        path: String,
        location: PathBuf,
        opaque: bool,
    ) -> Result<Self, ModelError> {
        let file = File::open(&location).map_err(ModelError::io(&location))?;
        let metadata = file.metadata().map_err(ModelError::io(&location))?;
        let size = metadata.len();
        let bytes = || match size {
            0 => Vec::new(),
            len => vec![Part { offset: 0, len, kind: PartKind::Content }],
        };
        let of = pointer(&file, size).map_err(ModelError::io(&location))?;
        let (parts, fault) = if opaque {
            (bytes(), None)
        } else if let Some(of) = of {
            (bytes(), Some(FaultKind::Pointer(of)))
        } else if path.ends_with(".safetensors") {
            (safetensors::parts(&file, size, (&path, &location))?, None)
        } else if path.ends_with(".gguf") {
            match gguf::parts(&file, size).map_err(ModelError::io(&location))? {
                gguf::Understood::Parts(parts) => (parts, None),
                gguf::Understood::Not => (bytes(), None),
                gguf::Understood::Broken(why) => (bytes(), Some(FaultKind::CutShort(why))),
            }
        } else {
            let io = |error| ModelError::io(&location)(error);
            let why = match cut_archive(&path, &file, size).map_err(io)? {
                None => answer(&path, &file, size).map_err(io)?,
                cut => cut,
            };
            (bytes(), why.map(FaultKind::CutShort))
        };
        let executable = is_executable(&metadata);
        let modified = metadata.modified().ok();
        Ok(Self { path, location, file, size, executable, parts, opaque, fault, modified })
    }

    /// Whether its parts tell which tensors it holds.
    pub(super) fn knows_tensors(&self) -> bool {
        self.path.ends_with(".safetensors") && !self.opaque && self.fault.is_none()
    }

    /// Checks that the file is still what it was when it was opened.
    ///
    /// # Errors
    /// If it is not, or cannot be looked at.
    pub fn check_unchanged(&self) -> Result<(), ModelError> {
        let metadata = self.file.metadata().map_err(ModelError::io(&self.location))?;
        if metadata.len() == self.size && metadata.modified().ok() == self.modified {
            return Ok(());
        }
        Err(ModelError::Changed { path: self.location.clone() })
    }
}

/// What pointers of other tools begin with.
const POINTERS: [(&[u8], &str); 4] = [
    (b"version https://git-lfs.github.com/spec/", "Git LFS"),
    (b"version https://hawser.github.com/spec/", "Git LFS"),
    (b"/annex/objects/", "git-annex"),
    (b"# xet version ", "git-xet"),
];
/// No pointer is longer.
const MAX_POINTER: u64 = 1024;

/// The tool whose pointer stands in the place of a file.
fn pointer(file: &File, size: u64) -> io::Result<Option<&'static str>> {
    if size >= MAX_POINTER {
        return Ok(None);
    }
    let mut begin = [0; 48];
    let len = file.read_at(&mut begin, 0)?;
    let begin = begin.get(..len).unwrap_or_default();
    Ok(POINTERS.iter().find(|(text, _)| begin.starts_with(text)).map(|(_, of)| *of))
}

/// What files of torch end with.
const TORCH: [&str; 4] = [".bin", ".pt", ".pth", ".ckpt"];
/// The last record of a ZIP archive, with the longest comment.
const ARCHIVE_END: u64 = 22 + 65_535;

/// Whether a file of torch is a ZIP archive without its end, where its directory lies.
fn cut_archive(path: &str, file: &File, size: u64) -> io::Result<Option<&'static str>> {
    if !TORCH.iter().any(|end| path.ends_with(end)) {
        return Ok(None);
    }
    let mut begin = [0; 4];
    let len = file.read_at(&mut begin, 0)?;
    if len < begin.len() || begin != *b"PK\x03\x04" {
        return Ok(None);
    }
    let tail = size.min(ARCHIVE_END);
    let mut end = vec![0; tail as usize];
    file.read_exact_at(&mut end, size - tail)?;
    let whole = end.windows(4).any(|record| record == b"PK\x05\x06");
    Ok((!whole).then_some("it ends before the directory of its archive"))
}

/// What files end with that never hold a page of the web.
const BINARY: [&str; 10] =
    [".bin", ".ckpt", ".h5", ".model", ".msgpack", ".npz", ".onnx", ".pt", ".pth", ".tiktoken"];
/// What the Hub answers in the place of a file, and downloaders keep under its name.
const ANSWERS: [&[u8]; 5] = [
    b"Entry not found",
    b"Invalid credentials in Authorization header",
    b"Invalid username or password.",
    b"Repository not found",
    b"Revision not found",
];

/// Whether an answer of a server, or nothing, stands in the place of the file.
fn answer(path: &str, file: &File, size: u64) -> io::Result<Option<&'static str>> {
    if size == 0 && path.rsplit('/').next() == Some("tokenizer.model") {
        return Ok(Some("it is empty"));
    }
    let is_binary = BINARY.iter().any(|end| path.ends_with(end));
    if !is_binary && size > 64 {
        return Ok(None);
    }
    let mut begin = [0; 64];
    let len = file.read_at(&mut begin, 0)?;
    let begin = begin.get(..len).unwrap_or_default().trim_ascii();
    if size <= 64 && ANSWERS.contains(&begin) {
        return Ok(Some("it holds the answer of a server that did not give the file"));
    }
    let is_page = ["<!doctype html", "<html", "<?xml"].iter().any(|tag| {
        begin.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag.as_bytes()))
    });
    Ok((is_binary && is_page).then_some("it is a page of the web"))
}

/// Whether the owner may execute the file.
fn is_executable(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o100 != 0
}
