//! A second run of the same model reads nothing that it can know: neither weights nor what they became.

use std::path::{Path, PathBuf};
use std::process::Command;

use tenpak::pack::{PackOptions, pack};
use tenpak::quantize::produce::{
    Method, QuantizeOptions, QuantizeReport, RoundToNearest, quantize,
};
use tenpak::quantize::source::ModelSource;
use tenpak::store::artifact::{Artifact, OpenOptions};
use tenpak::trust::{Signer, TrustSet};

use super::library::{Counted, check_store, name, runtime};
use super::model::{Tensor, llama, write};
use super::run::{done, fresh_folder, text};

const ALL: u64 = 12;

/// Runs this test once more, as a user whose home is `home`: what runs wrote is noted there.
fn in_home(test: &str, home: &Path) -> bool {
    const INNER: &str = "TENPAK_TEST_INNER";
    if std::env::var_os(INNER).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("again::{test}"), "--exact", "--nocapture"]).env(INNER, "1");
    for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
        command.env_remove(name);
    }
    let output = command.env("HOME", home).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{output:?}");
    false
}

fn quantized(
    counted: &Counted,
    source: &ModelSource,
    to: &str,
    pack: PackOptions,
) -> QuantizeReport {
    let options = QuantizeOptions::new(Method::Int8.recipe(), pack);
    let (name, tag) = name(to);
    let runtime = runtime().handle();
    quantize(source, &counted.store, (&name, &tag), options, &mut RoundToNearest, runtime, &())
        .unwrap_or_else(|error| panic!("{error}"))
}

fn artifact(counted: &Counted, name: &str) -> ModelSource {
    let (spec, options) = (name.parse().unwrap(), OpenOptions::default());
    let opened = runtime().block_on(Artifact::open(counted.store.clone(), &spec, &options));
    let opened = opened.unwrap_or_else(|error| panic!("{error}"));
    ModelSource::artifact(opened, runtime().handle()).unwrap()
}

/// By this user's own record of what earlier runs wrote.
#[test]
fn on_ones_own_word_nothing_is_read() {
    let folder = fresh_folder("again");
    if !in_home("on_ones_own_word_nothing_is_read", &folder.join("home")) {
        return;
    }
    let counted = Counted::memory();
    let model = write(&folder.join("model"), &llama(2, 256));
    let (to, tag) = name("base");
    let packed =
        pack(&model, &counted.store, (&to, &tag), PackOptions::default(), runtime().handle(), &());
    let size = packed.unwrap().totals.raw_bytes;
    let first = quantized(&counted, &artifact(&counted, "base"), "q", PackOptions::default());
    assert_eq!((first.computed, first.linked), (ALL, 0));
    let read = counted.transport.stats().below("packs/").bytes_read;
    assert!(read > size / 2, "{read} of {size}: the first run reads the weights");
    for source in [artifact(&counted, "base"), ModelSource::folder(&model).unwrap()] {
        let from_folder = source.id().is_none();
        counted.transport.reset_stats();
        let again = quantized(&counted, &source, "q", PackOptions::default());
        assert_eq!((again.computed, again.linked), (0, ALL));
        let stats = counted.transport.stats();
        // What is no tensor: configs, the list of products, headers.
        assert!(stats.below("packs/").bytes_read < 40_000, "{:?}", stats.below("packs/"));
        assert_eq!(stats.below("packs/").writes, 0);
        if !from_folder {
            assert_eq!(again.packed.manifest, first.packed.manifest);
            assert_eq!(again.packed.new_bytes, 0);
        }
    }
    assert_eq!(check_store(&counted.store), 2);
}

/// Whoever can write to the store says nothing that counts: without a record and without a trusted
/// signature everything is computed again; with a signature nothing is read.
#[test]
fn on_a_trusted_word_nothing_is_read() {
    let folder = fresh_folder("again_trusted");
    if !in_home("on_a_trusted_word_nothing_is_read", &folder.join("home")) {
        return;
    }
    let key = folder.join("key");
    done(&["keygen", text(&key)]);
    let options = |signs: bool| {
        let signer = Signer::load(&key, None).unwrap();
        let mut trust = TrustSet::default();
        trust.add_ed25519(signer.verifying_key().unwrap(), None).unwrap();
        let signers = if signs { vec![signer] } else { Vec::new() };
        let mut options = PackOptions::default();
        options.trust = trust;
        options.signers = signers;
        options
    };
    let home = PathBuf::from(std::env::var_os("HOME").unwrap());
    let forget = || std::fs::remove_dir_all(home.join(".local/state/tenpak")).unwrap();
    let counted = Counted::memory();
    let model = write(&folder.join("model"), &llama(2, 256));
    let run = |signs| {
        counted.transport.reset_stats();
        let done = quantized(&counted, &ModelSource::folder(&model).unwrap(), "q", options(signs));
        (done.computed, counted.transport.stats().below("packs/").bytes_read)
    };
    assert_eq!(run(false).0, ALL);
    forget();
    assert_eq!(run(true).0, ALL, "nobody who is trusted signed it");
    forget();
    let (computed, read) = run(false);
    assert!(computed == 0 && read < 40_000, "{computed} computed, {read} bytes read");
}

/// A file is taken over only if every tensor in it is the same; the rest is made.
#[test]
fn what_is_not_the_same_is_made() {
    let folder = fresh_folder("again_changed");
    if !in_home("what_is_not_the_same_is_made", &folder.join("home")) {
        return;
    }
    let counted = Counted::memory();
    let mut tensors = llama(2, 256);
    let source =
        |tensors: &[Tensor]| ModelSource::folder(&write(&folder.join("model"), tensors)).unwrap();
    quantized(&counted, &source(&tensors), "q", PackOptions::default());
    // A norm, which is not quantized.
    let norm = tensors.iter().position(|(name, _, _)| name.contains("layernorm")).unwrap();
    tensors[norm].2.fill(0.5);
    let changed = quantized(&counted, &source(&tensors), "q:changed", PackOptions::default());
    assert_eq!((changed.computed, changed.linked), (0, ALL));
    let alone = Counted::memory();
    let alone = quantized(&alone, &source(&tensors), "q", PackOptions::default());
    assert_eq!(alone.packed.manifest, changed.packed.manifest);
    check_store(&counted.store);
    // Its packs are gone, and the record still names it: it is made again.
    let packs = runtime().block_on(counted.store.list("packs/")).unwrap();
    for pack in packs {
        runtime().block_on(counted.store.transport().delete(&pack.path)).unwrap();
    }
    let again = source(&tensors);
    let options = PackOptions::default();
    let (name, tag) = name("q:again");
    let options = QuantizeOptions::new(Method::Int8.recipe(), options);
    let runtime = runtime().handle();
    let made =
        quantize(&again, &counted.store, (&name, &tag), options, &mut RoundToNearest, runtime, &());
    assert_eq!(made.unwrap().packed.manifest, changed.packed.manifest);
}
