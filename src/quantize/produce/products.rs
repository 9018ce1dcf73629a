//! The file of an artifact that says what was produced from what: its own bytes are signed with the
//! artifact, so that whoever trusts the signer can link a product instead of computing it again.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{ProduceError, TOOL, VERSION};
use crate::format::dtype::{Dtype, Shape};
use crate::format::id::ContentDigest;
use crate::format::json;

/// Its path.
pub(super) const FILE: &str = "tenpak.products.json";
/// The largest that is read.
pub(super) const MAX: usize = 64 << 20;
const FORMAT: &str = "tenpak-products";

/// What products are looked up by.
pub(super) type Key = ContentDigest;

/// A tensor of a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProductTensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) dims: Vec<u64>,
    pub(super) digest: ContentDigest,
}

/// What was produced from one tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Product {
    /// What it was made from, and how.
    pub(super) key: Key,
    /// The names of the tensors that it is.
    pub(super) tensors: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Products {
    format: String,
    products: Vec<Product>,
    recipe: ContentDigest,
}

/// The bytes of the file.
pub(super) fn write(
    products: Vec<Product>,
    recipe: ContentDigest,
) -> Result<Vec<u8>, ProduceError> {
    Ok(json::to_bytes(&Products { format: FORMAT.to_owned(), products, recipe })?)
}

/// What the file says, if it is one of this recipe.
pub(super) fn read(bytes: &[u8], recipe: ContentDigest) -> Option<Vec<Product>> {
    let read: Products = json::parse(bytes, MAX).ok()?;
    (read.format == FORMAT && read.recipe == recipe).then_some(read.products)
}

/// What `json!` makes of braces.
pub(super) fn object(value: Value) -> Result<Map<String, Value>, ProduceError> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(ProduceError::Defect("of lineage".to_owned())),
    }
}

/// The digest of a recipe as this release carries it out.
pub(super) fn recipe_digest(recipe: &super::Recipe) -> Result<ContentDigest, ProduceError> {
    let value = json!({"recipe": recipe, "tool": TOOL, "version": VERSION});
    digest(&value)
}

/// The key of what a recipe makes of a tensor.
pub(super) fn key(
    recipe: ContentDigest,
    (name, dtype, shape): (&str, Dtype, &Shape),
    source: ContentDigest,
    statistics: Option<[u8; 32]>,
) -> Result<Key, ProduceError> {
    let statistics = statistics.map(|digest| ContentDigest::from_bytes(digest).to_hex());
    let value = json!({
        "dtype": dtype.name(), "name": name, "recipe": recipe, "shape": shape.dims(), "source": source,
        "statistics": statistics,
    });
    digest(&value)
}

fn digest(value: &Value) -> Result<ContentDigest, ProduceError> {
    Ok(ContentDigest::of(&json::to_bytes(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::produce::Method;

    #[test]
    fn a_key_is_of_everything_that_decides_the_bytes() {
        let recipe = |method: Method| recipe_digest(&method.recipe()).unwrap();
        let shape = |n| Shape::new(vec![n, 2]).unwrap();
        let of = ContentDigest::of;
        let base = key(recipe(Method::Nf4), ("a", Dtype::F16, &shape(1)), of(b"x"), None).unwrap();
        for other in [
            key(recipe(Method::Int8), ("a", Dtype::F16, &shape(1)), of(b"x"), None),
            key(recipe(Method::Nf4), ("b", Dtype::F16, &shape(1)), of(b"x"), None),
            key(recipe(Method::Nf4), ("a", Dtype::BF16, &shape(1)), of(b"x"), None),
            key(recipe(Method::Nf4), ("a", Dtype::F16, &shape(2)), of(b"x"), None),
            key(recipe(Method::Nf4), ("a", Dtype::F16, &shape(1)), of(b"y"), None),
            key(recipe(Method::Nf4), ("a", Dtype::F16, &shape(1)), of(b"x"), Some([0; 32])),
        ] {
            assert_ne!(other.unwrap(), base);
        }
    }

    #[test]
    fn the_file_is_of_its_recipe() {
        let product = Product { key: Key::of(b"k"), tensors: vec!["a".to_owned()] };
        let recipe = recipe_digest(&Method::Nf4.recipe()).unwrap();
        let bytes = write(vec![product.clone()], recipe).unwrap();
        assert_eq!(read(&bytes, recipe), Some(vec![product]));
        assert_eq!(read(&bytes, Key::of(b"other")), None);
        assert_eq!(read(&bytes[1..], recipe), None);
    }
}
