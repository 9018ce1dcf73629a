//! What stands in a mount, for every tool that reads files.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use super::model::{Fill, Model, Plain, Tensor, models, read_tree};
use super::world::{World, one};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use safetensors::Dtype;
use tenpak::mount::Shown;

/// A model whose files are called oddly, are empty, executable, or lie deep.
fn odd() -> Model {
    let tensors = vec![
        Tensor::new(
            "model.layers.0.mlp.up_proj.weight",
            Dtype::BF16,
            &[1500, 1024],
            1,
            Fill::Random,
        ),
        Tensor::new(
            "model.layers.0.mlp.down_proj.weight",
            Dtype::BF16,
            &[512, 4096],
            2,
            Fill::Sparse,
        ),
        Tensor::new("model.norm.weight", Dtype::F32, &[77], 3, Fill::Random),
    ];
    let deep = "a/b/c/".repeat(20) + "deep.txt";
    let mut model = Model::of(tensors)
        .with("empty.bin", b"")
        .with("with space & 'quotes' \"$(x)\".txt", b"x")
        .with("\u{6f22}\u{5b57}/\u{e9}.json", b"{}")
        .with("-rf", b"y")
        .with(&"n".repeat(255), b"z")
        .with(&deep, b"deep")
        .with("page.bin", &[7; 4096])
        .with("over.bin", &[8; 4097]);
    model.files.insert(
        "run.sh".into(),
        Plain { data: b"#!/bin/sh\necho run\n".to_vec(), executable: true },
    );
    model
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn every_tool_reads_what_was_packed() {
    let world = World::new("tools");
    let (model, _) = world.pack("org/m", &odd());
    let mount = world.mount(one("org/m"));
    let at = mount.folder();
    assert_eq!(read_tree(at), read_tree(&model));

    // Sizes, modes, times that stay, and what cannot be written.
    for (path, plain) in odd().contents() {
        let facts = fs::metadata(at.join(&path)).expect("a file");
        let mode = if plain.executable { 0o100_555 } else { 0o100_444 };
        assert_eq!((facts.len(), facts.mode()), (plain.data.len() as u64, mode), "{path}");
        assert_eq!(facts.blocks(), (plain.data.len() as u64).div_ceil(512));
        assert!(facts.mtime() > 1_700_000_000, "when it was published");
    }
    assert_eq!(fs::metadata(at).expect("a folder").permissions().mode(), 0o40_555);
    let refused =
        OpenOptions::new().write(true).open(at.join("config.json")).expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert_eq!(
        fs::write(at.join("new"), b"x").expect_err("read-only").raw_os_error(),
        Some(libc::EROFS)
    );
    assert!(fs::remove_file(at.join("config.json")).is_err());
    assert!(!at.join("nothing").exists());

    let copies = world.at("copies");
    let (cp, rsync) = (copies.join("cp"), copies.join("rsync"));
    run("cp", &["-r", text(at), text(&cp)]);
    run("rsync", &["-a", &format!("{}/", text(at)), text(&rsync)]);
    for copy in [&cp, &rsync] {
        run("diff", &["-r", text(copy), text(&model)]);
    }
    let found = run("find", &[text(at), "-type", "f"]);
    assert_eq!(found.lines().count(), odd().contents().len());
    let sums = |folder: &Path| {
        run(
            "sh",
            &[
                "-c",
                "cd \"$0\" && find . -type f -print0 | sort -z | xargs -0 sha256sum",
                text(folder),
            ],
        )
    };
    assert_eq!(sums(at), sums(&model));
    let kib: u64 = run("du", &["-sk", text(at)])
        .split('\t')
        .next()
        .expect("a number")
        .parse()
        .expect("a number");
    let bytes: usize = odd().contents().values().map(|plain| plain.data.len()).sum();
    assert!((bytes as u64 / 1024..bytes as u64 / 1024 + 64).contains(&kib), "{kib} KiB of {bytes}");
    assert_eq!(run(text(&at.join("run.sh")), &[]), "run\n", "it runs");
    assert_eq!(mount.stats().errors, 0, "{:?}", world.told);
}

/// An extended attribute.
fn attribute(path: &Path, name: &str) -> Option<String> {
    let path = std::ffi::CString::new(text(path)).expect("a path");
    let name = std::ffi::CString::new(name).expect("a name");
    let mut value = vec![0_u8; 256];
    // SAFETY: two strings and a buffer of that length.
    let len = unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    value.truncate(usize::try_from(len).ok()?);
    String::from_utf8(value).ok()
}

#[test]
fn a_file_says_its_digest_before_a_byte_of_it_is_read() {
    let world = World::new("digests");
    let (model, whole) = world.pack("org/m", &odd());
    let mount = world.mount(one("org/m"));
    for (file, _) in &whole.files {
        let sum = run("sha256sum", &[text(&model.join(&file.path))]);
        let own = attribute(&mount.folder().join(&file.path), "user.tenpak.sha256");
        // Names with odd characters are marked so.
        assert_eq!(own.as_deref(), sum.trim_start_matches('\\').split(' ').next(), "{}", file.path);
    }
    assert_eq!(attribute(mount.folder(), "user.tenpak.manifest"), Some(whole.id.to_hex()));
    assert_eq!(attribute(mount.folder(), "user.tenpak.sha256"), None);
    assert_eq!(attribute(&mount.folder().join("-rf"), "user.other"), None);
    assert_eq!(world.packs_read(), 0);
}

#[test]
fn ten_thousand_files_are_open_at_a_time() {
    let world = World::new("many");
    world.pack("org/m", &odd());
    let mount = world.mount(one("org/m"));
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a limit to write to, and one to read.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max.min(20_000);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    assert!(limit.rlim_cur >= 10_100, "this needs `ulimit -n 10100`, and has {}", limit.rlim_cur);
    let open = |_| File::open(mount.folder().join("model.safetensors")).expect("one more");
    let files: Vec<File> = (0..10_000).map(open).collect();
    let mut bytes = [[0; 8]; 2];
    files[9_999].read_exact_at(&mut bytes[0], 5_000_000).expect("bytes");
    files[0].read_exact_at(&mut bytes[1], 5_000_000).expect("bytes");
    assert_eq!(bytes[0], bytes[1]);
    drop(files);
    assert!(!mount.unmount().expect("unmounted"), "nobody uses it");
}

#[test]
fn models_of_all_shapes_are_read_as_they_were_packed() {
    let mut runner = TestRunner::new(Config { cases: 12, ..Config::default() });
    let ran = runner.run(&models(), |model| {
        let world = World::new("shapes");
        if model.contents().is_empty() {
            return Ok(());
        }
        let (folder, _) = world.pack("org/m", &model);
        let mount = world.mount(Shown::Store);
        let own = mount.folder().join("org/m/latest");
        prop_assert_eq!(read_tree(&own), read_tree(&folder));
        // Bytes from anywhere to anywhere, the end included.
        for (path, plain) in model.contents() {
            let file = File::open(own.join(&path)).expect("a file");
            for (start, len) in
                [(0, 1), (1, 5000), (4095, 2), (70_001, 300_000), (plain.data.len(), 9)]
            {
                let mut bytes = vec![0; len];
                let count = file.read_at(&mut bytes, start as u64).expect("bytes");
                let end = plain.data.len().min(start + count);
                prop_assert_eq!(&bytes[..count], &plain.data[start.min(end)..end]);
                prop_assert!(count == len || end == plain.data.len());
            }
        }
        prop_assert_eq!(mount.stats().errors, 0);
        Ok(())
    });
    ran.expect("every model");
}
