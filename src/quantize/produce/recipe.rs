//! How weights are quantized: method, numbers, format. Pure.

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use crate::format::json::{self, JsonError};

/// A method or format that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there are {}", names.join(", "))]
pub struct UnknownName {
    /// Those that are.
    pub names: Vec<&'static str>,
}

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$inner])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What it is called.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                let found = Self::ALL.iter().find(|value| value.name() == text);
                let names = || Self::ALL.iter().map(|value| value.name()).collect();
                found.copied().ok_or_else(|| UnknownName { names: names() })
            }
        }
    };
}

pub(super) use names;

names! {
    /// What computes the codes.
    Method {
        /// bitsandbytes NF4.
        Nf4 = "nf4",
        /// LLM.int8().
        Int8 = "int8",
        /// FP8 E4M3, a scale per row.
        Fp8 = "fp8",
        /// Round to nearest, by the rule of the format.
        Rtn = "rtn",
        /// GPTQ: calibrated.
        Gptq = "gptq",
        /// AWQ: calibrated.
        Awq = "awq",
        /// HQQ.
        Hqq = "hqq",
        /// GGUF Q4_0.
        Q4_0 = "q4_0",
        /// GGUF Q5_0.
        Q5_0 = "q5_0",
        /// GGUF Q5_1.
        Q5_1 = "q5_1",
        /// GGUF Q8_0.
        Q8_0 = "q8_0",
        /// GGUF Q4_K.
        Q4K = "q4_k",
        /// GGUF Q5_K.
        Q5K = "q5_k",
        /// GGUF Q6_K.
        Q6K = "q6_k",
        /// GGUF Q3_K.
        Q3K = "q3_k",
        /// GGUF Q2_K.
        Q2K = "q2_k",
        /// GGUF IQ4_NL.
        Iq4Nl = "iq4_nl",
        /// GGUF IQ4_XS.
        Iq4Xs = "iq4_xs",
        /// FP4 with an exponent per 32.
        Mxfp4 = "mxfp4",
        /// FP4 with an FP8 scale per 16.
        Nvfp4 = "nvfp4",
    }
}

names! {
    /// The layout of the checkpoint.
    Format {
        /// bitsandbytes.
        Bitsandbytes = "bitsandbytes",
        /// GPTQ, zero points less one.
        Gptq = "gptq",
        /// GPTQ, zero points as they are.
        GptqV2 = "gptq_v2",
        /// AWQ, GEMM version.
        Awq = "awq",
        /// compressed-tensors.
        CompressedTensors = "compressed-tensors",
        /// One file as llama.cpp has them.
        Gguf = "gguf",
    }
}

names! {
    /// In which order GPTQ rounds the columns of a weight.
    ActOrder {
        /// By falling activation. Groups are of neighbouring columns, and their scales are found first, so
        /// that nothing of the order is left in the result.
        Static = "static",
        /// By falling activation, groups being made in that order: the result has a `g_idx` (`desc_act`).
        Group = "group",
        /// As they are stored.
        Stored = "none",
    }
}

impl ActOrder {
    /// Its `column_order`; `act_order` says the other.
    pub(super) const fn recorded(self) -> Option<&'static str> {
        match self {
            Self::Static => Some("static"),
            Self::Stored => Some("stored"),
            Self::Group => None,
        }
    }
}

/// How the weight of a layer is quantized. Its canonical JSON is what products are keyed by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recipe {
    /// What computes the codes.
    pub method: Method,
    /// The layout of the result.
    pub format: Format,
    /// Bits per code.
    pub bits: u32,
    /// Columns per group; none for a scale per row.
    pub group_size: Option<u32>,
    /// Whether zero points are the middle.
    pub symmetric: bool,
    /// NF4: whether absmax are quantized in their turn.
    pub double_quant: bool,
    /// GPTQ: the order of columns; other methods have none.
    #[serde(flatten, serialize_with = "ordered")]
    pub act_order: Option<ActOrder>,
    /// Bits per code on average, in hundredths, where layers have numbers of their own; `bits` is then the
    /// most that all could have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average_bits: Option<u32>,
}

