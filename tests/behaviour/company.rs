//! Several packs into one store at once are all right, and every ref and the index name them all.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use super::model::Model;
use super::run::{Run, command, done, reader_agrees, text};
use super::s3::S3Server;

/// Packs all at once, each model under its name, and waits for all.
fn together(store: &str, jobs: &[(&Path, String)], env: &[(&'static str, &str)]) -> Vec<Run> {
    let children: Vec<_> = jobs
        .iter()
        .map(|(model, name)| {
            command(&["--json", "pack", text(model), "--store", store, "--name", name])
                .envs(env.iter().copied())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let runs: Vec<_> =
        children.into_iter().map(|child| Run::of(child.wait_with_output().unwrap())).collect();
    for run in &runs {
        assert_eq!(run.status, Some(0), "{}", run.error);
    }
    runs
}

/// What `ls` tells: name, tag and manifest.
fn listed(run: &Run) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let artifacts = run.json["artifacts"].as_array().unwrap();
    artifacts.iter().map(|a| (text(&a["name"]), text(&a["tag"]), text(&a["manifest"]))).collect()
}

/// The names below `refs/index`, read as plain JSON.
fn indexed(store: &Path) -> Vec<(String, String, String)> {
    let read = |path: &str| -> Value {
        serde_json::from_slice(&std::fs::read(store.join(path)).unwrap()).unwrap()
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (mut found, mut open) = (Vec::new(), vec![text(&read("refs/index")["signed"]["node"])]);
    while let Some(id) = open.pop() {
        let node = read(&format!("names/{id}"));
        let refs = node["refs"].as_array().into_iter().flatten();
        found.extend(refs.map(|a| (text(&a["name"]), text(&a["tag"]), text(&a["manifest"]))));
        open.extend(node["nodes"].as_array().into_iter().flatten().map(|n| text(&n["node"])));
    }
    found.sort();
    found
}

fn models(folder: &Path, count: u64) -> Vec<PathBuf> {
    let model = |i| {
        let path = folder.join(format!("model-{i}"));
        // Half of the tensors are the same in all.
        let mut model = Model::layers(4, 900, 0);
        model.shards.push(Model::layers(4, 900, 100 + 10 * i).shards.remove(0));
        model.shards[1].iter_mut().for_each(|tensor| tensor.name.push('b'));
        model.write(&path);
        path
    };
    (0..count).map(model).collect()
}

#[test]
fn two_and_five_packs_into_one_directory() {
    let folder = tempfile::tempdir().unwrap();
    let models = models(folder.path(), 5);
    for count in [2, 5] {
        for same in [true, false] {
            let store = folder.path().join(format!("store-{count}-{same}"));
            let model = |i: usize| models[if same { 0 } else { i }].as_path();
            let jobs: Vec<_> = (0..count).map(|i| (model(i), format!("org/m{i}:v{i}"))).collect();
            let runs = together(text(&store), &jobs, &[]);
            let mut expected: Vec<_> = (0..count)
                .map(|i| (format!("org/m{i}"), format!("v{i}"), runs[i].text("manifest")))
                .collect();
            expected.sort();
            assert_eq!(listed(&done(&["ls", "--store", text(&store)])), expected);
            assert_eq!(indexed(&store), expected);
            for i in 0..count {
                let out = folder.path().join(format!("out-{count}-{same}-{i}"));
                reader_agrees(&store, &format!("org/m{i}:v{i}"), &out);
                let manifest = &runs[i].json["manifest"];
                assert_eq!(*manifest == runs[0].json["manifest"], same || i == 0);
            }
            let leases = super::run::names(&store, "leases/");
            assert!(leases.is_empty(), "{leases:?} are left");
        }
    }
}

/// The same name: the last one wins, its version is the highest, and nothing is half.
#[test]
fn the_same_name_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let models = models(folder.path(), 4);
    let store = folder.path().join("store");
    let jobs: Vec<_> = models.iter().map(|model| (model.as_path(), "org/m".to_owned())).collect();
    let runs = together(text(&store), &jobs, &[]);
    let mut versions: Vec<_> = runs.iter().map(|run| run.number("version")).collect();
    let last = runs.iter().max_by_key(|run| run.number("version")).unwrap();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 4, "two refs of one version");
    let expected = vec![("org/m".to_owned(), "latest".to_owned(), last.text("manifest"))];
    assert_eq!(listed(&done(&["ls", "--store", text(&store)])), expected);
    assert_eq!(indexed(&store), expected);
    for (i, run) in runs.iter().enumerate() {
        let out = folder.path().join(format!("out-{i}"));
        reader_agrees(&store, &format!("@{}", run.text("manifest")), &out);
    }
}

/// A real S3 server: several packs at once, then every command that needs no loader.
#[test]
fn an_s3_bucket_takes_them_too() {
    let server = S3Server::start();
    server.create_bucket("bucket");
    let env = server.environment();
    let folder = tempfile::tempdir().unwrap();
    let models = models(folder.path(), 3);
    let store = "s3://bucket/some/prefix";
    let s3 = |arguments: &[&str]| {
        let all = [&["--json", "--store", store], arguments].concat();
        Run::of(command(&all).envs(env).output().unwrap())
    };
    let ok = |arguments: &[&str]| {
        let run = s3(arguments);
        assert_eq!(run.status, Some(0), "{arguments:?}: {}", run.error);
        run
    };
    let missing = s3(&["ls"]);
    assert_eq!(missing.status, Some(3), "{}", missing.error);
    let jobs: Vec<_> = [0, 1, 2, 0]
        .iter()
        .enumerate()
        .map(|(i, m)| (models[*m].as_path(), format!("m{i}")))
        .collect();
    let runs = together(store, &jobs, &env);
    assert_eq!(runs[0].json["manifest"], runs[3].json["manifest"]);
    let ids: Vec<_> = runs.iter().map(|run| run.text("manifest")).collect();
    let entry = |name: &str, tag: &str, id: &String| (name.to_owned(), tag.to_owned(), id.clone());
    let mut expected: Vec<_> = (0..4).map(|i| entry(&format!("m{i}"), "latest", &ids[i])).collect();
    assert_eq!(listed(&ok(&["ls"])), expected);
    // The same artifact as in a directory.
    let local = folder.path().join("local");
    assert_eq!(super::run::pack(&local, &models[1], "x", &[]).text("manifest"), ids[1]);
    // Again: nothing but what lies in short runs, now that others hold the shared tensors too.
    let again = ok(&["pack", text(&models[1]), "--name", "m1"]);
    assert_eq!(again.text("manifest"), ids[1]);
    assert!(again.number("new_bytes") < 64 << 10, "{}", again.json);

    ok(&["tag", "m1", "org/copy:v1"]);
    expected.push(entry("org/copy", "v1", &ids[1]));
    assert_eq!(listed(&ok(&["ls"])), expected);
    ok(&["rm", "m2"]);
    expected.remove(2);
    assert_eq!(listed(&ok(&["ls"])), expected);
    let gone = s3(&["rm", "m2"]);
    assert_eq!(gone.status, Some(3), "{}", gone.error);

    let key = folder.path().join("key");
    done(&["keygen", text(&key)]);
    let public = folder.path().join("key.pub");
    let untrusted = s3(&["tag", "m0", "m9", "--trust", text(&public)]);
    assert_eq!(untrusted.status, Some(4), "{}", untrusted.error);
    ok(&["sign", "m0", "--key", text(&key)]);
    ok(&["tag", "m0", "m9", "--trust", text(&public)]);
    assert_eq!(listed(&ok(&["ls", "m9"])), [entry("m9", "latest", &ids[0])]);
    let signed = ok(&["pack", text(&models[2]), "--name", "m8", "--sign", text(&key)]);
    assert_eq!(signed.text("manifest"), ids[2]);
    ok(&["tag", "m8", "m7", "--trust", text(&public)]);
    // A bucket that is not there.
    let arguments = ["--json", "--store", "s3://absent/x", "ls"];
    let run = Run::of(command(&arguments).envs(env).output().unwrap());
    assert!(run.status != Some(0), "{}", run.json);
}
