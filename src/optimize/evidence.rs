//! What earlier runs of this user, or of whoever is trusted, found of a model: which candidates were produced, and what they lose on which
//! text. A file for each store and model; every line stands alone, so that a run that was killed loses the line
//! that it was writing.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::error::OptimizeError;
use super::latency::Speed;
use super::quality::Window;
use super::workload::Workload;
use crate::format::id::{ContentDigest, ManifestId};
use crate::format::json;
use crate::format::limits::MAX_SMALL;
use crate::format::store as paths;
use crate::quantize::produce::{Bits, Recipe, TOOL, VERSION};
use crate::store::Store;

/// The largest file that is read.
const MAX: u64 = 1 << 30;

/// A line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Produced { key: ContentDigest, manifest: ManifestId },
    Read { key: ContentDigest, windows: Vec<Window> },
    Measured { key: ContentDigest, speed: Box<Speed> },
    Bits { key: ContentDigest, bits: Bits },
    Losses { key: ContentDigest, losses: Vec<(u32, f64)> },
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    path: Option<PathBuf>,
    produced: HashMap<ContentDigest, ManifestId>,
    windows: HashMap<ContentDigest, Vec<Window>>,
    speeds: HashMap<ContentDigest, Speed>,
    bits: HashMap<ContentDigest, Bits>,
    losses: HashMap<ContentDigest, Vec<(u32, f64)>>,
    /// What was published when it was opened.
    published: Vec<u8>,
}

/// What tells what a recipe makes of a model from anything else. `more` are the digest of the text that it is
/// calibrated with, and its bits.
pub(super) fn product_key(
    model: ContentDigest,
    recipe: Option<&Recipe>,
    more: &[String],
) -> Result<ContentDigest, OptimizeError> {
    let value = json!({
        "calibration": more, "model": model, "recipe": recipe, "tool": TOOL, "tool_version": VERSION,
    });
    Ok(ContentDigest::of(&json::to_bytes(&value)?))
}

/// What tells a candidate's losses on a text from anything else: tokens as the model reads them, by windows of
/// `context`; `by` is who read it, where that is not this program.
pub(super) fn text_key(
    product: ContentDigest,
    tokens: &[u32],
    context: usize,
    by: &[String],
) -> Result<ContentDigest, OptimizeError> {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    let mut value = json!({
        "context": context, "product": product, "tokens": ContentDigest::of(&bytes), "tool_version": VERSION,
    });
    if !by.is_empty() {
        value["by"] = json!(by);
    }
    Ok(ContentDigest::of(&json::to_bytes(&value)?))
}

/// What tells an artifact's speed from anything else; `on` is the hardware, and what runs there.
pub(super) fn speed_key(
    manifest: ManifestId,
    workload: &Workload,
    on: &Value,
) -> Result<ContentDigest, OptimizeError> {
    let requests = format!("{workload:?}");
    let value = json!({
        "manifest": manifest, "on": on, "tool_version": VERSION,
        "workload": ContentDigest::of(requests.as_bytes()),
    });
    Ok(ContentDigest::of(&json::to_bytes(&value)?))
}

impl Evidence {
    /// What is known of a model in this store. What cannot be read is as if it were not there.
    pub(super) fn open(
        store: &Store,
        model: ContentDigest,
        published: Vec<u8>,
        runtime: &Handle,
    ) -> Result<Self, OptimizeError> {
        let descriptor = runtime.block_on(store.read_optional(&paths::descriptor(), MAX_SMALL))?;
        let descriptor = descriptor.and_then(|bytes| paths::Descriptor::parse(&bytes).ok());
        // An identifier that is none could lead out of the folder.
        let descriptor = descriptor.filter(|descriptor| descriptor.check().is_ok());
        let folder = crate::trust::state_folder().map(|folder| folder.join("tenpak/optimized"));
        let path = descriptor
            .zip(folder)
            .map(|(own, folder)| folder.join(format!("{}-{model}.jsonl", own.store_id)));
        let mut evidence = Self { path, published, ..Self::default() };
        let small = |path: &PathBuf| fs::metadata(path).is_ok_and(|about| about.len() <= MAX);
        let bytes = evidence.path.as_ref().filter(|path| small(path));
        let bytes = bytes.and_then(|path| fs::read(path).ok()).unwrap_or_default();
        let published = std::mem::take(&mut evidence.published);
        evidence.read(&bytes);
        evidence.read(&published);
        evidence.published = published;
        Ok(evidence)
    }

