//! The table in `src/lib.rs` orders the modules and names the feature of each, and the code keeps to it:
//! no module imports a higher one, none needs more than its feature brings, what is pure does no I/O,
//! no two files import each other, and none is long without its reason.

mod code;
mod graph;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use graph::{Sources, circles, rust_files};

/// What a pure module does not touch.
const IO: [&[&str]; 7] = [
    &["std", "fs"],
    &["std", "net"],
    &["tokio"],
    &["hyper"],
    &["hyper_util"],
    &["object_store"],
    &["wgpu"],
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn sources() -> Sources {
    let found = Sources::read(&root().join("src"));
    assert!(found.files.len() > 200, "only {} files were found", found.files.len());
    found
}

/// The modules of the table in its order, each with its feature; the core has none.
fn table() -> Vec<(String, Option<String>)> {
    let library = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rows = library.lines().filter_map(|line| line.strip_prefix("//! | "));
    let rows = rows.filter(|row| row.contains('`')).map(|row| {
        let mut cells = row.split(" | ");
        let module = cells.next().unwrap().trim_matches(['[', ']', '`']).to_owned();
        let feature = cells.next().unwrap();
        (module, (feature != "core").then(|| feature.to_owned()))
    });
    rows.collect()
}

/// The features of the crate, each with the others that it brings along, itself included.
fn features() -> BTreeMap<String, BTreeSet<String>> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = manifest.split("\n[features]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let text: String = section.lines().filter(|line| !line.starts_with('#')).collect();
    let mut direct = BTreeMap::new();
    for entry in text.split_inclusive(']') {
        let (name, list) = entry.split_once(" = [").unwrap();
        let of: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
        direct.insert(name.trim(), of);
    }
    let closure = |name: &str| {
        let mut all = BTreeSet::from([name.to_owned()]);
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            for more in direct.get(name.as_str()).into_iter().flatten() {
                if direct.contains_key(more) && all.insert((*more).to_owned()) {
                    open.push((*more).to_owned());
                }
            }
        }
        all
    };
    direct.keys().map(|name| ((*name).to_owned(), closure(name))).collect()
}

#[test]
fn a_module_imports_only_what_stands_before_it_and_its_feature_brings() {
    let (table, features, sources) = (table(), features(), sources());
    let place = |module: &str| table.iter().position(|(own, _)| own == module);
    let mut seen = 0;
    for (module, code) in &sources.files {
        let Some(room) = module.first() else { continue };
        let own = place(room).unwrap_or_else(|| panic!("no row names {room}"));
        let brings = |feature: &Option<String>| match (feature, &table[own].1) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(feature), Some(of)) => features[of].contains(feature),
        };
        let uses = code.uses.iter().map(|import| &import.path);
        for path in uses.chain(&code.paths) {
            let [first, import, ..] = path.as_slice() else { continue };
            if first != "crate" {
                continue;
            }
            let file = module.join("/");
            let below = place(import).unwrap_or_else(|| panic!("{file}: no row names {import}"));
            assert!(below <= own, "{file}: {room} imports {import}, which stands above it");
            // The files of keys are of the loader, in a room of the core.
            let needs = &table[below].1;
            let own_feature = feature_of(&sources, module);
            assert!(
                brings(needs) || own_feature.is_some_and(|own| needs.as_ref() == Some(&own)),
                "{file}: {import} needs the feature {needs:?}"
            );
            seen += usize::from(below < own);
        }
    }
    assert!(seen > 100, "only {seen} imports were found");
}

/// The feature that the nearest `mod` line above `module` asks for.
fn feature_of(sources: &Sources, module: &[String]) -> Option<String> {
    let mut at = module;
    while let Some((name, above)) = at.split_last() {
        let lines = sources.files.get(above).map_or(&[][..], |code| &code.modules);
        if let Some((_, Some(feature))) = lines.iter().find(|(own, _)| own == name) {
            return Some(feature.clone());
        }
        at = above;
    }
    None
}

