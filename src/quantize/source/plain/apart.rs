//! Weights that lie together in one tensor, or are stored by columns, each as a tensor of its own.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::{ModelSource, SourceError};
use super::made::{From, Made};
use super::piece::Piece;
use super::view::{Builder, finish};
use crate::format::dtype::Shape;
use crate::gguf::names::Change;

impl ModelSource {
    /// The same model with `pieces` in place of the tensors, by number, that they are parts of.
    ///
    /// # Errors
    /// If two tensors would have one name.
    pub(in crate::quantize) fn in_pieces(
        self: Arc<Self>,
        mut pieces: HashMap<usize, Vec<Piece>>,
    ) -> Result<Arc<Self>, SourceError> {
        let mut tensors = Vec::new();
        for (at, tensor) in self.tensors().iter().enumerate() {
            let defect = || SourceError::Defect(tensor.name.clone());
            let path = self.files().get(tensor.file).map(|file| file.path.clone());
            let path = path.ok_or_else(defect)?;
            let dtype = tensor.dtype;
            let made = |name, shape, from| Made {
                name,
                dtype,
                shape,
                from,
                slice: None,
                change: Change::Same,
                matrices: 1,
            };
            match pieces.remove(&at) {
                None => {
                    let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
                    tensors.push((path, made(name, shape, From::Stored(at))));
                }
                Some(own) => {
                    for piece in own {
                        let shape = Shape::new(piece.dims.clone()).ok_or_else(defect)?;
                        let name = piece.name.clone();
                        tensors.push((path.clone(), made(name, shape, From::Piece(at, piece))));
                    }
                }
            }
        }
        let was = self.was().map(str::to_owned);
        let mut builder = Builder::new(self);
        builder.is_apart = true;
        finish(builder, tensors, was).map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two matrices of four rows and three columns, by rows, then by columns, as bytes that count up.
    #[test]
    fn pieces_are_rows_of_a_matrix() {
        let folder = std::env::temp_dir().join(format!("tenpak-pieces-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let header = r#"{"a":{"dtype":"U8","shape":[2,4,3],"data_offsets":[0,24]}}  "#;
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend(0..24_u8);
        std::fs::write(folder.join("model.safetensors"), file).unwrap();
        std::fs::write(folder.join("config.json"), "{}").unwrap();
        let source = Arc::new(ModelSource::folder(&folder).unwrap());
        let piece = |name: &str, rows, transposed, dims: [u64; 2]| Piece {
            name: name.to_owned(),
            dims: dims.to_vec(),
            of: (1, 2),
            transposed,
            rows,
            linear: true,
        };
        let pieces = vec![
            piece("half", (2, 1), false, [2, 3]),
            piece("odd", (1, 2), false, [2, 3]),
            piece("turned", (0, 2), true, [2, 4]),
            piece("beyond", (3, 2), false, [2, 3]),
        ];
        let apart = source.in_pieces(HashMap::from([(0, pieces)])).unwrap();
        let of = |name: &str| apart.read_tensor(apart.tensor(name).unwrap());
        assert_eq!(of("half").unwrap().as_ref(), [18, 19, 20, 21, 22, 23]);
        assert_eq!(of("odd").unwrap().as_ref(), [15, 16, 17, 21, 22, 23]);
        // By columns the matrix has four columns of three rows.
        assert_eq!(of("turned").unwrap().as_ref(), [12, 15, 18, 21, 14, 17, 20, 23]);
        assert!(of("beyond").is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
