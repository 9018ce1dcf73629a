//! Which file of the crate imports which: paths are followed to the file that defines what they name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::code::Code;

/// The files below `src/`, by the path of their module; the crate itself is the empty one.
pub struct Sources {
    pub files: BTreeMap<Vec<String>, Code>,
}

/// What a path leads to.
enum Found {
    /// A module, not a thing in one.
    Module(Vec<String>),
    /// Something that is defined in the file of this module.
    Item(Vec<String>),
}

/// The Rust files below a folder.
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The module that a file below `root` is.
fn module_of(root: &Path, file: &Path) -> Vec<String> {
    let own = file.strip_prefix(root).unwrap().with_extension("");
    let mut module: Vec<_> = own.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    module.pop_if(|name| ["mod", "lib"].contains(&name.as_str()));
    module
}

impl Sources {
    /// Every file that is not for tests only.
    pub fn read(root: &Path) -> Self {
        let code =
            |file: PathBuf| (module_of(root, &file), Code::of(&fs::read_to_string(&file).unwrap()));
        let mut files: BTreeMap<_, _> = rust_files(root).into_iter().map(code).collect();
        files.remove(["main".to_owned()].as_slice());
        let tests: Vec<Vec<String>> = files
            .iter()
            .flat_map(|(module, code)| {
                code.test_modules
                    .iter()
                    .map(|name| [module.as_slice(), std::slice::from_ref(name)].concat())
            })
            .collect();
        files.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        Self { files }
    }

    /// Follows `path` from `module`, through what modules re-export.
    fn follow(&self, module: &[String], path: &[String], depth: usize) -> Option<Found> {
        let (first, mut rest) = path.split_first()?;
        let mut at = module.to_vec();
        let mut known = ["crate", "super", "self"].contains(&first.as_str());
        match first.as_str() {
            "crate" => at.clear(),
            "super" => drop(at.pop()),
            "self" => {}
            _ => rest = path,
        }
        while let Some((name, after)) = rest.split_first() {
            if name == "super" {
                at.pop();
                rest = after;
                continue;
            }
            let code = self.files.get(&at)?;
            let child = [at.as_slice(), std::slice::from_ref(name)].concat();
            if self.files.contains_key(&child) {
                (at, rest, known) = (child, after, true);
            } else if code.items.contains(name) {
                return Some(Found::Item(at));
            } else if depth == 0 {
                return None;
            } else if let Some(import) = code.uses.iter().find(|import| import.name == *name) {
                match self.follow(&at, &import.path, depth - 1)? {
                    Found::Module(module) => (at, rest, known) = (module, after, true),
                    item => return Some(item),
                }
            } else {
                let all = code.uses.iter().filter(|import| import.name == "*");
                let sees = |module: &[String]| {
                    self.files.get(module).is_some_and(|code| code.items.contains(name))
                };
                let mut found =
                    all.filter_map(|import| match self.follow(&at, &import.path, depth - 1) {
                        Some(Found::Module(module)) if sees(&module) => Some(Found::Item(module)),
                        _ => None,
                    });
                // What a macro defines is not seen, but lies where the path leads.
                return found.next().or_else(|| known.then(|| Found::Item(at.clone())));
            }
        }
        Some(Found::Module(at))
    }

    /// The modules whose files `module` needs, each with a path that says so.
    pub fn imports(&self, module: &[String]) -> BTreeMap<Vec<String>, String> {
        let code = &self.files[module];
        let used =
            code.uses.iter().filter(|import| !import.exported || code.words.contains(&import.name));
        let paths = used.map(|import| &import.path).chain(&code.paths);
        let mut found = BTreeMap::new();
        for path in paths {
            if let Some(Found::Item(of)) = self.follow(module, path, 8)
                && of != module
            {
                found.entry(of).or_insert_with(|| path.join("::"));
            }
        }
        for import in code.uses.iter().filter(|import| import.name == "*" && !import.exported) {
            if let Some(Found::Module(of)) = self.follow(module, &import.path, 8) {
                found.entry(of).or_insert_with(|| format!("{}::*", import.path.join("::")));
            }
        }
        found
    }
}

/// The sets of nodes that reach each other, of more than one node.
pub fn circles<N: Ord>(graph: &BTreeMap<N, Vec<N>>) -> Vec<Vec<&N>> {
    let reach: BTreeMap<&N, BTreeSet<&N>> = graph
        .keys()
        .map(|from| {
            let mut seen = BTreeSet::new();
            let mut open = vec![from];
            while let Some(node) = open.pop() {
                for to in graph.get(node).into_iter().flatten() {
                    if seen.insert(to) {
                        open.push(to);
                    }
                }
            }
            (from, seen)
        })
        .collect();
    let mut found: BTreeSet<Vec<&N>> = BTreeSet::new();
    for (from, seen) in &reach {
        let circle: Vec<&N> = seen
            .iter()
            .copied()
            .filter(|to| reach.get(to).is_some_and(|r| r.contains(from)))
            .collect();
        if circle.len() > 1 {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}
