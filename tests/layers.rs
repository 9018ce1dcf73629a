//! The table in `src/lib.rs` orders the modules, and the code keeps to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources_below(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The words of `text` that follow `mark`.
fn words_after<'t>(text: &'t str, mark: &str) -> impl Iterator<Item = &'t str> {
    text.split(mark).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

/// The modules in the table's order.
fn order(library: &str) -> Vec<&str> {
    let rows = library.lines().filter_map(|line| line.strip_prefix("//! | ")?.split(" |").next());
    rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// What `text`, a source file, imports of its crate; tests may look up.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    assert!(!code.contains("crate::{"), "imports of several modules at once are not read here");
    words_after(&code, "crate::").map(str::to_owned).collect()
}

#[test]
fn a_module_imports_only_what_stands_before_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let library = fs::read_to_string(root.join("lib.rs")).unwrap();
    let order = order(&library);
    let place = |module: &str| order.iter().position(|m| *m == module);

    let declared: Vec<&str> = words_after(&library, "mod ").collect();
    assert_eq!(BTreeSet::from_iter(declared), BTreeSet::from_iter(order.iter().copied()));

    let mut files = Vec::new();
    sources_below(&root, &mut files);
    let mut seen = 0;
    for file in files {
        let inside = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let module = inside.split(['/', '.']).next().unwrap();
        if ["lib", "main"].contains(&module) {
            continue;
        }
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            let below = place(&import).unwrap_or_else(|| panic!("{inside}: no row names {import}"));
            let own = place(module).unwrap();
            assert!(below <= own, "src/{inside}: {module} imports {import}, which stands above it");
            seen += usize::from(below < own);
        }
    }
    assert!(seen > 100, "only {seen} imports were found");
}
