//! Whatever the store lacks or holds wrong, its mirror has: every command that reads an artifact succeeds,
//! and `verify`, which reports on the store alone, says what is bad there.

use std::fs;
use std::path::{Path, PathBuf};

use super::run::{command, done, fresh_folder, text};

/// What is done to an object of the store.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Missing,
    Flipped,
    Cut,
}

struct World {
    folder: PathBuf,
    store: PathBuf,
    mirror: PathBuf,
    key: PathBuf,
}

impl World {
    fn new() -> Self {
        let folder = fresh_folder("mirrors");
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm");
        let (store, mirror) = (folder.join("store"), folder.join("mirror"));
        let key = folder.join("key");
        done(&["keygen", text(&key)]);
        for (source, name) in [("base", "org/base"), ("tuned", "org/tuned")] {
            let source = model.join(source);
            let arguments =
                ["--store", text(&store), "pack", text(&source), "--name", name, "--sign"];
            done(&[&arguments[..], &[text(&key)]].concat());
        }
        copy(&store, &mirror);
        Self { folder, store, mirror, key }
    }

    /// The objects that reading `org/base` needs, one of each kind.
    fn objects(&self) -> Vec<PathBuf> {
        let id = done(&["--store", text(&self.store), "inspect", "org/base"]).text("manifest");
        let manifest = fs::read_to_string(self.store.join("manifests").join(&id)).expect("it");
        let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
        let table = manifest["chunks"][0]["table"].as_str().expect("a table").to_owned();
        let signatures = self.store.join("signatures").join(&id);
        let signature = fs::read_dir(signatures).expect("a folder").next().expect("a signature");
        let layout = fs::read(self.store.join("layouts").join(&id)).expect("a layout");
        // The pack of the first chunk, behind the header.
        let pack: String = layout[64..96].iter().map(|byte| format!("{byte:02x}")).collect();
        vec![
            self.store.join("refs/org/base/@latest"),
            self.store.join("manifests").join(&id),
            signature.expect("a file").path(),
            self.store.join("tables").join(table),
            self.store.join("layouts").join(&id),
            self.store.join("packs").join(pack),
        ]
    }

    /// Every command that reads, as its arguments; what it writes goes to `out`.
    fn commands(&self, out: &Path, short: &Path) -> Vec<Vec<String>> {
        let (out, short) = (text(out).to_owned(), text(short));
        let copied = format!("{out}-copied");
        let all: [&[&str]; 8] = [
            &["load", "org/base"],
            &["unpack", "org/base", "--out", &out],
            &["inspect", "org/base"],
            &["cp", "org/base", "--to", &copied],
            &["du", "org/base"],
            &["diff", "org/base", "org/tuned"],
            &["eval", "ppl", "org/base", "--text", short, "--context", "16"],
            &["delta", "estimate", "org/tuned", "--base", "org/base"],
        ];
        all.iter().map(|one| one.iter().map(|&word| word.to_owned()).collect()).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("a copy")),
        }
    }
}

fn damage(object: &Path, how: Damage) {
    let mut bytes = fs::read(object).expect("the object");
    match how {
        Damage::Missing => return fs::remove_file(object).expect("removed"),
        Damage::Flipped => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        }
        Damage::Cut => bytes.truncate(bytes.len() / 2),
    }
    fs::write(object, bytes).expect("written");
}

#[test]
fn every_command_takes_from_the_mirror_what_the_store_has_wrong() {
    let world = World::new();
    let short = world.folder.join("short.txt");
    fs::write(&short, "It is a truth universally acknowledged, that a single man. ".repeat(4))
        .expect("a text");
    let trust = world.folder.join("key.pub");
    assert!(world.key.exists() && trust.exists());
    let mut failed = Vec::new();
    for (number, object) in world.objects().into_iter().enumerate() {
        let kept = fs::read(&object).expect("the object");
        for how in [Damage::Missing, Damage::Flipped, Damage::Cut] {
            damage(&object, how);
            let out = world.folder.join(format!("out-{number}-{how:?}"));
            let mut run = |store: &Path, words: &[&str]| {
                let more = ["--store", text(store), "--mirror", text(&world.mirror), "--json"];
                let output = command(&[&more, words].concat()).output().expect("a run");
                if !output.status.success() {
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    failed.push(format!("{words:?}, {how:?} {}: {said}", object.display()));
                }
            };
            for words in world.commands(&out, &short) {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                run(&world.store, &[&["--trust", text(&trust)], &words[..]].concat());
            }
            // What writes has a store of its own each time: what one run made, the next would take.
            let own = world.folder.join("own");
            copy(&world.store, &own);
            let made = ["quantize", "org/base", "--name", "org/made", "--method", "int8"];
            run(&own, &[&["--trust", text(&trust)], &made[..]].concat());
            run(&own, &["load", "org/made"]);
            fs::remove_dir_all(own).expect("removed");
            let verify = ["--store", text(&world.store), "--trust", text(&trust)];
            let verify = [&verify[..], &["--mirror", text(&world.mirror), "verify", "org/base"]];
            let status = command(&verify.concat()).output().expect("a run").status;
            assert!(!status.success(), "verify says nothing of {how:?} {}", object.display());
            fs::write(&object, &kept).expect("restored");
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    // Unpacked and copied whole, in spite of all.
    let unpacked = world.folder.join("out-5-Flipped");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/base");
    for entry in fs::read_dir(model).expect("a folder") {
        let path = entry.expect("an entry").path();
        let other = unpacked.join(path.file_name().expect("a name"));
        assert!(fs::read(&path).expect("a file") == fs::read(&other).expect("its copy"));
    }
    for number in 0..6 {
        let copied = world.folder.join(format!("out-{number}-Flipped-copied"));
        done(&["--store", text(&copied), "verify", "org/base", "--trust", text(&trust)]);
    }
}
