//! Which files are packed as bytes, whatever they claim to be.

use super::error::ModelError;
use crate::format::glob::Glob;

/// Patterns for the files that are packed as bytes. One without a slash is for names in any folder, one
/// with a slash for whole paths. A name or path stands for itself, whatever it has of a pattern.
#[derive(Debug, Clone, Default)]
pub struct Opaque(Vec<(String, Glob)>);

impl Opaque {
    /// The patterns.
    ///
    /// # Errors
    /// If one is none.
    pub fn new(patterns: &[String]) -> Result<Self, ModelError> {
        let compiled = patterns.iter().map(|pattern| {
            let glob = Glob::of_path(pattern);
            let wrong = |why| ModelError::Pattern { pattern: pattern.clone(), why };
            Ok((pattern.clone(), glob.map_err(wrong)?))
        });
        compiled.collect::<Result<_, _>>().map(Self)
    }

    /// Whether the file of this path is packed as bytes.
    pub fn holds(&self, path: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, path))
    }

    /// A pattern that is for none of these paths.
    pub(super) fn unused<'a>(
        &self,
        paths: impl Iterator<Item = &'a str> + Clone,
    ) -> Option<&String> {
        let is_unused =
            |pattern: &&(String, Glob)| !paths.clone().any(|path| matches(pattern, path));
        self.0.iter().find(is_unused).map(|(pattern, _)| pattern)
    }
}

fn matches((pattern, glob): &(String, Glob), path: &str) -> bool {
    let path = match pattern.contains('/') {
        true => path,
        false => path.rsplit('/').next().unwrap_or(path),
    };
    pattern == path || glob.matches(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_matched() {
        let held =
            |pattern: &str, path: &str| Opaque::new(&[pattern.to_owned()]).unwrap().holds(path);
        assert!(held("*.safetensors", "a/b/x.safetensors") && held("x.bin", "x.bin"));
        assert!(held("a/*.bin", "a/x.bin") && held("**/x.bin", "a/b/x.bin"));
        assert!(held("a [1]/x.bin", "a [1]/x.bin") && held("[x].bin", "a/[x].bin"));
        assert!(!held("a/*.bin", "a/b/x.bin") && !held("*.bin", "x.bin.txt"));
        assert!(matches!(Opaque::new(&["[".to_owned()]), Err(ModelError::Pattern { .. })));
        let two = Opaque::new(&["a*".to_owned(), "b*".to_owned()]).unwrap();
        assert_eq!(two.unused(["x/ab"].into_iter()), Some(&"b*".to_owned()));
        assert_eq!(two.unused(["ab", "b"].into_iter()), None);
    }
}
