//! Products, attention and norms on the processor. Pure: bytes and numbers in, numbers out.

mod attend;
mod blocks;
mod cache;
mod codes;
mod dot;
mod lanes;
mod matrix;
mod norm;
mod outputs;
mod plain;
mod product;
mod rounded;
mod source;
mod states;
mod tiles;
mod unpack;
mod walk;

pub use attend::{Manner, Sight};
pub use cache::{BLOCK, Cache};
use lanes::Isa;
pub use matrix::Matrix;
pub use norm::{Turns, add, add_bias, gated, rms_norm};
pub use states::States;

/// `out[m, n] = sum over k of weight[n, k] * x[m, k]`. `out` has as many states as `x`, as wide as the weight
/// has rows.
pub fn product(weight: &Matrix, x: &States, out: &mut States) {
    product::product(Isa::best(), weight, x, out);
}

/// A row of a weight as floats; `to` is as wide.
pub fn row(weight: &Matrix, row: usize, to: &mut [f32]) {
    product::row(Isa::best(), weight, row, to);
}

/// For each state what its queries bring back from the values it sees; `out` is of the shape of `queries`.
pub fn attend(
    cache: &Cache,
    manner: Manner,
    queries: &States,
    sights: &[Sight<'_>],
    out: &mut States,
) {
    attend::attend(Isa::best(), cache, manner, queries, sights, out);
}

/// The instructions that products run on.
pub fn instructions() -> &'static str {
    Isa::best().name()
}

#[cfg(test)]
mod tests;
