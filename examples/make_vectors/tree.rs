//! An index of refs: its signed root and its nodes, cut by a second reading of section 8.3.

use std::error::Error;

use serde_json::{Value, json};
use tenpak::format::id::to_hex;

use super::golden::{Objects, canonical, signed};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// 1 January 2100 and 1 January 2026.
const EXPIRES: u64 = 4_102_444_800;
const WRITTEN: u64 = 1_767_225_600;
/// Items of a node.
const MOST: usize = 64;

/// A third of the zero bits that a key's digest begins with.
fn rank(item: &Value) -> usize {
    let part = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
    let digest = blake3::hash(format!("{}\0{}", part("name"), part("tag")).as_bytes());
    let bits: String = digest.as_bytes().iter().map(|byte| format!("{byte:08b}")).collect();
    (bits.find('1').unwrap_or(bits.len()) / 3).min(12)
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = (0..60).map(|i| format!("demo/model-{i:02}")).collect();
    // So many that begin no node that one is cut by counting.
    let low = |name: &String| rank(&json!({"name": name, "tag": "latest"})) == 0;
    names.extend((0..).map(|i| format!("x{i:03}")).filter(low).take(MOST + 6));
    names.extend(["demo".to_owned(), "demo-2/a".to_owned(), "Z".to_owned()]);
    names.sort();
    names
}

/// The root and the nodes, and beside them what an empty index has.
pub fn golden(files: &mut Objects) -> Result<()> {
    let mut items = Vec::new();
    for name in names() {
        // `.` and `-` come before letters, and all tags of a name before the next name.
        let tags: &[&str] =
            if name == "demo" { &["latest", "v1", "v1.0", "v1-rc"] } else { &["latest"] };
        let mut tags = tags.to_vec();
        tags.sort_unstable();
        for tag in tags {
            let manifest = blake3::hash(format!("{name}:{tag}").as_bytes()).to_hex();
            items.push(json!({"manifest": manifest.as_str(), "name": name, "tag": tag,
                "version": WRITTEN * 1000 + items.len() as u64}));
        }
    }
    let mut height = 0;
    let top = loop {
        let mut nodes: Vec<Vec<Value>> = Vec::new();
        for item in items {
            let is_new = nodes.last().is_none_or(|last| last.len() == MOST) || rank(&item) > height;
            match nodes.last_mut() {
                Some(last) if !is_new => last.push(item),
                _ => nodes.push(vec![item]),
            }
        }
        items = Vec::new();
        for node in nodes {
            let key = if height == 0 { "refs" } else { "nodes" };
            let bytes =
                canonical(&json!({"format": "tenpak-refs-node", "height": height, key: node}))?;
            let id = to_hex(blake3::hash(&bytes).as_bytes());
            let first = &node[0];
            items.push(json!({"name": first["name"], "node": id, "tag": first["tag"]}));
            files.insert(format!("v1/tree/names/{id}"), bytes);
        }
        height += 1;
        if let [only] = items.as_slice() {
            break only["node"].clone();
        }
    };
    let root = json!({"expires": EXPIRES, "format": "tenpak-refs-root", "node": top,
        "version": WRITTEN * 1000 + 500});
    files.insert("v1/tree/refs/index".into(), signed("refs-root", root)?);
    let descriptor = json!({"format": "tenpak-store", "store_id": "7e".repeat(16), "version": 1});
    files.insert("v1/tree/tenpak.json".into(), canonical(&descriptor)?);
    let empty = canonical(&json!({"format": "tenpak-refs-node", "height": 0, "refs": []}))?;
    files.insert("v1/objects/refs-node-empty".into(), empty);
    Ok(())
}
