//! A file that claims to be safetensors and is not is packed as bytes when that is told, and only then.

use std::fs;

use super::model::{Model, read_tree};
use super::run::reader_agrees;
use super::whole::{World, raw, sharded, tensor};

/// Files that claim to be safetensors and are not, with why.
fn peculiar() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let one = |dtype: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":[4],"data_offsets":{offsets}}}}}"#)
    };
    let good = one("U8", "[0,4]");
    let metadata = good.replacen('{', r#"{"__metadata__":{"step":100},"#, 1);
    let null = good.replacen('{', r#"{"__metadata__":{"format":null},"#, 1);
    vec![
        // Those of the issue.
        ("gap", raw(&one("U8", "[4,8]"), &[0; 8]), "invalid offset for tensor `a`"),
        ("behind", raw(&good, &[0; 9]), "incomplete metadata, file not fully covered"),
        ("number", raw(&metadata, &[0; 4]), "expected a string"),
        ("future", raw(&one("F8_E5M3_NEXT", "[0,4]"), &[0; 4]), "unknown variant `F8_E5M3_NEXT`"),
        // Others.
        ("null", raw(&null, &[0; 4]), "expected a string"),
        ("only metadata", raw(r#"{},"__metadata__":{"k":"v"}}"#, &[]), "trailing characters"),
        ("cut off", raw(&good, &[0; 3]), "incomplete metadata, file not fully covered"),
        ("page", b"<!DOCTYPE html>no such file".to_vec(), "header too large"),
        ("empty", Vec::new(), "it is empty"),
    ]
}

#[test]
fn what_is_no_valid_safetensors_is_packed_as_bytes_when_told() {
    let world = World::new();
    let whole = Model::of(vec![tensor("kept", 7)]);
    for (name, data, why) in peculiar() {
        let folder = name.replace(' ', "-");
        let path = format!("sub/{folder}.safetensors");
        let model = world.model(&folder, &whole, &[]);
        fs::create_dir_all(model.join("sub")).unwrap();
        fs::write(model.join(&path), &data).unwrap();
        let run = world.pack(&model, &folder, &[]);
        assert_eq!(run.status, Some(1), "{name}: {}", run.error);
        let error = run.text("error");
        let begin = format!("{}/{path}: not valid safetensors: ", model.display());
        assert!(error.starts_with(&begin) && error.contains(why), "{name}: {error}");
        let advice = format!("; repair it, or `tenpak pack --opaque '{path}'` packs it as bytes");
        assert!(error.ends_with(&advice), "{name}: {error}");
        for opaque in [path.as_str(), "sub/*", &format!("{folder}.*"), "**/*.safetensors"] {
            let run = world.pack(&model, &folder, &["--opaque", opaque]);
            assert_eq!((run.status, run.number("faults")), (Some(0), 0), "{opaque}: {}", run.error);
            // Other files keep their tensors, unless the pattern is for them too.
            assert_eq!(run.number("tensors"), u64::from(opaque != "**/*.safetensors"), "{opaque}");
        }
        assert_eq!(read_tree(&world.unpacked(&folder)), read_tree(&model), "{name}");
        reader_agrees(&world.store, &folder, &world.folder.path().join(format!("{folder}-reader")));
    }
}

/// All are named at once, with what to type, whatever their names.
#[test]
fn all_files_that_are_no_valid_safetensors_are_named() {
    let world = World::new();
    let broken = || Some(b"broken".to_vec());
    let paths = ["a [1]/b'c.safetensors", "x*{y}.safetensors", "z.safetensors"];
    let model = world.model("m", &sharded(), &paths.map(|path| (path, broken())));
    let run = world.pack(&model, "m", &[]);
    assert_eq!(run.status, Some(1), "{}", run.error);
    let error = run.text("error");
    for path in paths {
        let named = format!("{}/{path}: not valid safetensors: ", model.display());
        assert!(error.contains(&named), "{path}: {error}");
    }
    let (_, advice) = error.split_once("; repair them, or `tenpak pack ").unwrap();
    let (flags, rest) = advice.split_once('`').unwrap();
    assert_eq!(rest, " packs them as bytes");
    // As a shell reads it.
    let script = format!("for word in {flags}; do printf '%s\\n' \"$word\"; done");
    let words = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    let run = world.pack(&model, "m", &words.lines().collect::<Vec<_>>());
    assert_eq!((run.status, run.number("tensors")), (Some(0), 3), "{}", run.error);
    let plain = paths.map(|path| ["--opaque", path]).concat();
    assert_eq!(world.pack(&model, "m", &plain).number("tensors"), 3);
}

#[test]
fn a_pattern_for_nothing_is_wrong_use() {
    let world = World::new();
    let model = world.model("m", &sharded(), &[]);
    let run = world.pack(&model, "m", &["--opaque", "*.saftensors"]);
    let expected = format!("--opaque: no file of {} is \"*.saftensors\"", model.display());
    assert_eq!((run.status, run.text("error")), (Some(2), expected));
    let run = world.pack(&model, "m", &["--opaque", "["]);
    assert_eq!(run.status, Some(2), "{}", run.error);
    assert!(run.text("error").starts_with("--opaque: \"[\" is no pattern for files: "));
    // Shards that are taken as bytes are there, and what they hold is not looked at.
    let run = world.pack(&model, "m", &["--opaque", "model-*"]);
    assert_eq!((run.status, run.number("tensors")), (Some(0), 0), "{}", run.error);
}
