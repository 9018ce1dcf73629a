//! `tenpak inspect`.

use serde_json::{Value, json};

use super::error::Failure;
use super::output::Output;
use super::{Global, artifact, bytes};
use crate::format::id::to_hex;
use crate::format::manifest::Incomplete;
use crate::format::name::ArtifactSpec;
use crate::format::page::{FileEntry, TensorEntry};
use crate::format::time;
use crate::maintain::{ArtifactUsage, Encoding, Inspection, artifact_usage, inspect, signatures};
use crate::quantize::lm::LmConfig;
use crate::store::artifact::Artifact;
use crate::store::{ArtifactGraph, Resolved, unix_now};
use crate::trust::{KeyId, Method, TrustSet};

#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// The artifact to show
    #[arg(value_parser = artifact)]
    artifact: ArtifactSpec,
}

/// A signature file, and whether it counts; `None` if nobody is trusted.
struct Signature {
    key: String,
    method: String,
    trusted: Option<bool>,
}

impl Signature {
    fn to_json(&self) -> Value {
        json!({"key": self.key, "method": self.method, "trusted": self.trusted})
    }
}

async fn signed_by(artifact: &Artifact, trust: &TrustSet) -> Result<Vec<Signature>, Failure> {
    let mut all = Vec::new();
    for (path, content) in signatures(artifact, trust).await? {
        let Some(file) = path.as_str().rsplit('/').next() else { continue };
        let Some((key, method)) = file.rsplit_once('.') else { continue };
        let known: Option<(KeyId, Method)> = trust
            .key_ids()
            .find(|(id, m)| id.as_str() == key && m.as_str() == method)
            .map(|(id, m)| (id.clone(), m));
        let trusted = known.is_some_and(|(id, m)| {
            let one = [(id, m, content)];
            let (name, id) = (artifact.resolved().name(), artifact.id());
            let now = unix_now();
            trust.verify_manifest(name, id, artifact.manifest_bytes(), &one, now).is_ok()
        });
        let trusted = (!trust.is_empty()).then_some(trusted);
        all.push(Signature { key: key.to_owned(), method: method.to_owned(), trusted });
    }
    Ok(all)
}

/// The largest `config.json` that is looked at.
const MAX_CONFIG: u64 = 16 << 20;

/// The family of a language model, or which piece of it no description has; `None` for what is none, or does not
/// say.
async fn family(artifact: &Artifact) -> Option<Result<String, String>> {
    let bytes = artifact.file("config.json", MAX_CONFIG).await.ok()??;
    let config: Value = serde_json::from_slice(&bytes).ok()?;
    config.get("model_type")?;
    Some(LmConfig::parse(&config).map(|found| found.family).map_err(|error| error.to_string()))
}

fn file_json(file: &FileEntry) -> Value {
    json!({
        "path": file.path,
        "size": file.size,
        "executable": file.executable,
        "sha256": (file.sha256 != [0; 32]).then(|| to_hex(&file.sha256)),
        "git_sha1": file.git_sha1.map(|digest| to_hex(&digest)),
        "extents": file.extents.len(),
    })
}

fn tensor_json(whole: &ArtifactGraph, ordinal: usize, tensor: &TensorEntry) -> Value {
    let (grid, encoding) = (tensor.grid, Encoding::of_tensor(whole, ordinal));
    json!({
        "name": tensor.name,
        "file": whole.files.get(tensor.file as usize).map(|(file, _)| &file.path),
        "dtype": tensor.dtype.name(),
        "shape": tensor.shape.dims(),
        "bytes": tensor.byte_len(),
        "digest": tensor.digest,
        "grid": {
            "leading": grid.leading, "rows": grid.rows, "row_bytes": grid.row_bytes,
            "block_rows": grid.block_rows, "band_bytes": grid.band_bytes,
        },
        "chunks": encoding.chunks,
        "stored_bytes": encoding.stored_bytes,
        "ratio": ratio(tensor.byte_len(), encoding.stored_bytes),
        "bits_per_weight": bits_per_weight(tensor.shape.elements(), encoding.stored_bytes),
        "codecs": encoding.codecs,
        "base_chunks": encoding.base_chunks,
        "base_bytes": encoding.base_bytes,
    })
}

