//! What is packed or copied into a bucket goes over many connections at a time, in bounded memory: what is checked is
//! what came and how much of it at once, never how long it took.

#![cfg(feature = "cli")]

#[path = "support/bucket.rs"]
mod bucket;
#[path = "support/run.rs"]
#[allow(dead_code, reason = "of what tests share, this one needs a part")]
mod run;

use std::path::Path;
use std::sync::Arc;

use bucket::Bucket;
use rand::{RngCore, SeedableRng, rngs::StdRng};

/// Bytes of the model: many packs of 16 MiB, each of three parts.
const SIZE: usize = 128 << 20;
/// Bytes a second of each connection: so few that uploads wait for nothing else.
const RATE: f64 = 4e6;

/// Runs the command where `s3://` means the bucket.
fn tenpak(bucket: std::net::SocketAddr, arguments: &[&str]) -> run::Run {
    let mut command = run::command(arguments);
    command.envs(Bucket::environment(bucket));
    let ran = run::Run::of(command.output().expect("the command"));
    assert_eq!(ran.status, Some(0), "{}", ran.error);
    ran
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn uploads_take_many_connections() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let start = || runtime.block_on(Bucket::start(RATE, 0)).expect("a server");
    let folder = run::fresh_folder("uploads");
    let (model, store) = (folder.join("model"), folder.join("store"));
    std::fs::create_dir(&model).expect("a folder");
    let mut weights = vec![0; SIZE];
    StdRng::seed_from_u64(1).fill_bytes(&mut weights);
    std::fs::write(model.join("weights.bin"), weights).expect("a file");

    let many = |bucket: Arc<Bucket>| {
        let uploads = bucket.uploads();
        assert!(uploads.bytes >= SIZE as u64, "{uploads:?}");
        // Fewer would be slower than ten connections; more would hold more memory.
        assert!((12..=18).contains(&uploads.at_once), "{uploads:?}");
        assert!(
            uploads.seconds >= SIZE as f64 / 18.0 / bucket.rate() * 0.9,
            "no pace: {uploads:?}"
        );
    };
    let (bucket, at) = start();
    let pack = ["pack", text(&model), "--name", "m", "--codec", "raw", "--json", "--store"];
    tenpak(at, &[&pack[..], &["s3://weights/a"]].concat());
    many(bucket);
    let loaded = tenpak(at, &["verify", "m", "--store", "s3://weights/a", "--json"]);
    assert!(loaded.json["damaged"].as_array().is_none_or(Vec::is_empty), "{}", loaded.json);

    tenpak(at, &[&pack[..], &[text(&store)]].concat());
    let (bucket, at) = start();
    tenpak(at, &["cp", "m", "--store", text(&store), "--to", "s3://weights/b", "--json"]);
    many(bucket);
}
