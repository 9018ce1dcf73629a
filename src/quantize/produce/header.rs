//! The layout of a safetensors file that is to be written. Pure.

use serde_json::{Map, Value, json};

use crate::format::dtype::{Dtype, Shape};
use crate::pack::model::{Part, PartKind};

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Shape,
}

impl Entry {
    pub(super) fn byte_len(&self) -> u64 {
        self.shape.byte_len(self.dtype).unwrap_or(u64::MAX)
    }

    /// Whether whatever follows it is aligned to 8 bytes where it is itself.
    fn is_even(&self) -> bool {
        self.byte_len().is_multiple_of(8)
    }
}

/// The order in which tensors lie in a file: as they are given, but those of an odd length last, the
/// widest elements first. Every tensor then begins at a multiple of its element's size, which readers
/// that map files rely on.
pub(super) fn order<T>(tensors: &mut [T], entry: impl Fn(&T) -> &Entry) {
    tensors.sort_by_key(|tensor| {
        let entry = entry(tensor);
        let width = entry.dtype.size().unwrap_or(1);
        if entry.is_even() { (false, 0) } else { (true, u64::MAX - width) }
    });
}

/// The header's bytes, its length first, and the parts of the file.
pub(super) fn layout(entries: &[&Entry]) -> (Vec<u8>, Vec<Part>) {
    let mut object = Map::new();
    // Readers of transformers want to be told which framework wrote the file.
    object.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for entry in entries {
        let end = at + entry.byte_len();
        let value = json!({
            "dtype": entry.dtype.name(), "shape": entry.shape.dims(), "data_offsets": [at, end],
        });
        object.insert(entry.name.clone(), value);
        at = end;
    }
    let mut text = Value::Object(object).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    let mut offset = header.len() as u64;
    let mut parts = vec![Part { offset: 0, len: offset, kind: PartKind::Content }];
    for entry in entries {
        let len = entry.byte_len();
        let (name, dtype, shape) = (entry.name.clone(), entry.dtype, entry.shape.clone());
        parts.push(Part { offset, len, kind: PartKind::Tensor { name, dtype, shape } });
        offset += len;
    }
    (header, parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_aligned_and_the_file_is_safetensors() {
        let entry = |name: &str, dtype, dims: &[u64]| Entry {
            name: name.to_owned(),
            dtype,
            shape: Shape::new(dims.to_vec()).unwrap(),
        };
        let mut entries = vec![
            entry("state", Dtype::U8, &[13]),
            entry("codes", Dtype::U8, &[16, 1]),
            entry("norm", Dtype::BF16, &[3]),
            entry("absmax", Dtype::F32, &[5]),
            entry("scalar", Dtype::U8, &[]),
            entry("more", Dtype::F32, &[4]),
        ];
        order(&mut entries, |entry| entry);
        let (header, parts) = layout(&entries.iter().collect::<Vec<_>>());
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["codes", "more", "absmax", "norm", "state", "scalar"]);
        for (part, entry) in parts[1..].iter().zip(&entries) {
            let data = part.offset - header.len() as u64;
            assert!(data.is_multiple_of(entry.dtype.size().unwrap()), "{}", entry.name);
        }
        let end = parts.last().map(|part| part.offset + part.len).unwrap();
        let file = [header, vec![0; end as usize]].concat();
        let read = safetensors::SafeTensors::deserialize(&file[..end as usize]).unwrap();
        assert_eq!(read.tensor("norm").unwrap().shape(), [3]);
    }
}