/// How many times smaller than its bytes something is stored; `None` where nothing is.
fn ratio(bytes: u64, stored: u64) -> Option<f64> {
    (stored > 0).then(|| bytes as f64 / stored as f64)
}

/// Stored bits of each element; `None` where there is none.
fn bits_per_weight(elements: Option<u64>, stored: u64) -> Option<f64> {
    elements.filter(|&n| n > 0).map(|n| 8.0 * stored as f64 / n as f64)
}

impl Inspect {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let trust = global.trust()?;
        let artifact = global.open(&self.artifact, output).await?;
        let (whole, found) = (artifact.graph().await?, artifact.resolved());
        let signatures = signed_by(&artifact, &trust).await?;
        // A host that cannot tell its other artifacts leaves sharing unknown.
        let usage = artifact_usage(artifact.store(), whole.id).await.ok();
        let look = inspect(&whole);
        let family = family(&artifact).await;
        let by = found.by.as_ref().map(|envelope| envelope.body());
        let ref_keys: Vec<&str> =
            found.by.iter().flat_map(|e| e.claimed_keys()).map(KeyId::as_str).collect();
        let tensors = whole.tensors.iter().enumerate();
        let object = json!({
            "manifest": whole.id,
            "name": by.map(|body| &body.name),
            "tag": by.map(|body| &body.tag),
            "version": by.map(|body| body.version),
            "expires": by.map(|body| body.expires),
            "ref_signed_by": ref_keys,
            "model_id": whole.manifest.model_id,
            "quantization": whole.manifest.quantization,
            "delta": whole.manifest.delta,
            "family": family.as_ref().and_then(|found| found.as_ref().ok()),
            "not_run": family.as_ref().and_then(|found| found.as_ref().err()),
            "optimization": whole.manifest.optimization,
            "source": whole.manifest.source,
            "incomplete": whole.manifest.incomplete,
            "totals": whole.manifest.totals,
            "usage": usage,
            "codecs": look.all.codecs,
            "base_chunks": look.all.base_chunks,
            "base_bytes": look.all.base_bytes,
            "signatures": signatures.iter().map(Signature::to_json).collect::<Vec<_>>(),
            "files": whole.files.iter().map(|(file, _)| file_json(file)).collect::<Vec<_>>(),
            "tensors": tensors.map(|(i, (t, _))| tensor_json(&whole, i, t)).collect::<Vec<_>>(),
        });
        output.result(object, || {
            let not_run = family.and_then(Result::err);
            let not_run = not_run.map(|why| format!("not run    {why}\n")).unwrap_or_default();
            not_run + &text(found, &whole, &signatures, usage.as_ref(), &look, &ref_keys)
        })
    }
}

