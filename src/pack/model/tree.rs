//! Walking a model's folder. Links are followed, as Hub caches are made of them; `.git` and
//! `.cache`, which hold a tool's own state, are left out, and so are folders without files, which an artifact
//! cannot hold.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::complete;
use super::error::ModelError;
use super::file::SourceFile;
use super::opaque::Opaque;
use crate::format::page::is_valid_path;

/// What is never part of a model: folders, or in a submodule a file.
const IGNORED: [&str; 2] = [".git", ".cache"];

/// What lies at a path.
#[derive(Debug, Default)]
pub struct Walked {
    /// The files, sorted by their path in the artifact.
    pub files: Vec<SourceFile>,
    /// What is not part of the model, sorted; folders end in `/`.
    pub left_out: Vec<String>,
    /// The paths of links to what is not there, sorted.
    pub dangling: Vec<String>,
}

/// The files at `path`, a folder or a single file; those that `opaque` holds are taken as bytes.
///
/// # Errors
/// If one cannot be read, the format cannot hold its name, or a pattern is for none.
pub fn walk(path: &Path, opaque: &Opaque) -> Result<Walked, ModelError> {
    let metadata = fs::metadata(path).map_err(ModelError::io(path))?;
    let mut found = Found::default();
    if metadata.is_dir() {
        found.folder(path, "", &mut Vec::new())?;
    } else if metadata.is_file() {
        // The name that the user gave, not the one a link leads to.
        let name =
            path.file_name().ok_or_else(|| ModelError::NotFound { path: path.to_owned() })?;
        found.files.push((artifact_path("", name, path)?, path.to_owned()));
        found.siblings(path, name)?;
    } else {
        let why = "neither a file nor a folder";
        return Err(ModelError::Special { path: path.to_owned(), why });
    }
    let Found { mut files, mut left_out, mut dangling } = found;
    files.sort();
    left_out.sort();
    dangling.sort();
    if let Some(pattern) = opaque.unused(files.iter().map(|(path, _)| path.as_str())) {
        return Err(ModelError::NoneOpaque { path: path.to_owned(), pattern: pattern.clone() });
    }
    let (mut opened, mut malformed) = (Vec::with_capacity(files.len()), Vec::new());
    for (path, location) in files {
        let opaque = opaque.holds(&path);
        match SourceFile::open_as(path, location, opaque) {
            Ok(file) => opened.push(file),
            // All of them are told at once.
            Err(ModelError::Safetensors(more)) => malformed.extend(more),
            Err(error) => return Err(error),
        }
    }
    match malformed.is_empty() {
        true => Ok(Walked { files: opened, left_out, dangling }),
        false => Err(ModelError::Safetensors(malformed)),
    }
}

/// Where files lie, by their paths in the artifact, and what is left out.
#[derive(Default)]
struct Found {
    files: Vec<(String, PathBuf)>,
    left_out: Vec<String>,
    dangling: Vec<String>,
}

impl Found {
    /// The other files of a set that is one GGUF file, split.
    fn siblings(&mut self, path: &Path, name: &std::ffi::OsStr) -> Result<(), ModelError> {
        let set = |name: &std::ffi::OsStr| {
            let set = complete::set_of(name.to_str()?).filter(|set| set.ends_with(".gguf"))?;
            Some(set)
        };
        let (Some(own), Some(folder)) = (set(name), path.parent()) else { return Ok(()) };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        for entry in fs::read_dir(folder).map_err(ModelError::io(folder))? {
            let entry = entry.map_err(ModelError::io(folder))?;
            let other = entry.file_name();
            if other != name && set(&other).as_ref() == Some(&own) {
                self.files.push((artifact_path("", &other, &entry.path())?, entry.path()));
            }
        }
        Ok(())
    }

