//! The S3 face: real clients, boto3 and `object_store`, list and read a model's folder.

use std::path::Path;

use super::command::Served;
use super::run::{python_command, text};
use futures_util::TryStreamExt;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;

#[test]
fn boto3_lists_and_reads_every_file() {
    let served = Served::new("s3-boto3");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/edge/s3_client.py");
    let endpoint = format!("http://{}/s3", served.address);
    let output = python_command()
        .arg("-B")
        .arg(script)
        .args([&endpoint, text(&served.model), &served.commit])
        .output()
        .expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn object_store_lists_and_reads_every_file() {
    let served = Served::new("s3-object-store");
    let store = AmazonS3Builder::new()
        .with_endpoint(format!("http://{}/s3", served.address))
        .with_allow_http(true)
        .with_bucket_name("org")
        .with_region("us-east-1")
        .with_skip_signature(true)
        .build()
        .expect("a client");
    let listed: Vec<_> = store.list(Some(&Key::from("m"))).try_collect().await.expect("a listing");
    assert_eq!(listed.len(), 5);
    for info in listed {
        let name = info.location.as_ref().trim_start_matches("m/").to_owned();
        let right = std::fs::read(served.model.join(&name)).expect("a file");
        let got = store.get_opts(&info.location, Default::default()).await.expect("an object");
        assert_eq!(got.meta.size, right.len() as u64);
        assert!(got.bytes().await.expect("bytes") == right, "{name}");
        if right.len() > 100 {
            let ranges = [1..10, 50..90];
            let parts = store.get_ranges(&info.location, &ranges).await.expect("ranges");
            assert!(parts[0] == right[1..10] && parts[1] == right[50..90], "{name}");
        }
    }
    let below = store.list_with_delimiter(Some(&Key::from("m"))).await.expect("a listing");
    assert_eq!(below.common_prefixes, [Key::from("m/1_Pooling")]);
}