fn text(
    found: &Resolved,
    whole: &ArtifactGraph,
    signatures: &[Signature],
    usage: Option<&ArtifactUsage>,
    look: &Inspection,
    ref_keys: &[&str],
) -> String {
    let totals = whole.manifest.totals;
    let mut text = format!("manifest   {}\n", whole.id);
    if let Some(model) = &whole.manifest.model_id {
        text += &format!("model      {model}\n");
    }
    for Incomplete { path, fault } in &whole.manifest.incomplete {
        text += &format!("incomplete {path} ({})\n", fault.replace('_', " "));
    }
    if let Some(by) = found.by.as_ref().map(|envelope| envelope.body()) {
        let days = by.expires.saturating_sub(unix_now()) / (24 * 60 * 60);
        let signed = match ref_keys {
            [] => "unsigned".to_owned(),
            keys => format!("signed by {}", keys.join(", ")),
        };
        let (version, date) = (time::version(by.version), time::date(by.expires));
        text += &format!("name       {}:{}, version {version}, {signed}, ", by.name, by.tag);
        text += &if by.expires <= unix_now() {
            format!("expired on {date}\n")
        } else {
            format!("expires on {date}, in {days} days\n")
        };
    }
    for signature in signatures {
        let trusted = match signature.trusted {
            None => "nobody is trusted",
            Some(true) => "trusted",
            Some(false) => "not trusted",
        };
        text += &format!("signature  {} {} ({trusted})\n", signature.method, signature.key);
    }
    if signatures.is_empty() {
        text += "signature  none\n";
    }
    if let Some(optimization) = &whole.manifest.optimization {
        text += &chosen(optimization);
    }
    let smaller = totals.raw_bytes as f64 / totals.stored_bytes.max(1) as f64;
    let codecs = look.all.codecs.iter().map(|(codec, n)| format!("{n} {codec}"));
    text += &format!(
        "size       {} raw, {} stored ({smaller:.2}x), {} chunks: {}\n",
        bytes::size(totals.raw_bytes),
        bytes::size(totals.stored_bytes),
        totals.chunks,
        codecs.collect::<Vec<_>>().join(", ")
    );
    if look.all.base_chunks > 0 {
        text += &format!(
            "bases      {} of what is stored, in {} chunks, only for others to be stored against\n",
            bytes::size(look.all.base_bytes),
            look.all.base_chunks
        );
    }
    if let Some(usage) = usage {
        text += &format!(
            "sharing    {} shared with other artifacts, {} only here, {} used again within\n",
            bytes::size(usage.shared_bytes),
            bytes::size(usage.unique_bytes),
            bytes::size(look.repeated_bytes)
        );
    }
    let mut rows = vec![["FILE", "SIZE"].map(str::to_owned).to_vec()];
    rows.extend(whole.files.iter().map(|(f, _)| vec![f.path.clone(), bytes::size(f.size)]));
    text += &format!("\n{}", bytes::table(&rows));
    if !look.groups.is_empty() {
        let based = look.groups.iter().any(|group| group.encoding.base_chunks > 0);
        let heading =
            ["TENSOR", "COUNT", "TYPE", "SHAPE", "SIZE", "STORED", "RATIO", "BITS", "CODECS"];
        let mut heading = heading.map(str::to_owned).to_vec();
        heading.extend(based.then(|| "BASES".to_owned()));
        let mut rows = vec![heading];
        for group in &look.groups {
            let shape = group.shape.dims().iter().map(u64::to_string).collect::<Vec<_>>();
            let stored = group.encoding.stored_bytes;
            let elements = group.shape.elements().and_then(|n| n.checked_mul(group.count));
            let codecs = group.encoding.codecs.keys().cloned().collect::<Vec<_>>();
            let mut row = vec![
                group.name.clone(),
                group.count.to_string(),
                group.dtype.name().to_owned(),
                format!("[{}]", shape.join(", ")),
                bytes::size(group.bytes),
                bytes::size(group.encoding.stored_bytes),
                ratio(group.bytes, stored).map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
                bits_per_weight(elements, stored)
                    .map_or_else(String::new, |bits| format!("{bits:.2}")),
                codecs.join(", "),
            ];
            row.extend(based.then(|| bytes::size(group.encoding.base_bytes)));
            rows.push(row);
        }
        text += &format!("\n{}", bytes::table(&rows));
    }
    text
}

/// Why the artifact was chosen among others, on one line.
fn chosen(optimization: &serde_json::Map<String, serde_json::Value>) -> String {
    let said = |key: &str| optimization.get(key).and_then(serde_json::Value::as_str);
    let part = |key: &str, before: &str, after: &str| {
        said(key).map(|own| format!("{before}{own}{after}")).unwrap_or_default()
    };
    let currency = said("currency").unwrap_or_default();
    format!(
        "chosen     {}{}{}{}\n",
        said("selected_method").unwrap_or("by nobody knows what"),
        part("hardware", " for ", ""),
        part("cost_per_1m_tokens", ", ", &format!(" {currency} per million tokens")),
        part("latency_p50_ms", ", ", " ms")
    )
}