/// What records say of an order: `act_order` is true for `group`, and was false for another order before there
/// was a `column_order`.
fn ordered<S: Serializer>(order: &Option<ActOrder>, to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(None)?;
    map.serialize_entry("act_order", &(*order == Some(ActOrder::Group)))?;
    if let Some(column_order) = order.and_then(ActOrder::recorded) {
        map.serialize_entry("column_order", column_order)?;
    }
    map.end()
}

impl Method {
    /// The recipe that the method's name alone means.
    pub fn recipe(self) -> Recipe {
        let (format, bits, group_size, symmetric) = match self {
            Self::Nf4 => (Format::Bitsandbytes, 4, Some(64), false),
            Self::Int8 => (Format::Bitsandbytes, 8, None, true),
            Self::Fp8 => (Format::CompressedTensors, 8, None, true),
            Self::Rtn | Self::Hqq => (Format::CompressedTensors, 4, Some(128), true),
            Self::Gptq => (Format::Gptq, 4, Some(128), true),
            Self::Awq => (Format::Awq, 4, Some(128), false),
            Self::Q4_0 => (Format::Gguf, 4, Some(32), true),
            Self::Q5_0 => (Format::Gguf, 5, Some(32), true),
            Self::Q5_1 => (Format::Gguf, 5, Some(32), false),
            Self::Q8_0 => (Format::Gguf, 8, Some(32), true),
            Self::Q4K => (Format::Gguf, 4, Some(32), false),
            Self::Q5K => (Format::Gguf, 5, Some(32), false),
            Self::Q6K => (Format::Gguf, 6, Some(16), true),
            Self::Q3K => (Format::Gguf, 3, Some(16), true),
            Self::Q2K => (Format::Gguf, 2, Some(16), false),
            Self::Iq4Nl | Self::Iq4Xs => (Format::Gguf, 4, Some(32), true),
            Self::Mxfp4 => (Format::CompressedTensors, 4, Some(32), true),
            Self::Nvfp4 => (Format::CompressedTensors, 4, Some(16), true),
        };
        let act_order = (self == Self::Gptq).then_some(ActOrder::Static);
        let (double_quant, average_bits) = (false, None);
        Recipe {
            method: self,
            format,
            bits,
            group_size,
            symmetric,
            double_quant,
            act_order,
            average_bits,
        }
    }

    /// Whether it is one of GGUF's types of blocks.
    pub fn is_gguf(self) -> bool {
        self.recipe().format == Format::Gguf
    }

    /// Whether it needs to see what the layers are fed.
    pub fn is_calibrated(self) -> bool {
        matches!(self, Self::Gptq | Self::Awq)
    }
}

/// What of a recipe does not go together.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// A format that the method's codes do not fit.
    #[error("{} is not stored as {}; take {}", method.name(), format.name(), listed(take, Format::name, " or "))]
    Format { method: Method, format: Format, take: &'static [Format] },
    /// A method whose numbers are fixed.
    #[error("{} has {bits} bits and groups of its own; leave both out", method.name())]
    Fixed { method: Method, bits: u32 },
    /// A group of no columns.
    #[error("a group has at least one column; -1 is the whole row")]
    Group,
    /// Absmax that the method does not have.
    #[error("only nf4 quantizes its absmax in their turn")]
    DoubleQuant,
    /// An order that the method does not have.
    #[error("only gptq orders columns by activations; leave --act-order out")]
    ActOrder,
    /// An order that leaves an index which the format is not written with.
    #[error(
        "--act-order group is stored as gptq or gptq_v2, not {}; take --act-order static", format.name()
    )]
    NoIndex { format: Format },
    /// Bits on average, where all layers have the same.
    #[error(
        "layers of {} in {} have all the same bits; bits on average go with rtn, hqq and gptq in \
         compressed-tensors, gptq or gptq_v2", method.name(), format.name()
    )]
    SameBits { method: Method, format: Format },
    /// More or fewer bits on average than a layer can have.
    #[error("{average} bits on average: give {least} to 8")]
    Average { average: f64, least: u32 },
    /// Fewer bits on average than the layers of this model need.
    #[error("{0} bits on average are too few for any layer")]
    TooFew(f64),
    /// Bits that the format does not have.
    #[error("{} has {has} bits, not {bits}", format.name())]
    Bits { format: Format, has: &'static str, bits: u32 },
    /// Numbers that AWQ does not have.
    #[error("awq has 4 bits and zero points, and so is asymmetric")]
    Awq,
    /// A method that a tool does not do.
    #[error("{tool} does not do {}; it does {}", method.name(), listed(does, Method::name, ", "))]
    Backend { tool: &'static str, method: Method, does: &'static [Method] },
    /// A format that a tool does not write.
    #[error("gptqmodel stores gptq")]
    GptqModel,
}

