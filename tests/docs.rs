//! The shell blocks of README.md and docs/ do what they show: each line that begins with `$ ` is run in a folder
//! of the document's own, and gives the lines below it, whatever the numbers in them.
//!
//! Numbers, sizes and ids are compared as such, exit statuses exactly. A line `...` stands for any lines.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tenpak::quantize::produce::PRESETS;
use tenpak::quantize::produce::engines::{Engine, Trial, trials};

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/run.rs"]
mod run;

use run::fresh_folder;

/// The port that documents show, in the place of which a free one is taken.
const PORT: &str = "18080";
const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];

/// A command of a document, and what it shows below.
struct Shown {
    command: String,
    lines: Vec<String>,
}

/// The commands of a document's shell blocks.
fn commands(text: &str) -> Vec<Shown> {
    let mut found: Vec<Shown> = Vec::new();
    // Outside of blocks are the even parts.
    for block in text.split("```").skip(1).step_by(2) {
        let mut lines = block.lines().skip(1).peekable();
        if !lines.peek().is_some_and(|line| line.starts_with("$ ")) {
            continue;
        }
        for line in lines {
            match line.strip_prefix("$ ") {
                Some(command) => {
                    found.push(Shown { command: command.to_owned(), lines: Vec::new() });
                }
                None => found.last_mut().unwrap().lines.push(line.to_owned()),
            }
        }
    }
    found
}

/// A line without its numbers.
fn shape(line: &str) -> String {
    if line.starts_with("exit ") {
        return line.to_owned();
    }
    let word = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        if UNITS.contains(&bare) {
            return word.replace(bare, "B");
        }
        let rate = bare.ends_with("B/s");
        match rate || !bare.contains(|c: char| c.is_ascii_digit()) {
            true => word.replace("kB/s", "B/s").replace("MB/s", "B/s").replace("GB/s", "B/s"),
            false => word.replace(bare, "#"),
        }
    };
    line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// Whether lines are those that are shown.
fn fits(shown: &[String], lines: &[String]) -> bool {
    match shown {
        [] => lines.is_empty(),
        [any, rest @ ..] if any == "..." => {
            (0..=lines.len()).any(|skipped| fits(rest, &lines[skipped..]))
        }
        [first, rest @ ..] => {
            lines.first().is_some_and(|line| shape(line) == shape(first)) && fits(rest, &lines[1..])
        }
    }
}

/// A port that is free now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs a document's commands in `folder`, and gives what each prints.
fn printed(shown: &[Shown], folder: &Path) -> Vec<Vec<String>> {
    let mut script = "exec 2>&1\n".to_owned();
    for (number, Shown { command, .. }) in shown.iter().enumerate() {
        script += &format!("echo '@@{number}'\n{command}\n");
        if command.ends_with('&') {
            script += "for i in $(seq 300); do grep -q '^store at' log && break; sleep 0.1; done\n";
        }
    }
    script += "echo '@@end'\nkill $(jobs -p)\nwait\n";
    let port = free_port().to_string();
    fs::write(folder.join("script"), script.replace(PORT, &port)).unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_tenpak")).parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths([binary].into_iter().chain(std::env::split_paths(&path)));
    let log = File::create(folder.join("log")).unwrap();
    let mut command = Command::new("bash");
    for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "TENPAK_STORE"] {
        command.env_remove(name);
    }
    command.arg("script").current_dir(folder).env("PATH", path.unwrap()).env("HOME", folder);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.status().unwrap();
    let log = fs::read_to_string(folder.join("log")).unwrap().replace(&port, PORT);
    let (log, _) = log.split_once("@@end\n").expect("the script came to its end");
    let parts = log.split("@@").skip(1);
    parts.map(|part| part.lines().skip(1).map(str::to_owned).collect()).collect()
}

