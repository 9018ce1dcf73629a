//! What a quantized checkpoint consists of: which tensors stay, which become what, file by file. Pure.
//!
//! Files keep their names, and tensors their order, so that a layer still lies together; the list of
//! shards and the configuration are written anew. Weights in other formats than safetensors are left
//! out: they would be of another model.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::ProduceError;
use super::config;
use super::gguf::{self, Family};
use super::header::{self, Entry};
use super::layers::{Kind, Skip, kind};
use super::method::{Announced, announce, block};
use super::outline::{Bits, Content, From, Layers, Plan, Quantized, Remade};
use super::products::{FILE as PRODUCTS, Key, Product};
use super::recipe::{Format, Method, Recipe};
use crate::dequant::Float;
use crate::format::dtype::Shape;
use crate::gguf::names::Change;
use crate::quantize::encode::EncodeError;
use crate::quantize::source::ModelSource;

/// Ends of the names of files that hold weights in another format.
const OTHER_WEIGHTS: [&str; 13] = [
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".ggml",
    ".onnx",
    ".onnx_data",
    ".h5",
    ".msgpack",
    ".ot",
    ".npz",
    ".bin.index.json",
];
/// Matrices that are f32 in GGUF: routers, positions, and norms of several heads.
const PRECISE: [&str; 4] = ["ffn_gate_inp", "position_embd", "exp_probs_b", "norm"];
const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";

/// Sorts the tensors of a model; refuses one that has nothing to quantize.
pub(super) fn layers(
    checkpoint: &ModelSource,
    recipe: &Recipe,
    skip: &Skip,
    bits: &Bits,
) -> Result<Layers, ProduceError> {
    let gguf = match recipe.format {
        Format::Gguf => Some(Family::of(checkpoint.config()?)?),
        _ => None,
    };
    let (mut quantized, mut remade, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    let mut fell_back = BTreeMap::new();
    // A layer whose rows are no whole blocks.
    let (mut linear, mut unfit) = (0_u64, None);
    let remakes = recipe.method == Method::Awq;
    let tied = checkpoint.tensor("lm_head.weight").is_none()
        && checkpoint.tensor("embed_out.weight").is_none();
    for (at, tensor) in checkpoint.tensors().iter().enumerate() {
        let layer = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name).to_owned();
        let kind = kind(&tensor.name, tensor.dtype, &tensor.shape, skip);
        let Some(family) = &gguf else {
            match kind {
                Kind::Linear(float) => {
                    let bits = bits_of(recipe, bits, &tensor.name)?;
                    let (state, order, method) = (0, Change::Same, None);
                    quantized.push(Quantized {
                        tensor: at,
                        float,
                        layer,
                        bits,
                        state,
                        order,
                        method,
                    });
                    linear += 1;
                }
                Kind::Kept => kept.push(layer),
                Kind::Other => {
                    let float = Float::of_dtype(tensor.dtype);
                    if let Some(float) = float.filter(|_| remakes && tensor.shape.dims().len() < 2)
                    {
                        let (name, change) = (tensor.name.clone(), Change::Same);
                        remade.push(Remade { tensor: at, float, name, to: float, change });
                    }
                }
            }
            continue;
        };
        let rank = tensor.shape.dims().len();
        let Some(float) = Float::of_dtype(tensor.dtype).filter(|_| rank <= 2) else { continue };
        if family.is_left_out(&tensor.name) {
            continue;
        }
        let (name, change) = family.rename(&tensor.name)?;
        let columns = tensor.shape.dims().last().copied().unwrap_or(0);
        let is_linear = matches!(kind, Kind::Linear(_));
        let wanted = match is_linear {
            true => Some(recipe.method),
            false => ends(recipe.method, &name, tied),
        };
        let chosen = wanted.map(|wanted| (wanted, fitting(wanted, columns)));
        if let Some((wanted, chosen)) = chosen.filter(|(wanted, chosen)| Some(*wanted) != *chosen) {
            unfit = unfit.or(Some((at, columns, wanted)));
            let told = chosen.map_or("f16", Method::name);
            *fell_back.entry(told.to_owned()).or_insert(0) += 1;
        }
        if let Some(chosen) = chosen.and_then(|(_, chosen)| chosen) {
            linear += u64::from(is_linear);
            let own = is_linear && chosen == recipe.method;
            let method = (!own).then_some(chosen);
            let bits = match own {
                true => bits_of(recipe, bits, &tensor.name)?,
                false => chosen.recipe().bits,
            };
            let layer = name.strip_suffix(".weight").unwrap_or(&name).to_owned();
            let (state, order) = (0, family.order(&tensor.name));
            quantized.push(Quantized { tensor: at, float, layer, bits, state, order, method });
            continue;
        }
        let precise = rank < 2 || PRECISE.iter().any(|own| name.contains(own));
        let to = if precise { Float::F32 } else { Float::F16 };
        remade.push(Remade { tensor: at, float, name, to, change });
    }
    // Where the head is the embedding, the checkpoint has no tensor of it, and engines make the layer.
    if gguf.is_none() && !kept.iter().any(|name| name.ends_with("lm_head")) {
        kept.push("lm_head".to_owned());
    }
    if let (0, Some((at, columns, wanted))) = (linear, unfit) {
        let block = block(wanted).elements() as u64;
        let name = checkpoint.tensors().get(at).map_or("", |tensor| &tensor.name);
        return Err(ProduceError::layer(name)(EncodeError::Blocks { columns, block }));
    }
    if linear == 0 {
        let kind =
            checkpoint.config()?.get("model_type").and_then(Value::as_str).unwrap_or("unknown");
        return Err(ProduceError::NoLayers(kind.to_owned()));
    }
    Ok(Layers { quantized, remade, kept, fell_back })
}