fn listed<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, between: &str) -> String {
    all.iter().map(|one| name(*one)).collect::<Vec<_>>().join(between)
}

impl Recipe {
    /// Whether its numbers go together.
    ///
    /// # Errors
    /// If they do not; the first reason is given.
    pub fn check(&self) -> Result<(), RecipeError> {
        let Self { method, format, bits, group_size, symmetric, .. } = *self;
        let take: &[Format] = match method {
            Method::Nf4 | Method::Int8 => &[Format::Bitsandbytes],
            Method::Fp8 | Method::Mxfp4 | Method::Nvfp4 => &[Format::CompressedTensors],
            _ if method.is_gguf() => &[Format::Gguf],
            Method::Awq => &[Format::Awq, Format::CompressedTensors],
            _ => &[Format::CompressedTensors, Format::Gptq, Format::GptqV2, Format::Awq],
        };
        if !take.contains(&format) {
            return Err(RecipeError::Format { method, format, take });
        }
        let fixed = match method {
            Method::Nf4 => Some((4, Some(64))),
            Method::Int8 | Method::Fp8 => Some((8, None)),
            Method::Rtn | Method::Gptq | Method::Awq | Method::Hqq => None,
            _ => {
                let own = method.recipe();
                Some((own.bits, own.group_size))
            }
        };
        if let Some((own, group)) = fixed
            && (bits, group_size) != (own, group)
        {
            return Err(RecipeError::Fixed { method, bits: own });
        }
        if group_size == Some(0) {
            return Err(RecipeError::Group);
        }
        if self.double_quant && method != Method::Nf4 {
            return Err(RecipeError::DoubleQuant);
        }
        if self.act_order.is_some() != (method == Method::Gptq) {
            return Err(RecipeError::ActOrder);
        }
        if self.has_index() && !matches!(format, Format::Gptq | Format::GptqV2) {
            return Err(RecipeError::NoIndex { format });
        }
        if let Some(average) = self.average_bits {
            let Some(&least) = self.numbers_of_bits().first() else {
                return Err(RecipeError::SameBits { method, format });
            };
            if !(least * 100..=800).contains(&average) {
                return Err(RecipeError::Average { average: f64::from(average) / 100.0, least });
            }
        }
        match format {
            Format::Gptq | Format::GptqV2 if ![2, 3, 4, 8].contains(&bits) => {
                Err(RecipeError::Bits { format, has: "2, 3, 4 or 8", bits })
            }
            Format::Awq if bits != 4 || symmetric => Err(RecipeError::Awq),
            Format::CompressedTensors if !(1..=8).contains(&bits) => {
                Err(RecipeError::Bits { format, has: "1 to 8", bits })
            }
            _ => Ok(()),
        }
    }