#[test]
fn documents_show_what_the_command_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![root.join("README.md")];
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    documents.extend(docs.filter(|path| path.extension().is_some_and(|end| end == "md")));
    let mut wrong = Vec::new();
    let mut commands_run = 0;
    for document in documents {
        let name: PathBuf = document.file_stem().unwrap().into();
        let shown = commands(&fs::read_to_string(&document).unwrap());
        let folder = fresh_folder(&format!("docs-{}", name.display()));
        symlink(root.join("fixtures"), folder.join("fixtures")).unwrap();
        let printed = printed(&shown, &folder);
        assert_eq!(printed.len(), shown.len(), "{}", name.display());
        commands_run += shown.len();
        for (Shown { command, lines }, printed) in shown.iter().zip(printed) {
            if !fits(lines, &printed) {
                let printed = printed.join("\n");
                wrong.push(format!("{}: $ {command}\n{printed}", name.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these print something else:\n{}", wrong.join("\n\n"));
    assert!(commands_run > 30, "only {commands_run} commands were found");
}

#[test]
fn lines_are_compared_without_their_numbers() {
    let fit = |shown: &[&str], lines: &[&str]| {
        let owned =
            |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        fits(&owned(shown), &owned(lines))
    };
    assert!(fit(&["2.8 MiB in 0.1 s (24 MB/s)"], &["871 KiB in 12 s (1.5 GB/s)"]));
    assert!(fit(&["@b151e7505e4b  3 files"], &["@0123456789ab 1 files"]));
    assert!(!fit(&["3 files"], &["3 folders"]));
    assert!(!fit(&["exit 4"], &["exit 0"]));
    assert!(!fit(&["one"], &["one", "two"]) && !fit(&["one", "two"], &["one"]));
    assert!(fit(&["one", "...", "four"], &["one", "two", "three", "four"]));
    assert!(!fit(&["one", "..."], &["two"]));
}

#[test]
fn the_readme_can_be_read_at_once() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let lines = fs::read_to_string(readme).unwrap().lines().count();
    assert!(lines <= 150, "{lines} lines");
}

/// The engines of the table, each with its version.
fn engines() -> Vec<(Engine, &'static str)> {
    let mut found: Vec<(Engine, &str)> = Vec::new();
    for trial in trials() {
        if !found.contains(&(trial.engine, &trial.version)) {
            found.push((trial.engine, &trial.version));
        }
    }
    found
}

/// What an engine made of a layout, as a table has it.
fn cell((engine, version): (Engine, &str), layout: &str) -> String {
    let of = |trial: &&Trial| {
        (trial.engine, &*trial.version, &*trial.layout) == (engine, version, layout)
    };
    match trials().iter().find(of) {
        None => String::new(),
        Some(trial) if trial.loads && trial.needs.is_empty() => "loads".to_owned(),
        Some(trial) if trial.loads => {
            let needs: Vec<&str> = trial.needs.keys().map(String::as_str).collect();
            format!("needs {}", needs.join(", "))
        }
        Some(trial) if trial.no_kernel => "no kernel for processors".to_owned(),
        Some(_) => "no".to_owned(),
    }
}

/// A table of what engines made of these layouts, as documents have it; rows beside each other that say the same
/// are one.
fn table(head: &str, layouts: &[(String, String)]) -> String {
    let engines = engines();
    let titles = engines.iter().map(|(engine, version)| format!(" {} {version} |", engine.title()));
    let mut text = format!("| {head} |{}\n|---|", titles.collect::<String>());
    text += &"---|".repeat(engines.len());
    let mut rows: Vec<(Vec<&str>, Vec<String>)> = Vec::new();
    for (name, layout) in layouts {
        let cells: Vec<String> = engines.iter().map(|engine| cell(*engine, layout)).collect();
        match rows.last_mut().filter(|(_, last)| *last == cells) {
            Some((names, _)) => names.push(name),
            None => rows.push((vec![name], cells)),
        }
    }
    for (names, cells) in rows {
        text += &format!("\n| {} | {} |", names.join(", "), cells.join(" | "));
    }
    text
}

/// The table that a document has below its mark.
fn marked<'a>(text: &'a str, what: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("<!-- engines: {what} -->\n")).expect("the mark");
    rest.split("\n\n").next().unwrap_or_default()
}

#[test]
fn documents_say_of_engines_what_was_measured_and_nothing_else() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let presets = PRESETS.iter().map(|own| (format!("`{}`", own.name), own.recipe().layout()));
    let presets = table("preset", &presets.collect::<Vec<_>>());
    let mut layouts: Vec<(String, String)> = Vec::new();
    for trial in trials() {
        let row = (format!("{}: `{}`", trial.layout, trial.made_by), trial.layout.clone());
        if !layouts.iter().any(|(_, layout)| *layout == trial.layout) {
            layouts.push(row);
        }
    }
    let layouts = table("layout", &layouts);
    for (path, what, table) in
        [("README.md", "presets", presets), ("docs/quantize.md", "layouts", layouts)]
    {
        let text = read(path);
        assert_eq!(marked(&text, what), table, "{path}: put this below its mark:\n{table}\n");
    }
    // Elsewhere, outside of what the command prints, nothing is said of what an engine loads.
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    for path in docs.chain([root.join("README.md")]) {
        let text = fs::read_to_string(&path).unwrap();
        let prose: String = text.split("```").step_by(2).collect();
        for line in prose.lines().filter(|line| !line.starts_with('|')) {
            let named = ["vLLM", "SGLang", "llama.cpp"].iter().any(|engine| line.contains(engine));
            assert!(!(named && line.contains("load")), "{}: {line}", path.display());
        }
    }
}
