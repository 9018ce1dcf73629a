//! `tenpak load --device` from outside.

use std::path::Path;

use super::model::{Fill, Model, Tensor};
use super::run::{command, done, fresh_folder, pack, tenpak, text};

#[test]
fn what_the_device_holds_is_what_the_host_gets() {
    let folder = fresh_folder("load_device");
    let (input, store) = (folder.join("model"), folder.join("store"));
    Model::layers(3, 700, 5).write(&input);
    pack(&store, &input, "org/model", &[]);
    let load = |more: &[&str]| {
        done(&[&["load", "org/model", "--store", text(&store), "--digest"], more].concat())
    };
    let host = load(&[]);
    for more in [&["--device", "wgpu"][..], &["--device", "wgpu", "--keep"]] {
        let device = load(more);
        assert_eq!(device.json["digests"], host.json["digests"]);
        assert_eq!(device.number("tensors"), host.number("tensors"));
        assert_eq!(device.number("uploaded_bytes"), device.number("raw_bytes"));
        assert_eq!(device.number("raw_bytes"), host.number("raw_bytes"));
        assert!(!device.text("device").is_empty());
    }
    let load = ["load", "org/model", "--store", text(&store), "--device", "wgpu"];
    let output = command(&load).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("copied to "), "{output:?}");
}

#[test]
fn a_device_that_is_not_there_is_an_error_that_says_what_to_do() {
    let folder = fresh_folder("no_device");
    let (input, store) = (folder.join("model"), folder.join("store"));
    Model::layers(1, 100, 5).write(&input);
    pack(&store, &input, "org/model", &[]);
    let load = ["--json", "load", "org/model", "--store", text(&store), "--device"];
    if !Path::new("/dev/nvidia0").exists() {
        let run = tenpak(&[&load[1..], &["cuda"]].concat());
        assert_eq!(run.status, Some(1));
        assert!(
            run.error.contains("no CUDA device") && run.error.contains("--device"),
            "{}",
            run.error
        );
    }
    // A driver that is not there either.
    let mut bare = command(&[&load[..], &["wgpu"]].concat());
    let output = bare.env("VK_DRIVER_FILES", "/nowhere").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("no device for wgpu") && error.contains("mesa-vulkan-drivers"),
        "{error}"
    );
}

#[test]
fn a_load_takes_little_host_memory_however_large_the_model() {
    let folder = fresh_folder("load_memory");
    let (input, store) = (folder.join("model"), folder.join("store"));
    // 288 MiB; the same byte everywhere in a tensor is quickly written and quickly packed.
    let tensor = |n: u64| {
        let name = format!("model.layers.{n}.mlp.up_proj.weight");
        Tensor::new(&name, safetensors::Dtype::BF16, &[4096, 1024], n, Fill::Same)
    };
    Model::of((0..36).map(tensor).collect()).write(&input);
    pack(&store, &input, "org/model", &["--codec", "raw"]);
    std::fs::remove_dir_all(&input).unwrap();
    let load = |more: &[&str]| {
        let all = ["load", "org/model", "--store", text(&store), "--device", "wgpu"];
        done(&[&all[..], more].concat())
    };
    let all = load(&[]);
    let one = load(&["--tensor", "model.layers.0.mlp.up_proj.weight"]);
    assert_eq!(all.number("uploaded_bytes"), 288 << 20);
    // What the adapter takes is in both; device memory, which is the host's in software, is not taken
    // off.
    let more = all.number("peak_rss_bytes").saturating_sub(one.number("peak_rss_bytes"));
    println!("{} MiB beyond a load of one tensor", more >> 20);
    assert!(more <= 256 << 20, "{more} bytes more");
}