    /// The numbers of bits that layers of one checkpoint may have, the fewest first; none where all have
    /// the same.
    pub fn numbers_of_bits(&self) -> &'static [u32] {
        match (self.method, self.format) {
            (Method::Rtn | Method::Hqq | Method::Gptq, Format::CompressedTensors) => {
                &[2, 3, 4, 5, 6, 7, 8]
            }
            (Method::Rtn | Method::Hqq | Method::Gptq, Format::Gptq | Format::GptqV2) => {
                &[2, 3, 4, 8]
            }
            _ => &[],
        }
    }

    /// Whether groups are not of neighbouring columns, so that the result needs an index (`desc_act`).
    pub fn has_index(&self) -> bool {
        self.act_order == Some(ActOrder::Group)
    }

    /// The recipe of a layer that has so many bits.
    pub(super) fn with_bits(&self, bits: u32) -> Self {
        Self { bits, ..self.clone() }
    }

    /// Its digest: BLAKE3 of its canonical JSON.
    ///
    /// # Errors
    /// If the recipe has no canonical form.
    pub fn digest(&self) -> Result<blake3::Hash, JsonError> {
        Ok(blake3::hash(&json::to_bytes(self)?))
    }

    /// How much smaller a bf16 weight becomes, scales and zero points counted.
    pub fn size_ratio(&self) -> f64 {
        let per_group = match (self.method, self.format) {
            (Method::Nf4, _) if self.double_quant => 8.0 + 32.0 / 256.0,
            (Method::Nf4, _) => 32.0,
            (Method::Mxfp4 | Method::Nvfp4, _) => 8.0,
            (_, Format::CompressedTensors) if self.symmetric => 16.0,
            _ => 16.0 + f64::from(self.bits),
        };
        let group = self.group_size.map_or(f64::INFINITY, f64::from);
        16.0 / (f64::from(self.bits) + per_group / group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(recipe: &Recipe) -> String {
        String::from_utf8(json::to_bytes(recipe).unwrap()).unwrap()
    }

    /// What an older release wrote by these stays what it was.
    #[test]
    fn recipes_without_a_column_order_are_spelled_as_ever() {
        assert_eq!(
            canonical(&Method::Rtn.recipe()),
            r#"{"act_order":false,"bits":4,"double_quant":false,"format":"compressed-tensors","group_size":128,"method":"rtn","symmetric":true}"#
        );
        let gptq = |order| Recipe { act_order: Some(order), ..Method::Gptq.recipe() };
        assert_eq!(
            canonical(&gptq(ActOrder::Group)),
            r#"{"act_order":true,"bits":4,"double_quant":false,"format":"gptq","group_size":128,"method":"gptq","symmetric":true}"#
        );
        let spelled = |order: &str| {
            format!(
                r#"{{"act_order":false,"bits":4,"column_order":"{order}","double_quant":false,"format":"gptq","group_size":128,"method":"gptq","symmetric":true}}"#
            )
        };
        assert_eq!(canonical(&gptq(ActOrder::Static)), spelled("static"));
        assert_eq!(canonical(&gptq(ActOrder::Stored)), spelled("stored"));
        assert_eq!(Method::Gptq.recipe(), gptq(ActOrder::Static));
    }

    #[test]
    fn an_order_goes_with_gptq_and_an_index_with_its_format() {
        let order = |method: Method, act_order| Recipe { act_order, ..method.recipe() }.check();
        for method in Method::ALL {
            let own = method.recipe();
            own.check().unwrap();
            assert_eq!(own.act_order.is_some(), *method == Method::Gptq, "{method:?}");
        }
        assert_eq!(order(Method::Awq, Some(ActOrder::Static)), Err(RecipeError::ActOrder));
        assert_eq!(order(Method::Gptq, None), Err(RecipeError::ActOrder));
        for format in [Format::CompressedTensors, Format::Awq] {
            let symmetric = format != Format::Awq;
            let own = Recipe { format, symmetric, ..Method::Gptq.recipe() };
            own.check().unwrap();
            let group = Recipe { act_order: Some(ActOrder::Group), ..own };
            assert_eq!(group.check(), Err(RecipeError::NoIndex { format }));
        }
    }
}
