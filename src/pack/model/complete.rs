//! Whether files are a whole model: shards, indexes, and the JSON that loaders read first.
//!
//! Only headers and small files are read. What a loader would stop at, or would load wrong without a word, is
//! a fault; what it ignores is none.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::fs::FileExt;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::error::ModelError;
use super::fault::{Fault, FaultKind};
use super::file::SourceFile;
use super::part::PartKind;

/// Files that loaders read as JSON objects, in whatever folder.
const OBJECTS: [&str; 18] = [
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "model_index.json",
    "params.json",
    "preprocessor_config.json",
    "processor_config.json",
    "quant_config.json",
    "quantize_config.json",
    "scheduler_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
];

/// JSON up to this size, or this part of the whole model, is parsed: packing takes much longer. Of what is longer,
/// the ends are looked at.
const PARSED: u64 = 128 << 10;
const PARSED_PART: u64 = 256;
/// The longest index: 250,000 tensors take 40 MiB.
const MAX_INDEX: u64 = 256 << 20;
/// How much of the end of a long file is looked at.
const END: u64 = 64;
/// Weights whose index may stay behind where a model was fetched in another format.
const WEIGHTS: [&str; 5] = ["safetensors", "bin", "pt", "pth", "gguf"];
/// What downloaders call what they have not finished, or put beside it.
const UNFINISHED: [&str; 4] = [".aria2", ".crdownload", ".incomplete", ".part"];
/// Missing files of one set that are named.
const NAMED: usize = 16;

/// What keeps the files, and links to what is not there, from being a model that can be loaded, in the order of paths.
pub(crate) fn faults(files: &[SourceFile], dangling: &[String]) -> Result<Vec<Fault>, ModelError> {
    let by_path: HashMap<&str, &SourceFile> =
        files.iter().map(|file| (file.path.as_str(), file)).collect();
    let dangling = dangling.iter().cloned();
    let mut found: Vec<_> =
        dangling.map(|path| Fault { path, kind: FaultKind::Dangling }).collect();
    let mut indexed = HashSet::new();
    let parsed = PARSED.max(files.iter().map(|file| file.size).sum::<u64>() / PARSED_PART);
    for file in files.iter().filter(|file| !file.opaque) {
        let mut add = |kind| found.push(Fault { path: file.path.clone(), kind });
        if let Some(fault) = &file.fault {
            add(fault.clone());
            continue;
        }
        if UNFINISHED.iter().any(|end| file.path.ends_with(end)) {
            add(FaultKind::Unfinished);
        }
        let (folder, name) = split(&file.path);
        if OBJECTS.contains(&name) {
            let fault = no_object(file, parsed)?;
            let is_object = fault.is_none();
            found.extend(fault);
            match name {
                "adapter_config.json" if is_object => found.extend(adapter(folder, &by_path)),
                "model_index.json" if is_object => parts(file, folder, &by_path, &mut found)?,
                _ => {}
            }
        } else if let Some(weights) = index_of(name) {
            indexed.insert((folder, weights));
            Index { file, folder, weights, by_path: &by_path }.check(&mut found)?;
        }
    }
    sets(&by_path, &indexed, &mut found);
    found.sort_by(|a, b| (&a.path, a.kind.word()).cmp(&(&b.path, b.kind.word())));
    // That it is a link, which comes first, says more than who asks for it.
    found.dedup_by(|next, first| next.path == first.path && first.kind == FaultKind::Dangling);
    Ok(found)
}

/// The folder of a path, with its slash, and the name.
fn split(path: &str) -> (&str, &str) {
    path.split_at(path.rfind('/').map_or(0, |slash| slash + 1))
}

/// The extension of the weights whose index a file of this name is: `model.safetensors.index.json`, or
/// with a variant, `model.safetensors.index.fp16.json`.
fn index_of(name: &str) -> Option<&str> {
    let (weights, rest) = name.split_once(".index.")?;
    let variant = rest.strip_suffix("json")?;
    let of = weights.rsplit_once('.')?.1;
    (variant.is_empty() || variant.ends_with('.')).then_some(of)
}