    fn read(&mut self, lines: &[u8]) {
        for line in lines.split(|byte| *byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(Line::Produced { key, manifest }) => {
                    self.produced.insert(key, manifest);
                }
                Ok(Line::Read { key, windows }) => self.add(key, windows),
                Ok(Line::Measured { key, speed }) => {
                    self.speeds.insert(key, *speed);
                }
                Ok(Line::Bits { key, bits }) => {
                    self.bits.insert(key, bits);
                }
                Ok(Line::Losses { key, losses }) => {
                    self.losses.insert(key, losses);
                }
                Err(_) => {}
            }
        }
    }

    /// Everything as lines, in an order that does not depend on when it was found; none if that is published already.
    pub(super) fn unpublished(&self) -> Option<Vec<u8>> {
        let mut lines: Vec<(String, Line)> = Vec::new();
        let mut put = |key: &ContentDigest, line| lines.push((key.to_string(), line));
        for (key, manifest) in &self.produced {
            put(key, Line::Produced { key: *key, manifest: *manifest });
        }
        for (key, windows) in &self.windows {
            let mut windows = windows.clone();
            windows.sort_by_key(|own| own.place);
            put(key, Line::Read { key: *key, windows });
        }
        for (key, speed) in &self.speeds {
            put(key, Line::Measured { key: *key, speed: Box::new(*speed) });
        }
        for (key, bits) in &self.bits {
            put(key, Line::Bits { key: *key, bits: bits.clone() });
        }
        for (key, losses) in &self.losses {
            put(key, Line::Losses { key: *key, losses: losses.clone() });
        }
        lines.sort_by(|one, other| one.0.cmp(&other.0));
        let mut bytes = Vec::new();
        for line in lines.iter().filter_map(|(_, line)| serde_json::to_vec(line).ok()) {
            bytes.extend(line);
            bytes.push(b'\n');
        }
        (!bytes.is_empty() && bytes != self.published).then_some(bytes)
    }

    fn add(&mut self, key: ContentDigest, windows: Vec<Window>) {
        let known = self.windows.entry(key).or_default();
        for window in windows {
            // Two runs at once read the same.
            if !known.iter().any(|own| own.place == window.place) {
                known.push(window);
            }
        }
    }

    pub(super) fn produced(&self, key: ContentDigest) -> Option<ManifestId> {
        self.produced.get(&key).copied()
    }

    /// The windows that were read, in no order.
    pub(super) fn windows(&self, key: ContentDigest) -> &[Window] {
        self.windows.get(&key).map_or(&[], Vec::as_slice)
    }

    pub(super) fn note_produced(&mut self, key: ContentDigest, manifest: ManifestId) {
        self.produced.insert(key, manifest);
        self.write(&Line::Produced { key, manifest });
    }

    pub(super) fn note_windows(&mut self, key: ContentDigest, windows: Vec<Window>) {
        self.write(&Line::Read { key, windows: windows.clone() });
        self.add(key, windows);
    }

    pub(super) fn speed(&self, key: ContentDigest) -> Option<Speed> {
        self.speeds.get(&key).copied()
    }

    pub(super) fn note_speed(&mut self, key: ContentDigest, speed: Speed) {
        self.speeds.insert(key, speed);
        self.write(&Line::Measured { key, speed: Box::new(speed) });
    }

    /// Bits by layer, as a budget was spent.
    pub(super) fn bits(&self, key: ContentDigest) -> Option<&Bits> {
        self.bits.get(&key)
    }

    pub(super) fn note_bits(&mut self, key: ContentDigest, bits: Bits) {
        self.write(&Line::Bits { key, bits: bits.clone() });
        self.bits.insert(key, bits);
    }

    /// The loss that is expected of budgets of bits.
    pub(super) fn losses(&self, key: ContentDigest) -> Option<&Vec<(u32, f64)>> {
        self.losses.get(&key)
    }

    pub(super) fn note_losses(&mut self, key: ContentDigest, losses: Vec<(u32, f64)>) {
        self.write(&Line::Losses { key, losses: losses.clone() });
        self.losses.insert(key, losses);
    }

    /// What cannot be written is computed again.
    fn write(&self, line: &Line) {
        let (Some(path), Ok(mut line)) = (&self.path, serde_json::to_vec(line)) else { return };
        // Also ends what a run that was killed had begun.
        line.insert(0, b'\n');
        line.push(b'\n');
        let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
        let file =
            folder.and_then(|()| fs::OpenOptions::new().create(true).append(true).open(path));
        if let Ok(mut file) = file {
            drop(file.write_all(&line));
        }
    }
}