/// What the embedding and the head are made of in a GGUF file, as llama.cpp chooses by default: engines take them as
/// blocks. `None` for other tensors.
fn ends(method: Method, name: &str, tied: bool) -> Option<Method> {
    let head = match name {
        "output.weight" => true,
        "token_embd.weight" => tied,
        _ => return None,
    };
    Some(match method {
        Method::Q8_0 => Method::Q8_0,
        _ if head => Method::Q6K,
        own => own,
    })
}

/// The type of blocks for rows of so many columns, as llama.cpp chooses: this one, or what it takes in its place; `None`
/// if neither fits.
fn fitting(method: Method, columns: u64) -> Option<Method> {
    let other = match method {
        Method::Q2K | Method::Q3K => Method::Q4_0,
        Method::Q4K => Method::Q5_0,
        Method::Q5K => Method::Q5_1,
        Method::Q6K => Method::Q8_0,
        Method::Iq4Xs => Method::Iq4Nl,
        own => own,
    };
    let fits = |own: &Method| columns.is_multiple_of(block(*own).elements() as u64);
    [method, other].into_iter().find(fits)
}

/// The bits of a layer, by the name of its weight.
fn bits_of(recipe: &Recipe, bits: &Bits, weight: &str) -> Result<u32, ProduceError> {
    if recipe.average_bits.is_none() {
        return Ok(recipe.bits);
    }
    let layer = weight.strip_suffix(".weight").unwrap_or(weight);
    bits.get(layer).copied().ok_or_else(|| ProduceError::NotRun(weight.to_owned()))
}

/// What each weight becomes.
pub(super) fn announced(
    checkpoint: &ModelSource,
    layers: &Layers,
    recipe: &Recipe,
) -> Result<Vec<Vec<Announced>>, ProduceError> {
    let one = |own: &Quantized| {
        let tensor = &checkpoint.tensors()[own.tensor];
        let [rows, columns] = *tensor.shape.dims() else {
            return Err(ProduceError::Defect(tensor.name.clone()));
        };
        let recipe = own.recipe(recipe);
        let becomes = announce(&recipe, own.float, [rows, columns], own.state);
        becomes.map_err(ProduceError::layer(&tensor.name))
    };
    layers.quantized.iter().map(one).collect()
}

