//! A weight quantized by groups of columns, before a family lays it out.

/// Codes, scales and zero points of one weight: `w[n, k] = scale * (q - zero)`.
///
/// What a solver (round to nearest, GPTQ, AWQ, HQQ) gives and what the layouts of GPTQ, AWQ and
/// compressed-tensors are packed from.
#[derive(Debug, Clone, PartialEq)]
pub struct Codes {
    /// Rows: outputs of the layer.
    pub rows: usize,
    /// Columns: inputs of the layer.
    pub columns: usize,
    /// Bits per code, 1 to 8.
    pub bits: u32,
    /// Columns per group; as many as there are columns for a scale per row.
    pub group: usize,
    /// Whether every zero point is `2^(bits - 1)`.
    pub symmetric: bool,
    /// Codes, `[rows, columns]` row-major, each below `2^bits`.
    pub codes: Vec<u8>,
    /// Scales, `[rows, groups]` row-major.
    pub scales: Vec<f32>,
    /// Zero points, `[rows, groups]` row-major.
    pub zeros: Vec<u8>,
    /// The group of each column where the order of activations gave it, else in order.
    pub index: Option<Vec<u32>>,
}

impl Codes {
    /// Groups per row.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.columns.div_ceil(self.group.max(1))
    }
}

/// The code book of NF4.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];
