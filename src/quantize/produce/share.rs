//! A share of a model's weights: what one of several workers makes, so that another joins the shares. Pure.
//!
//! Which weights are of which share follows from the model alone: all workers agree without a word.

use std::collections::BTreeMap;

use super::ProduceError;
use super::header::{self, Entry};
use super::method::Announced;
use super::outline::{Content, From, Layers, Plan};
use super::products::FILE as PRODUCTS;
use crate::format::dtype::Shape;
use crate::schedule::shard::Shard;

/// The file of a share's tensors.
const FILE: &str = "share.safetensors";

/// Which of the weights of these sizes are of this share: the largest first, each to the share that has the least.
fn own(sizes: &[u64], share: Shard) -> Vec<bool> {
    let mut loads = vec![0_u64; share.count() as usize];
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|at| (std::cmp::Reverse(sizes[*at]), *at));
    let mut own = vec![false; sizes.len()];
    for at in order {
        let least = loads.iter().enumerate().min_by_key(|(share, load)| (**load, *share));
        let Some(least) = least.map(|(share, _)| share) else { break };
        loads[least] += sizes[at].max(1);
        own[at] = least == share.index() as usize;
    }
    own
}

/// Leaves only what is of this share; `size` is a tensor's.
pub(super) fn keep(layers: &mut Layers, share: Shard, size: impl Fn(usize) -> u64) {
    let sizes: Vec<u64> = layers.quantized.iter().map(|own| size(own.tensor)).collect();
    let mut own = own(&sizes, share).into_iter();
    layers.quantized.retain(|_| own.next().unwrap_or(false));
    // They are small: whoever joins the shares makes them.
    layers.remade.clear();
}

/// What a share consists of: its products' tensors, and the file that says what they are.
pub(super) fn plan(
    layers: &Layers,
    announced: Vec<Vec<Announced>>,
    products: Vec<u8>,
) -> Result<Plan, ProduceError> {
    let mut tensors: Vec<(Entry, From)> = Vec::new();
    for (product, (own, becomes)) in layers.quantized.iter().zip(&announced).enumerate() {
        for (part, (end, dtype, dims)) in becomes.iter().enumerate() {
            let name = format!("{}.{end}", own.layer);
            let shape = Shape::new(dims.clone());
            let shape = shape.ok_or_else(|| ProduceError::Defect(name.clone()))?;
            let entry = Entry { name, dtype: *dtype, shape };
            tensors.push((entry, From::Product(product, part)));
        }
    }
    header::order(&mut tensors, |(entry, _)| entry);
    let entries: Vec<&Entry> = tensors.iter().map(|(entry, _)| entry).collect();
    let (header, parts) = header::layout(&entries);
    let from = tensors.iter().map(|(_, from)| *from).collect();
    let mut files = BTreeMap::new();
    if !tensors.is_empty() {
        files.insert(FILE.to_owned(), Content::Tensors { header, parts, from });
    }
    files.insert(PRODUCTS.to_owned(), Content::Bytes(products));
    Ok(Plan { files, products: announced, stacks: Vec::new(), left_out: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_is_of_one_share_and_shares_are_alike() {
        let sizes: Vec<u64> = (0..97).map(|at| (at * 7919) % 1000 + 1).collect();
        for count in [1, 2, 3, 8, 97, 200] {
            let all: Vec<Vec<bool>> =
                (0..count).map(|index| own(&sizes, Shard::new(index, count).unwrap())).collect();
            for at in 0..sizes.len() {
                assert_eq!(all.iter().filter(|own| own[at]).count(), 1, "{at} of {count}");
            }
            let load = |own: &Vec<bool>| {
                own.iter().zip(&sizes).filter(|(own, _)| **own).map(|(_, size)| size).sum::<u64>()
            };
            let loads: Vec<u64> = all.iter().map(load).collect();
            let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            assert!(most - least <= 1000, "{loads:?}");
        }
        assert!(own(&[], Shard::new(0, 2).unwrap()).is_empty());
        // Weights without bytes are spread, too.
        assert_eq!(own(&[0, 0], Shard::new(1, 2).unwrap()), [false, true]);
    }
}
