//! Why a GGUF file cannot be read, or no model can be made of it.

/// What is wrong with a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// Another file.
    #[error("it does not begin as GGUF does")]
    Magic,
    /// The other byte order.
    #[error(
        "it is big-endian, which is not read here; convert it with gguf-py's `gguf-convert-endian FILE little`"
    )]
    BigEndian,
    /// Another version.
    #[error("it is GGUF version {0}, and versions 2 and 3 are read; convert the model again")]
    Version(u32),
    /// It ends within its header.
    #[error("its header ends at byte {0}, within a value; fetch it again")]
    Cut(u64),
    /// More than there can be.
    #[error("{count} {what}, of which {most} are read at most")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many it says.
        count: u64,
        /// The most.
        most: u64,
    },
    /// A type of values that GGUF does not have.
    #[error("a value of type {0}, which GGUF does not have")]
    Value(u32),
    /// Arrays of arrays of arrays.
    #[error("arrays within arrays, more than {0} deep")]
    Depth(u32),
    /// A text that is none.
    #[error("a name or text at byte {0} that is not UTF-8")]
    Utf8(u64),
    /// Two values of one key.
    #[error("two values of {0}")]
    Twice(String),
    /// Where tensors begin.
    #[error("general.alignment is no power of two up to 1048576")]
    Alignment,
    /// A tensor that cannot be.
    #[error("tensor {name}: {why}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A type of elements that is not known here.
    #[error("tensor {name} is of GGML's type {number}, which is not known here")]
    Type {
        /// The tensor.
        name: String,
        /// Its type's number.
        number: u32,
    },
    /// A model that is not known here.
    #[error(
        "general.architecture is {0:?}, of which no configuration is made here; put the model's config.json \
         and tokenizer.json beside the file"
    )]
    Architecture(String),
    /// A value that a model needs is not there, or is of another type.
    #[error("the value {0} is missing, or is not what it should be")]
    Missing(String),
    /// A feature of a model that no configuration has.
    #[error("{0}")]
    Feature(String),
    /// A tokenizer that is not known here.
    #[error(
        "its tokenizer ({0}) is not known here; put the model's tokenizer.json beside the file"
    )]
    Tokenizer(String),
}
