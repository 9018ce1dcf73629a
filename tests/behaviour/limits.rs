//! Memory does not grow with the model.

use std::io::Write;

use rand::{RngCore, SeedableRng, rngs::StdRng};

use super::run::{python_command, text};

const MIB: u64 = 1 << 20;

/// Runs the command after it and prints its peak memory in KiB, as the system counted it.
const MEASURE: &str = "import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";

fn peak_bytes(arguments: &[&str]) -> u64 {
    let output = python_command()
        .args(["-c", MEASURE, env!("CARGO_BIN_EXE_tenpak")])
        .args(arguments)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    let text = String::from_utf8(output.stdout).unwrap();
    1024 * text.trim().parse::<u64>().expect("a number")
}

/// A safetensors file of `tensors` matrices of 50 MiB, and as much content of other kind.
fn write_model(folder: &std::path::Path, tensors: u64, other: u64) {
    std::fs::create_dir(folder).unwrap();
    let size = 50 * MIB;
    let entries: Vec<_> = (0..tensors)
        .map(|i| {
            let (start, end) = (i * size, (i + 1) * size);
            format!(
                r#""model.layers.{i:03}.mlp.{}.weight":{{"dtype":"BF16","shape":[6400,4096],"data_offsets":[{start},{end}]}}"#,
                if i % 2 == 0 { "up_proj" } else { "down_proj" }
            )
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut rng = StdRng::seed_from_u64(1);
    let mut block = vec![0; 1 << 20];
    let mut file = std::fs::File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for _ in 0..tensors * 50 {
        rng.fill_bytes(&mut block);
        file.write_all(&block).unwrap();
    }
    let mut file = std::fs::File::create(folder.join("training.bin")).unwrap();
    for _ in 0..other {
        rng.fill_bytes(&mut block);
        file.write_all(&block).unwrap();
    }
}

#[test]
fn packing_600_mb_takes_at_most_256_mib() {
    let folder = tempfile::tempdir().unwrap();
    let (input, store) = (folder.path().join("model"), folder.path().join("store"));
    write_model(&input, 10, 100);
    for (codec, threads) in [("raw", "2"), ("zstd", "2"), ("float", "2"), ("raw", "8")] {
        std::fs::remove_dir_all(&store).ok();
        let arguments =
            ["pack", text(&input), "--store", text(&store), "--name", "m", "--codec", codec];
        let peak = peak_bytes(&[&arguments[..], &["--threads", threads]].concat());
        eprintln!("--codec {codec} --threads {threads}: {} MiB", peak / MIB);
        assert!(peak <= 256 * MIB, "--codec {codec}: {} MiB", peak / MIB);
    }
    // Nothing new to write: as little.
    let arguments = ["pack", text(&input), "--store", text(&store), "--name", "m"];
    let peak = peak_bytes(&arguments);
    assert!(peak <= 256 * MIB, "again: {} MiB", peak / MIB);
}
