//! A quantized model, or one of GGUF, as one of plain floats: what reads it sees a checkpoint of safetensors with a
//! configuration and a tokenizer, and each tensor is made of the stored ones when it is asked for.

mod apart;
mod gguf;
mod made;
mod piece;
mod stored;
mod view;

use std::sync::Arc;

use serde_json::Value;

use super::{ModelSource, SourceError};
use crate::dequant::Float;
pub(in crate::quantize) use piece::Piece;

impl ModelSource {
    /// The same model in plain floats. Weights that are quantized become `float`, or f32; what is no quantized weight
    /// keeps its type.
    ///
    /// # Errors
    /// If its quantization, its blocks or the model of a GGUF file are not known here.
    pub fn plain(self: Arc<Self>, float: Option<Float>) -> Result<Arc<Self>, SourceError> {
        if self.was().is_some() {
            return Ok(self);
        }
        if self.is_gguf() {
            return gguf::view(self, float.unwrap_or(Float::F32)).map(Arc::new);
        }
        match self.quantization()? {
            Some(method) => stored::view(self, &method, float.unwrap_or(Float::F32)).map(Arc::new),
            None => Ok(self),
        }
    }

    /// The type of float that the configuration of a model names, or bfloat16.
    pub fn named_float(&self) -> Float {
        let config = self.config().ok();
        let named = config.and_then(|own| own.get("dtype").or_else(|| own.get("torch_dtype")));
        match named.and_then(Value::as_str) {
            Some("float32") => Float::F32,
            Some("float16") => Float::F16,
            _ => Float::BF16,
        }
    }
}