#[test]
fn table_and_code_and_manifest_name_the_same_features() {
    let (table, features, sources) = (table(), features(), sources());
    let lines = &sources.files[[].as_slice()].modules;
    let declared: BTreeMap<_, _> = lines.iter().cloned().collect();
    assert_eq!(declared, table.iter().cloned().collect());

    let library = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rows: String = library.lines().filter(|line| line.starts_with("//! | ")).collect();
    for feature in features.keys().filter(|name| *name != "default") {
        let named = table.iter().any(|(_, of)| of.as_ref() == Some(feature));
        assert!(named || rows.contains(&format!("`{feature}`")), "no row names {feature}");
    }
    for module in sources.files.keys() {
        if let Some(feature) = feature_of(&sources, module) {
            assert!(features.contains_key(&feature), "{}: no feature {feature}", module.join("/"));
        }
    }
}

#[test]
fn what_is_pure_does_no_io() {
    let (table, sources) = (table(), sources());
    let mut seen = 0;
    for (module, code) in &sources.files {
        let core = table.iter().any(|(own, of)| Some(own) == module.first() && of.is_none());
        if !core || feature_of(&sources, module).is_some() {
            continue;
        }
        seen += 1;
        for path in code.uses.iter().map(|import| &import.path).chain(&code.paths) {
            let touches = IO.iter().find(|io| {
                path.len() >= io.len() && path.iter().zip(**io).all(|(own, io)| own == io)
            });
            assert_eq!(touches, None, "{}: {}", module.join("/"), path.join("::"));
        }
    }
    assert!(seen > 50, "only {seen} files were found");
}

#[test]
fn no_two_files_import_each_other() {
    let sources = sources();
    let imports: BTreeMap<_, _> =
        sources.files.keys().map(|module| (module.clone(), sources.imports(module))).collect();
    let edges: usize = imports.values().map(BTreeMap::len).sum();
    assert!(edges > 1000, "only {edges} imports were found");
    let graph = imports.iter().map(|(from, to)| (from.clone(), to.keys().cloned().collect()));
    let mut found = String::new();
    for circle in circles(&graph.collect()) {
        for from in &circle {
            for (to, path) in imports[*from].iter().filter(|(to, _)| circle.contains(to)) {
                found += &format!("{} imports {} ({path})\n", from.join("/"), to.join("/"));
            }
        }
        found += "\n";
    }
    assert!(found.is_empty(), "circles of files:\n{found}");
}

#[test]
fn circles_are_found_through_whatever_names_them() {
    let file = |text: &str| code::Code::of(text);
    let names = |path: &[&str]| path.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let files = BTreeMap::from([
        (names(&[]), file("mod a;")),
        (
            names(&["a"]),
            file("//! crate::a::y\nmod x; mod y; mod z; pub use x::X; pub struct Own;"),
        ),
        (names(&["a", "x"]), file("use super::y::Y as Other; pub struct X(Other); // super::z::Z")),
        (names(&["a", "y"]), file("pub struct Y; fn f() { let _: super::X = \"super::z::Z\"; }")),
        (names(&["a", "z"]), file("use crate::a::{self, Own}; fn f(_: a::Own) {} pub struct Z;")),
    ]);
    let sources = Sources { files };
    let graph: BTreeMap<_, Vec<_>> = sources
        .files
        .keys()
        .map(|m| (m.clone(), sources.imports(m).into_keys().collect()))
        .collect();
    assert_eq!(graph[&names(&["a"])], Vec::<Vec<String>>::new(), "a re-export is no import");
    assert_eq!(graph[&names(&["a", "z"])], [names(&["a"])]);
    assert_eq!(circles(&graph), [[&names(&["a", "x"]), &names(&["a", "y"])]]);
}

/// Lines of a file from which on its head says why it is one: "One file: ...".
const LONG: usize = 500;

#[test]
fn a_long_file_says_why_it_is_one() {
    let folders = ["src", "tests", "examples", "python/src", "fuzz/fuzz_targets"];
    let files = folders.map(|folder| rust_files(&root().join(folder))).concat();
    assert!(files.len() > 400, "only {} files were found", files.len());
    let long = files.iter().filter(|file| {
        let text = fs::read_to_string(file).unwrap();
        let mut head = text.lines().take_while(|line| line.starts_with("//!"));
        text.lines().count() > LONG && !head.any(|line| line.starts_with("//! One file: "))
    });
    assert_eq!(long.collect::<Vec<_>>(), Vec::<&PathBuf>::new());
}