/// Plans the result. `products` is the file that says what was produced.
pub(super) fn plan(
    checkpoint: &ModelSource,
    layers: &Layers,
    recipe: &Recipe,
    products: Vec<u8>,
) -> Result<Plan, ProduceError> {
    let announced = announced(checkpoint, layers, recipe)?;
    let mut by_tensor = vec![None; checkpoint.tensors().len()];
    for (at, own) in layers.quantized.iter().enumerate() {
        by_tensor[own.tensor] = Some(at);
    }
    let remade: HashMap<usize, usize> =
        layers.remade.iter().enumerate().map(|(at, own)| (own.tensor, at)).collect();
    let mut files = BTreeMap::new();
    let mut left_out = Vec::new();
    let mut weight_map = Map::new();
    let mut total = 0;
    for (number, file) in checkpoint.files().iter().enumerate() {
        if file.path == PRODUCTS || [CONFIG, INDEX].contains(&file.path.as_str()) {
            continue;
        }
        if OTHER_WEIGHTS.iter().any(|end| file.path.ends_with(end)) {
            left_out.push(file.path.clone());
            continue;
        }
        if file.has_tensors() && recipe.format == Format::Gguf {
            continue;
        }
        if !file.has_tensors() {
            files.insert(file.path.clone(), Content::Same(number));
            continue;
        }
        let mut tensors: Vec<(Entry, From)> = Vec::new();
        for (at, tensor) in
            checkpoint.tensors().iter().enumerate().filter(|(_, t)| t.file == number)
        {
            let Some(product) = by_tensor[at] else {
                let (name, dtype, shape) =
                    (tensor.name.clone(), tensor.dtype, tensor.shape.clone());
                let from = remade.get(&at).map_or(From::Model(at), |remade| From::Remade(*remade));
                tensors.push((Entry { name, dtype, shape }, from));
                continue;
            };
            let layer = &layers.quantized[product].layer;
            for (part, (end, dtype, dims)) in announced[product].iter().enumerate() {
                let name = format!("{layer}.{end}");
                let shape = Shape::new(dims.clone());
                let shape = shape.ok_or_else(|| ProduceError::Defect(name.clone()))?;
                let entry = Entry { name, dtype: *dtype, shape };
                tensors.push((entry, From::Product(product, part)));
            }
        }
        header::order(&mut tensors, |(entry, _)| entry);
        let entries: Vec<&Entry> = tensors.iter().map(|(entry, _)| entry).collect();
        let (header, parts) = header::layout(&entries);
        for entry in entries {
            total += entry.byte_len();
            weight_map.insert(entry.name.clone(), file.path.clone().into());
        }
        let from = tensors.iter().map(|(_, from)| *from).collect();
        files.insert(file.path.clone(), Content::Tensors { header, parts, from });
    }
    if recipe.format == Format::Gguf {
        files.insert(CONFIG.to_owned(), Content::Bytes(config::pretty(checkpoint.config()?)));
        files.insert(PRODUCTS.to_owned(), Content::Bytes(products));
        return gguf::plan(checkpoint, layers, recipe, announced, files, left_out);
    }
    if checkpoint.files().iter().any(|file| file.path == INDEX) {
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        files.insert(INDEX.to_owned(), Content::Bytes(config::pretty(&index)));
    }
    add_config(checkpoint.config()?.clone(), layers, recipe, &mut files);
    files.insert(PRODUCTS.to_owned(), Content::Bytes(products));
    Ok(Plan { files, products: announced, stacks: Vec::new(), left_out })
}

/// What the result says that it was produced from: the keys of the weights, and of what is remade.
pub(super) fn list(
    layers: &Layers,
    recipe: &Recipe,
    checkpoint: &ModelSource,
    [weights, vectors]: &[Vec<Key>; 2],
) -> Result<Vec<Product>, ProduceError> {
    let announced = announced(checkpoint, layers, recipe)?;
    let weight = |((own, becomes), key): ((&Quantized, &Vec<_>), &Key)| {
        let name = |(end, _, _): &(&str, _, _)| format!("{}.{end}", own.layer);
        Product { key: *key, tensors: becomes.iter().map(name).collect() }
    };
    let vector =
        |(own, key): (&Remade, &Key)| Product { key: *key, tensors: vec![own.name.clone()] };
    let all = layers.quantized.iter().zip(&announced).zip(weights).map(weight);
    Ok(all.chain(layers.remade.iter().zip(vectors).map(vector)).collect())
}

fn add_config(
    mut whole: Value,
    layers: &Layers,
    recipe: &Recipe,
    files: &mut BTreeMap<String, Content>,
) {
    let dtype = |config: &Value| {
        let named = config.get("dtype").or_else(|| config.get("torch_dtype"));
        named.and_then(Value::as_str).map(str::to_owned)
    };
    let own = layers.quantized.first().map_or("bfloat16", |first| match first.float {
        Float::F32 => "float32",
        Float::F16 => "float16",
        Float::BF16 => "bfloat16",
    });
    let dtype = dtype(&whole).unwrap_or_else(|| own.to_owned());
    let quantization = config::quantization_config(recipe, layers, &dtype);
    if let Some(path) = config::companion(recipe) {
        files.insert(path.to_owned(), Content::Bytes(config::pretty(&quantization)));
    }
    if let Some(whole) = whole.as_object_mut() {
        whole.insert("quantization_config".to_owned(), quantization);
    }
    files.insert(CONFIG.to_owned(), Content::Bytes(config::pretty(&whole)));
}
