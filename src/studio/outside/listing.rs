//! Which files of a folder elsewhere make up its model. Pure.

use super::client::OutsideError;

/// Bytes of a file that is not weights, at most.
const SMALL: u64 = 64 << 20;
/// Files of a model, at most.
const MAX_FILES: usize = 4096;
/// What stands beside weights.
const BESIDE: [&str; 6] = [".json", ".txt", ".model", ".jinja", ".tiktoken", ".md"];

/// What a file's bytes are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    /// Their SHA-256, in hex.
    Sha256(String),
    /// The SHA-1 of the git blob that they are, in hex.
    Git(String),
    /// Nothing is known; where it is known how long the file is, that.
    Nothing,
}

/// A file elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Its path below the folder, with `/`.
    pub(super) path: String,
    pub(super) size: Option<u64>,
    pub(super) check: Check,
    /// What changes when its content does: an ETag, a time.
    pub(super) version: String,
}

/// What a model elsewhere is made of.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    pub(super) files: Vec<RemoteFile>,
    /// Its address with the revision that was found.
    pub(super) pinned: String,
}

impl Listing {
    /// Tells this content from every other.
    pub(super) fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut add = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        add(&self.pinned);
        for file in &self.files {
            add(&file.path);
            add(&file.size.map_or_else(String::new, |size| size.to_string()));
            add(match &file.check {
                Check::Sha256(hex) | Check::Git(hex) => hex,
                Check::Nothing => &file.version,
            });
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The bytes of all files whose size is known.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|file| file.size).fold(0, u64::saturating_add)
    }
}

/// Whether a path leads nowhere but down, on every system.
pub(super) fn is_plain(path: &str) -> bool {
    let right = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.len() <= 200
            && !segment.contains(|c: char| {
                c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
            })
    };
    path.len() <= 512 && path.split('/').all(right)
}

/// Of all files of a folder those of its model: weights in safetensors, or one file of GGUF, and what is read with
/// them. Nothing below it, and no other copy of the weights, is fetched.
pub(super) fn choose(what: &str, all: Vec<RemoteFile>) -> Result<Vec<RemoteFile>, OutsideError> {
    let wrong = |why: String| Err(OutsideError::wrong(what, why));
    if let Some(bad) = all.iter().find(|file| !is_plain(&file.path)) {
        let shown: String = bad.path.chars().filter(|c| !c.is_control()).take(80).collect();
        return wrong(format!("it lists a file with a path that is refused: {shown}"));
    }
    let here: Vec<RemoteFile> = all.into_iter().filter(|file| !file.path.contains('/')).collect();
    let weights = |file: &RemoteFile| {
        file.path.ends_with(".safetensors") && !file.path.starts_with("consolidated")
    };
    let gguf = |file: &RemoteFile| file.path.to_ascii_lowercase().ends_with(".gguf");
    let beside = |file: &RemoteFile| {
        let lower = file.path.to_ascii_lowercase();
        !lower.starts_with('.')
            && BESIDE.iter().any(|suffix| lower.ends_with(suffix))
            && file.size.is_none_or(|size| size <= SMALL)
    };
    let of_gguf = !here.iter().any(weights);
    if of_gguf {
        match here.iter().filter(|file| gguf(file)).count() {
            1 => {}
            0 => return wrong("there are no weights in safetensors, and none in GGUF".to_owned()),
            n => {
                return wrong(format!("there are {n} files of GGUF: upload the one that is meant"));
            }
        }
    }
    let wanted = |file: &RemoteFile| {
        if of_gguf { gguf(file) || beside(file) } else { weights(file) || beside(file) }
    };
    let mut chosen: Vec<RemoteFile> = here.into_iter().filter(wanted).collect();
    chosen.sort_by(|a, b| a.path.cmp(&b.path));
    chosen.dedup_by(|a, b| a.path == b.path);
    match chosen.len() <= MAX_FILES {
        true => Ok(chosen),
        false => wrong(format!("it has over {MAX_FILES} files")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64) -> RemoteFile {
        RemoteFile {
            path: path.to_owned(),
            size: Some(size),
            check: Check::Nothing,
            version: "v".to_owned(),
        }
    }

    fn chosen(all: &[(&str, u64)]) -> Result<Vec<String>, String> {
        let all = all.iter().map(|(path, size)| file(path, *size)).collect();
        let chosen = choose("x", all).map_err(|error| error.to_string())?;
        Ok(chosen.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn a_model_is_its_weights_and_what_is_read_with_them() {
        let all = [
            ("config.json", 9),
            ("model-00001-of-00002.safetensors", 9),
            ("model-00002-of-00002.safetensors", 9),
            ("model.safetensors.index.json", 9),
            ("consolidated.safetensors", 9),
            ("pytorch_model.bin", 9),
            ("tokenizer.json", 9),
            ("README.md", 9),
            (".gitattributes", 9),
            ("original/model.safetensors", 9),
            ("huge.json", SMALL + 1),
            ("q4.gguf", 9),
        ];
        let expected = [
            "README.md",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
        ];
        assert_eq!(chosen(&all).unwrap(), expected);
        assert_eq!(
            chosen(&[("a.gguf", 9), ("config.json", 9)]).unwrap(),
            ["a.gguf", "config.json"]
        );
        assert!(chosen(&[("a.gguf", 9), ("b.gguf", 9)]).unwrap_err().contains("2 files"));
        assert!(
            chosen(&[("config.json", 9), ("pytorch_model.bin", 9)])
                .unwrap_err()
                .contains("no weights")
        );
    }

    #[test]
    fn a_path_that_leads_elsewhere_refuses_the_folder() {
        for bad in [
            "../x",
            "/etc/passwd",
            "a/../b",
            "a//b",
            "",
            ".",
            "a\\b",
            "a\0b",
            "c:x",
            "a\nb",
            &"x".repeat(201),
        ] {
            let error = chosen(&[("model.safetensors", 9), (bad, 9)]).unwrap_err();
            assert!(error.contains("refused"), "{bad}: {error}");
        }
    }

    #[test]
    fn another_content_has_another_digest() {
        let of = |files: Vec<RemoteFile>| Listing { files, pinned: "p".to_owned() }.digest();
        let first = of(vec![file("a", 1)]);
        assert_eq!(first, of(vec![file("a", 1)]));
        let newer = RemoteFile { version: "w".to_owned(), ..file("a", 1) };
        for other in [vec![file("a", 2)], vec![file("b", 1)], vec![newer], vec![]] {
            assert_ne!(first, of(other));
        }
    }
}