    fn folder(
        &mut self,
        path: &Path,
        prefix: &str,
        above: &mut Vec<PathBuf>,
    ) -> Result<(), ModelError> {
        let real = path.canonicalize().map_err(ModelError::io(path))?;
        if above.contains(&real) {
            let why = "this link leads to a folder above itself";
            return Err(ModelError::Special { path: path.to_owned(), why });
        }
        above.push(real);
        let count = |found: &Self| found.files.len() + found.left_out.len() + found.dangling.len();
        let before = count(self);
        for entry in fs::read_dir(path).map_err(ModelError::io(path))? {
            let entry = entry.map_err(ModelError::io(path))?;
            let (name, location) = (entry.file_name(), entry.path());
            let metadata = match fs::metadata(&location) {
                Err(error) if error.kind() == ErrorKind::NotFound && location.is_symlink() => {
                    self.dangling.push(artifact_path(prefix, &name, &location)?);
                    continue;
                }
                metadata => metadata.map_err(ModelError::io(&location))?,
            };
            let slash = if metadata.is_dir() { "/" } else { "" };
            if let Some(ignored) = IGNORED.iter().find(|ignored| name == **ignored) {
                self.left_out.push(format!("{prefix}{ignored}{slash}"));
            } else if metadata.is_dir() {
                let inner = artifact_path(prefix, &name, &location)?;
                self.folder(&location, &format!("{inner}/"), above)?;
            } else if metadata.is_file() {
                self.files.push((artifact_path(prefix, &name, &location)?, location));
            } else {
                let why = "neither a file nor a folder";
                return Err(ModelError::Special { path: location, why });
            }
        }
        if count(self) == before && !prefix.is_empty() {
            self.left_out.push(prefix.to_owned());
        }
        above.pop();
        Ok(())
    }
}

fn artifact_path(
    prefix: &str,
    name: &std::ffi::OsStr,
    location: &Path,
) -> Result<String, ModelError> {
    let wrong = |why| ModelError::Name { path: location.to_owned(), why };
    let name = name.to_str().ok_or_else(|| wrong("this name is not UTF-8; rename it"))?;
    let path = format!("{prefix}{name}");
    if is_valid_path(&path) {
        return Ok(path);
    }
    Err(wrong("a name has a backslash or a control character, or the path is too long; rename it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn walk_all(path: &Path) -> Result<Walked, ModelError> {
        walk(path, &Opaque::default())
    }

    fn paths(path: &Path) -> Vec<String> {
        walk_all(path).unwrap().files.into_iter().map(|f| f.path).collect()
    }

    #[test]
    fn folders_links_and_single_files_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("snapshots/abc");
        fs::create_dir_all(root.join("sub/deep")).unwrap();
        fs::create_dir_all(root.join(".git")).unwrap();
        fs::create_dir_all(dir.path().join("blobs")).unwrap();
        fs::write(dir.path().join("blobs/1234"), "{}").unwrap();
        fs::write(root.join(".git/config"), "no").unwrap();
        fs::write(root.join(".gitattributes"), "yes").unwrap();
        fs::write(root.join("sub/deep/run.sh"), "#!").unwrap();
        let run = root.join("sub/deep/run.sh");
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
        symlink("../../blobs/1234", root.join("config.json")).unwrap();
        symlink("sub", root.join("also")).unwrap();
        let expected = [".gitattributes", "also/deep/run.sh", "config.json", "sub/deep/run.sh"];
        assert_eq!(paths(&root), expected);
        fs::create_dir_all(root.join("sub/none/below")).unwrap();
        fs::write(root.join("sub/deep/.git"), "gitdir: ../../../elsewhere").unwrap();
        fs::create_dir_all(root.join(".cache/huggingface")).unwrap();
        assert_eq!(paths(&root), expected);
        let left_out = [".cache/", ".git/", "also/deep/.git", "also/none/below/", "sub/deep/.git"];
        let walked = walk_all(&root).unwrap();
        assert_eq!(walked.left_out, [&left_out[..], &["sub/none/below/"]].concat());
        assert!(walk_all(&root).unwrap().files.iter().any(|f| f.executable && f.size == 2));
        assert_eq!(paths(&root.join("config.json")), ["config.json"]);
    }

    #[test]
    fn what_cannot_be_packed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(matches!(walk_all(&root.join("none")), Err(ModelError::NotFound { .. })));
        symlink(".", root.join("loop")).unwrap();
        assert!(matches!(walk_all(root), Err(ModelError::Special { .. })));
        fs::remove_file(root.join("loop")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        let walked = walk_all(root).unwrap();
        assert!(walked.dangling == ["dangling"] && walked.files.is_empty());
        fs::remove_file(root.join("dangling")).unwrap();
        fs::write(root.join("a\\b"), "").unwrap();
        assert!(matches!(walk_all(root), Err(ModelError::Name { .. })));
        fs::remove_file(root.join("a\\b")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        assert!(matches!(walk_all(root), Err(ModelError::Special { .. })));
    }
}
