//! Walking a model's folder. Links are followed, as Hub caches are made of them; `.git` and
//! `.cache`, which hold a tool's own state, are left out.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::ModelError;
use super::file::SourceFile;
use crate::format::page::is_valid_path;

/// Folders that are never part of a model.
const IGNORED: [&str; 2] = [".git", ".cache"];

/// The files at `path`, a folder or a single file, sorted by their path in the artifact.
///
/// # Errors
/// If one cannot be read, or the format cannot hold its name.
pub fn walk(path: &Path) -> Result<Vec<SourceFile>, ModelError> {
    let metadata = fs::metadata(path).map_err(ModelError::io(path))?;
    let mut found = Vec::new();
    if metadata.is_dir() {
        folder(path, "", &mut Vec::new(), &mut found)?;
        found.sort();
    } else if metadata.is_file() {
        // The name that the user gave, not the one a link leads to.
        let name =
            path.file_name().ok_or_else(|| ModelError::NotFound { path: path.to_owned() })?;
        found.push((artifact_path("", name, path)?, path.to_owned()));
    } else {
        let why = "neither a file nor a folder";
        return Err(ModelError::Special { path: path.to_owned(), why });
    }
    found.into_iter().map(|(path, location)| SourceFile::open(path, location)).collect()
}

fn folder(
    path: &Path,
    prefix: &str,
    above: &mut Vec<PathBuf>,
    found: &mut Vec<(String, PathBuf)>,
) -> Result<(), ModelError> {
    let real = path.canonicalize().map_err(ModelError::io(path))?;
    if above.contains(&real) {
        let why = "this link leads to a folder above itself";
        return Err(ModelError::Special { path: path.to_owned(), why });
    }
    above.push(real);
    for entry in fs::read_dir(path).map_err(ModelError::io(path))? {
        let entry = entry.map_err(ModelError::io(path))?;
        let (name, location) = (entry.file_name(), entry.path());
        let metadata = fs::metadata(&location).map_err(ModelError::io(&location))?;
        if metadata.is_dir() {
            if !IGNORED.iter().any(|ignored| name == *ignored) {
                let inner = artifact_path(prefix, &name, &location)?;
                folder(&location, &format!("{inner}/"), above, found)?;
            }
        } else if metadata.is_file() {
            found.push((artifact_path(prefix, &name, &location)?, location));
        } else {
            let why = "neither a file nor a folder";
            return Err(ModelError::Special { path: location, why });
        }
    }
    above.pop();
    Ok(())
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

    fn paths(path: &Path) -> Vec<String> {
        walk(path).unwrap().into_iter().map(|f| f.path).collect()
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
        assert!(walk(&root).unwrap().iter().any(|f| f.executable && f.size == 2));
        assert_eq!(paths(&root.join("config.json")), ["config.json"]);
    }

    #[test]
    fn what_cannot_be_packed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(matches!(walk(&root.join("none")), Err(ModelError::NotFound { .. })));
        symlink(".", root.join("loop")).unwrap();
        assert!(matches!(walk(root), Err(ModelError::Special { .. })));
        fs::remove_file(root.join("loop")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        assert!(matches!(walk(root), Err(ModelError::NotFound { .. })));
        fs::remove_file(root.join("dangling")).unwrap();
        fs::write(root.join("a\\b"), "").unwrap();
        assert!(matches!(walk(root), Err(ModelError::Name { .. })));
        fs::remove_file(root.join("a\\b")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        assert!(matches!(walk(root), Err(ModelError::Special { .. })));
    }
}