/// All of a file of at most `limit` bytes.
fn read(file: &SourceFile, limit: u64) -> Result<Option<Vec<u8>>, ModelError> {
    let Some(len) = usize::try_from(file.size).ok().filter(|_| file.size <= limit) else {
        return Ok(None);
    };
    let mut bytes = vec![0; len];
    file.file.read_exact_at(&mut bytes, 0).map_err(ModelError::io(&file.location))?;
    Ok(Some(bytes))
}

/// The same JSON with zeros for `NaN` and `Infinity`, which Python reads and writes.
fn without_nan(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let (mut at, mut quoted) = (0, false);
    while let Some(rest) = out.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let word = match rest {
            [b'\\', ..] if quoted => 2,
            [b'"', ..] => {
                quoted = !quoted;
                1
            }
            rest if !quoted => {
                let words = [&b"NaN"[..], b"Infinity"];
                let word = words.iter().find(|word| rest.starts_with(word)).map(|word| word.len());
                if let Some(word) = word.and_then(|len| rest.get_mut(..len)) {
                    word.fill(b' ');
                    word.first_mut().into_iter().for_each(|first| *first = b'0');
                }
                word.unwrap_or(1)
            }
            _ => 1,
        };
        at += word;
    }
    out
}

/// The object that JSON as Python reads it holds.
fn object<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, String> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err("it is empty".to_owned());
    }
    std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {}
        Some(0xef) => return Err("it begins with a byte order mark".to_owned()),
        _ => return Err("it does not begin with {".to_owned()),
    }
    let read = serde_json::from_slice(bytes);
    let read = read.or_else(|error| serde_json::from_slice(&without_nan(bytes)).map_err(|_| error));
    read.map_err(|error| error.to_string())
}

/// Why the file holds no JSON object, if so.
fn no_object(file: &SourceFile, parsed: u64) -> Result<Option<Fault>, ModelError> {
    let why = match read(file, parsed)? {
        Some(bytes) => object::<IgnoredObject>(&bytes).err(),
        None => {
            let (mut first, mut last) = ([0; END as usize], [0; END as usize]);
            let io = |error| ModelError::io(&file.location)(error);
            file.file.read_exact_at(&mut first, 0).map_err(io)?;
            file.file.read_exact_at(&mut last, file.size - END).map_err(io)?;
            let solid = |byte: &&u8| !byte.is_ascii_whitespace();
            match (first.iter().find(solid), last.iter().rev().find(solid)) {
                (Some(b'{'), Some(b'}')) => None,
                (Some(b'{'), _) => Some("it does not end with }".to_owned()),
                _ => Some("it does not begin with {".to_owned()),
            }
        }
    };
    let fault = |why| Fault { path: file.path.clone(), kind: FaultKind::NoJson(why) };
    Ok(why.map(fault))
}

/// What an adapter's configuration asks for: weights beside it, of whatever name.
fn adapter(folder: &str, by_path: &HashMap<&str, &SourceFile>) -> Option<Fault> {
    let is_weights = |path: &&str| {
        let (of, name) = split(path);
        of == folder && name.rsplit_once('.').is_some_and(|(_, end)| WEIGHTS.contains(&end))
    };
    let path = format!("{folder}adapter_model.safetensors");
    let kind = FaultKind::ShardMissing { by: format!("{folder}adapter_config.json") };
    (!by_path.keys().any(is_weights)).then_some(Fault { path, kind })
}

/// Looks for folders that a pipeline's index names, each with a library and a class, and that have no file.
fn parts(
    file: &SourceFile,
    folder: &str,
    by_path: &HashMap<&str, &SourceFile>,
    found: &mut Vec<Fault>,
) -> Result<(), ModelError> {
    let Some(bytes) = read(file, PARSED)? else { return Ok(()) };
    let Ok(index) = object::<BTreeMap<String, Value>>(&bytes) else { return Ok(()) };
    for (name, part) in index {
        let is_part = !name.starts_with('_')
            && part.as_array().is_some_and(|of| of.len() == 2 && of.iter().all(Value::is_string));
        let path = format!("{folder}{name}/");
        if is_part && !by_path.keys().any(|file| file.starts_with(&path)) {
            let kind = FaultKind::ShardMissing { by: file.path.clone() };
            found.push(Fault { path, kind });
        }
    }
    Ok(())
}

