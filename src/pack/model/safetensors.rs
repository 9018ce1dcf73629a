//! The parts of a safetensors file: its header, then one tensor after the other.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use safetensors::SafeTensors;

use super::error::{Malformed, ModelError};
use super::part::{Part, PartKind};
use crate::format::dtype::{Dtype, Shape};
use crate::format::limits::MAX_NAME;

/// The parts of the file of `size` bytes, in order, covering it exactly.
pub(super) fn parts(
    file: &File,
    size: u64,
    (path, location): (&str, &Path),
) -> Result<Vec<Part>, ModelError> {
    let wrong = |why: String| {
        let (location, path) = (location.to_owned(), path.to_owned());
        ModelError::Safetensors(vec![Malformed { location, path, why }])
    };
    if size == 0 {
        return Err(wrong("it is empty".to_owned()));
    }
    // SAFETY: the mapping is read only here, while the header is parsed. A file that shrinks
    // meanwhile ends the process with SIGBUS, as for every reader of safetensors; nothing that was
    // written to a store depends on it.
    let map = unsafe { Mmap::map(file) }.map_err(ModelError::io(location))?;
    let (header, metadata) =
        SafeTensors::read_metadata(&map).map_err(|error| wrong(error.to_string()))?;
    let data = 8 + header as u64;
    let mut parts = vec![Part { offset: 0, len: data, kind: PartKind::Content }];
    for name in metadata.offset_keys() {
        let info = metadata.info(&name).ok_or_else(|| wrong(format!("{name:?} is missing")))?;
        let tensor = |why: String| wrong(format!("tensor {name:?}: {why}"));
        if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
            return Err(tensor(format!("a name has 1 to {MAX_NAME} bytes, none of them control")));
        }
        let spelled = info.dtype.to_string();
        let dtype = Dtype::from_name(&spelled)
            .ok_or_else(|| tensor(format!("its element type {spelled} is not known")))?;
        let shape = Shape::new(info.shape.iter().map(|&d| d as u64).collect())
            .ok_or_else(|| tensor("it has more than 16 dimensions".to_owned()))?;
        let (start, end) = info.data_offsets;
        let (offset, len) = (data + start as u64, (end - start) as u64);
        if shape.byte_len(dtype) != Some(len) {
            return Err(tensor(format!("{shape} of {dtype} does not take {len} bytes")));
        }
        parts.push(Part { offset, len, kind: PartKind::Tensor { name, dtype, shape } });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::super::SourceFile;
    use super::*;

    fn open(header: &str, data: usize) -> Result<Vec<Part>, ModelError> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend(vec![0; data]);
        open_bytes(&bytes)
    }

    fn open_bytes(bytes: &[u8]) -> Result<Vec<Part>, ModelError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        SourceFile::open("m.safetensors".into(), file.path().to_owned()).map(|f| f.parts)
    }

    #[test]
    fn odd_but_valid_files_are_covered_exactly() {
        let parts = open(
            r#"{"__metadata__":{"a":"b"},"z":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]},
            "s":{"dtype":"BF16","shape":[],"data_offsets":[0,2]},
            "f4":{"dtype":"F4","shape":[4],"data_offsets":[2,4]}}   "#,
            4,
        )
        .unwrap();
        let mut at = 0;
        for part in &parts {
            assert_eq!(part.offset, at);
            at += part.len;
        }
        assert_eq!(parts.len(), 4);
        assert!(open("{}", 0).is_ok_and(|parts| parts.len() == 1));
    }

    #[test]
    fn broken_files_are_refused() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let wide = format!("[{}]", ["1"; 17].join(","));
        let long = one("U8", "[1]", "[0,1]").replace("\"a\"", &format!("\"{}\"", "n".repeat(1025)));
        for (header, data) in [
            (one("U8", "[4]", "[0,4]"), 3),
            (one("U8", "[4]", "[0,4]"), 5),
            (one("U8", "[4]", "[1,5]"), 5),
            (one("U8", "[5]", "[0,4]"), 4),
            (one("X9", "[4]", "[0,4]"), 4),
            (one("F4", "[3]", "[0,2]"), 2),
            (one("U8", "[4611686018427387904,8]", "[0,4]"), 4),
            (one("U8", &wide, "[0,1]"), 1),
            (long, 1),
            (
                r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                "b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#
                    .to_owned(),
                3,
            ),
            (
                r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                "a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#
                    .to_owned(),
                4,
            ),
            ("[]".to_owned(), 0),
            ("{".to_owned(), 0),
        ] {
            let error = open(&header, data).unwrap_err();
            assert!(matches!(error, ModelError::Safetensors(_)), "{header}: {error}");
        }
        let huge = [&(1_u64 << 60).to_le_bytes()[..], b"{}"].concat();
        for bytes in [&b""[..], b"\0\0", &huge] {
            assert!(matches!(open_bytes(bytes), Err(ModelError::Safetensors(_))));
        }
    }
}