/// Any object, of which nothing is kept.
#[derive(Deserialize)]
#[serde(transparent)]
struct IgnoredObject(IgnoredAny);

#[derive(Deserialize)]
struct WeightMap {
    weight_map: BTreeMap<String, String>,
}

/// An index of shards.
struct Index<'a> {
    file: &'a SourceFile,
    folder: &'a str,
    weights: &'a str,
    by_path: &'a HashMap<&'a str, &'a SourceFile>,
}

impl Index<'_> {
    fn fault(&self, kind: FaultKind) -> Fault {
        Fault { path: self.file.path.clone(), kind }
    }

    /// Whether weights of another format lie in the folder, and none of this index's: then it is not used.
    fn is_left_behind(&self, shards: &BTreeSet<&String>) -> bool {
        let is_there = |shard: &&&String| self.by_path.contains_key(self.path(shard).as_str());
        let other = |path: &&str| {
            let (folder, name) = split(path);
            let end = name.rsplit_once('.').map_or("", |(_, end)| end);
            folder == self.folder && end != self.weights && WEIGHTS.contains(&end)
        };
        // Loaders take safetensors first: they do use that index.
        self.weights != "safetensors"
            && !shards.iter().any(|shard| is_there(&shard))
            && self.by_path.keys().any(other)
    }

    fn path(&self, shard: &str) -> String {
        format!("{}{shard}", self.folder)
    }

    fn check(&self, found: &mut Vec<Fault>) -> Result<(), ModelError> {
        let Some(bytes) = read(self.file, MAX_INDEX)? else {
            let why = format!("it has {} bytes", self.file.size);
            found.push(self.fault(FaultKind::NoJson(why)));
            return Ok(());
        };
        let map = match object::<WeightMap>(&bytes) {
            Ok(index) => index.weight_map,
            Err(why) => {
                found.push(self.fault(FaultKind::NoJson(why)));
                return Ok(());
            }
        };
        if map.is_empty() {
            // Loaders would leave all weights as they are made.
            let is_shard = |path: &&str| {
                let (of, name) = split(path);
                of == self.folder && name.ends_with(&format!(".{}", self.weights))
            };
            if self.by_path.keys().any(is_shard) {
                found.push(self.fault(FaultKind::NoJson("weight_map names no tensor".to_owned())));
            }
            return Ok(());
        }
        let shards: BTreeSet<&String> = map.values().collect();
        if self.is_left_behind(&shards) {
            return Ok(());
        }
        let mut holders: HashMap<&str, &str> = HashMap::new();
        // Shards whose tensors are known.
        let mut known = HashSet::new();
        for shard in shards {
            let path = self.path(shard);
            let Some(file) = self.by_path.get(path.as_str()) else {
                let by = self.file.path.clone();
                found.push(Fault { path, kind: FaultKind::ShardMissing { by } });
                continue;
            };
            if !file.knows_tensors() {
                continue;
            }
            known.insert(shard.as_str());
            // What two shards hold, by the other one.
            let mut twice: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
            for name in names(file) {
                if let Some(other) = holders.insert(name, shard) {
                    twice.entry(other).and_modify(|(_, more)| *more += 1).or_insert((name, 0));
                }
            }
            found.extend(twice.into_iter().map(|(other, (tensor, more))| {
                let (tensor, other) = (tensor.to_owned(), other.to_owned());
                let kind = FaultKind::TensorTwice { tensor, more, other };
                Fault { path: path.clone(), kind }
            }));
        }
        self.check_tensors(&map, &holders, &known, found);
        Ok(())
    }

    /// Compares where tensors are said to be with where they are.
    fn check_tensors(
        &self,
        map: &BTreeMap<String, String>,
        holders: &HashMap<&str, &str>,
        known: &HashSet<&str>,
        found: &mut Vec<Fault>,
    ) {
        let mut wrong: BTreeMap<(&str, Option<&str>), (&str, usize)> = BTreeMap::new();
        for (tensor, shard) in map.iter().filter(|(_, shard)| known.contains(shard.as_str())) {
            let holder = holders.get(tensor.as_str()).copied();
            // One that two shards hold was told already.
            let twice = || {
                let own = self.by_path.get(self.path(shard).as_str());
                own.is_some_and(|file| names(file).any(|name| name == tensor))
            };
            if holder == Some(shard.as_str()) || (holder.is_some() && twice()) {
                continue;
            }
            let key = (shard.as_str(), holder);
            wrong.entry(key).and_modify(|(_, more)| *more += 1).or_insert((tensor, 0));
        }
        found.extend(wrong.into_iter().map(|((shard, holder), (tensor, more))| {
            let (tensor, shard) = (tensor.to_owned(), shard.to_owned());
            self.fault(match holder {
                None => FaultKind::TensorMissing { tensor, more, shard },
                Some(found) => {
                    let found = found.to_owned();
                    FaultKind::TensorElsewhere { tensor, more, named: shard, found }
                }
            })
        }));
    }
}

/// The names of a file's tensors.
fn names(file: &SourceFile) -> impl Iterator<Item = &str> {
    file.parts.iter().filter_map(|part| match &part.kind {
        PartKind::Tensor { name, .. } => Some(name.as_str()),
        PartKind::Content => None,
    })
}

/// The place of a file in a set: `model-00002-of-00005.safetensors` is the second of five.
struct Member<'a> {
    /// What comes before the number, and behind the count.
    set: (&'a str, &'a str, &'a str),
    number: u64,
    digits: usize,
}

fn member(path: &str) -> Option<Member<'_>> {
    let (stem, end) = path.rsplit_once('.').filter(|(_, end)| WEIGHTS.contains(end))?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (before, number) = rest.rsplit_once('-')?;
    let is_number =
        |text: &str| (1..10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some(())?;
    let (digits, number) = (number.len(), number.parse().ok()?);
    Some(Member { set: (before, count, end), number, digits })
}

/// What the numbered files of one set have in common: their name without the number.
pub(super) fn set_of(name: &str) -> Option<String> {
    let (before, count, end) = member(name)?.set;
    Some(format!("{before}-of-{count}.{end}"))
}

/// The files of a set by their numbers, each with the digits of its own.
type Members<'a> = BTreeMap<u64, (usize, &'a SourceFile)>;

/// Looks for gaps in sets of numbered files that no index lists, and for what two files of a set hold.
fn sets(
    by_path: &HashMap<&str, &SourceFile>,
    indexed: &HashSet<(&str, &str)>,
    found: &mut Vec<Fault>,
) {
    let mut sets: BTreeMap<(&str, &str, &str), Members<'_>> = BTreeMap::new();
    for (path, file) in by_path {
        let Some(member) = member(path) else { continue };
        if !file.opaque && !indexed.contains(&(split(path).0, member.set.2)) {
            sets.entry(member.set).or_default().insert(member.number, (member.digits, file));
        }
    }
    for ((before, count, end), members) in sets {
        let Some((&first, &(digits, file))) = members.first_key_value() else { continue };
        let from = first.min(1);
        let Ok(count_of) = count.parse::<u64>() else { continue };
        let numbers = from..from.saturating_add(count_of);
        let missing = numbers.filter(|number| !members.contains_key(number)).take(NAMED);
        found.extend(missing.map(|number| {
            let path = format!("{before}-{number:0digits$}-of-{count}.{end}");
            Fault {
                path,
                kind: FaultKind::ShardMissing { by: format!("the name of {}", file.path) },
            }
        }));
        let mut holders: HashMap<&str, &str> = HashMap::new();
        for (_, file) in members.values() {
            let twice = |name| Some((name, holders.insert(name, &file.path)?));
            let mut twice = names(file).filter_map(twice);
            if let Some((tensor, other)) = twice.next() {
                let (more, other) = (twice.count(), other.to_owned());
                let kind = FaultKind::TensorTwice { tensor: tensor.to_owned(), more, other };
                found.push(Fault { path: file.path.clone(), kind });
            }
        }
    }
}
