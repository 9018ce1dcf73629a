//! Makes the parts of a quantized checkpoint while it is packed: what is known is linked, what is not is
//! computed, one weight at a time.

use std::collections::HashMap;

use bytes::Bytes;

use super::ProduceError;
use super::error::Failed;
use super::gguf_positions::factors;
use super::memo::{Memo, Streams};
use super::method::{Layer, Solver, encode};
use super::outline::{Content, From, Layers, Plan, Remade};
use super::recipe::{Format, Recipe};
use super::survey::{Survey, matrix};
use crate::dequant::convert;
use crate::format::dtype::Shape;
use crate::gguf::names::Change;
use crate::pack::model::{Part, PartKind};
use crate::pack::{GeneratedFile, Held, Input, PackError, PartSource, Progress};
use crate::quantize::encode::Encoded;
use crate::quantize::source::{ModelSource, Reader, Tensor};

/// Follows a run.
pub trait Events: Progress {
    /// A weight is done: computed, or found.
    fn layer(&self, _name: &str, _computed: bool) {}
}

impl Events for () {}

/// Makes the parts of the result while it is packed.
pub(super) struct Driver<'a> {
    checkpoint: &'a ModelSource,
    layers: &'a Layers,
    recipe: &'a Recipe,
    plan: Plan,
    contents: Vec<Content>,
    surveyed: &'a Survey,
    memo: &'a mut Memo,
    solver: &'a mut dyn Solver,
    reader: Reader<'a>,
    streams: Streams,
    /// Tensors that are made and not yet packed.
    ready: HashMap<(usize, usize), Bytes>,
    threads: usize,
    events: &'a dyn Events,
    pub(super) computed: u64,
    pub(super) linked: u64,
    pub(super) failed: Failed,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        (checkpoint, layers): (&'a ModelSource, &'a Layers),
        recipe: &'a Recipe,
        plan: Plan,
        surveyed: &'a Survey,
        memo: &'a mut Memo,
        solver: &'a mut dyn Solver,
        (threads, events): (usize, &'a dyn Events),
    ) -> Self {
        let contents: Vec<Content> = plan.files.values().cloned().collect();
        // The order in which parts are asked for.
        let mut from_model = Vec::new();
        let mut found = Vec::new();
        let mut linked = 0;
        let mut seen = vec![false; surveyed.weights.len()];
        for content in &contents {
            let Content::Tensors { from, .. } = content else { continue };
            let members = from.iter().flat_map(|from| match from {
                From::Stack(stack) => plan.stacks.get(*stack).map_or(&[][..], Vec::as_slice),
                from => std::slice::from_ref(from),
            });
            for from in members {
                match *from {
                    From::Model(tensor) => from_model.push(tensor),
                    From::Product(product, _) if !std::mem::replace(&mut seen[product], true) => {
                        match &surveyed.weights[product].hit {
                            Some(hit) => found.push(hit.clone()),
                            None => from_model.push(layers.quantized[product].tensor),
                        }
                    }
                    From::Remade(vector) => match &surveyed.vectors[vector].hit {
                        Some(hit) => found.push(hit.clone()),
                        None => from_model.push(layers.remade[vector].tensor),
                    },
                    From::Product(..) | From::Stack(_) | From::Zeros(_) | From::Factors => {}
                }
            }
        }
        // The others lie in files that are taken over.
        for (own, _) in layers.quantized.iter().zip(&seen).filter(|(_, seen)| !**seen) {
            linked += 1;
            events.layer(&checkpoint.tensors()[own.tensor].name, false);
        }
        let reader = checkpoint.reader(from_model.into_iter());
        let streams = memo.reader(found.iter());
        Self {
            checkpoint,
            layers,
            recipe,
            plan,
            contents,
            surveyed,
            memo,
            solver,
            reader,
            streams,
            ready: HashMap::new(),
            threads: threads.max(1),
            events,
            computed: 0,
            linked,
            failed: Failed::default(),
        }
    }

    /// The files that are packed.
    pub(super) fn inputs(&self) -> Vec<Input> {
        let content = |len| match len {
            0 => Vec::new(),
            len => vec![Part { offset: 0, len, kind: PartKind::Content }],
        };
        let input = |(path, own): (&String, &Content)| {
            let parts = match own {
                Content::Same(file) => return self.checkpoint.input(*file, false),
                Content::Bytes(bytes) => content(bytes.len() as u64),
                Content::Tensors { parts, .. } => parts.clone(),
                Content::Known(known) => return Some(Input::Known(known.clone())),
            };
            let executable = false;
            Some(Input::Made(GeneratedFile { path: path.clone(), executable, parts }))
        };
        self.plan.files.iter().filter_map(input).collect()
    }

    fn part(&mut self, file: usize, part: usize) -> Result<Held, ProduceError> {
        let defect = || ProduceError::Defect(format!("part {part} of file {file}"));
        let from = match self.contents.get(file).ok_or_else(defect)? {
            Content::Same(file) => return Ok(self.checkpoint.part(*file, part)?),
            Content::Bytes(bytes) => return Ok(Held::Memory(bytes.clone().into())),
            Content::Tensors { header, .. } if part == 0 => {
                return Ok(Held::Memory(header.clone().into()));
            }
            Content::Tensors { from, .. } => *from.get(part - 1).ok_or_else(defect)?,
            Content::Known(_) => return Err(defect()),
        };
        self.made(from, &defect)
    }

    fn made(
        &mut self,
        from: From,
        defect: &dyn Fn() -> ProduceError,
    ) -> Result<Held, ProduceError> {
        match from {
            From::Stack(stack) => {
                let members = self.plan.stacks.get(stack).cloned().ok_or_else(defect)?;
                let mut all = Vec::new();
                for member in members {
                    match self.made(member, defect)? {
                        Held::Memory(bytes) => all.extend_from_slice(&bytes),
                        _ => return Err(defect()),
                    }
                }
                Ok(Held::Memory(all.into()))
            }
            From::Model(tensor) => self.unchanged(tensor),
            From::Remade(vector) => self.remake(vector),
            From::Zeros(len) => {
                Ok(Held::Memory(vec![0; usize::try_from(len).map_err(|_| defect())?].into()))
            }
            From::Factors => {
                let own = factors(self.checkpoint.config()?).ok_or_else(defect)?;
                let bytes: Vec<u8> = own.iter().flat_map(|own| own.to_le_bytes()).collect();
                Ok(Held::Memory(bytes.into()))
            }
            From::Product(product, own) => {
                if !self.ready.contains_key(&(product, own)) {
                    self.produce(product)?;
                }
                self.ready.remove(&(product, own)).map(Held::Memory).ok_or_else(defect)
            }
        }
    }

    /// A tensor of the model as it is.
    fn unchanged(&mut self, tensor: usize) -> Result<Held, ProduceError> {
        let own = &self.checkpoint.tensors()[tensor];
        if let Some(held) = self.checkpoint.on_disk(own.file, own.offset) {
            return Ok(held);
        }
        Ok(Held::Memory(self.reader.read(tensor)?.into_bytes()))
    }

    /// Links or makes what a vector becomes.
    fn remake(&mut self, vector: usize) -> Result<Held, ProduceError> {
        let own = &self.layers.remade[vector];
        let tensor = &self.checkpoint.tensors()[own.tensor];
        let surveyed = &self.surveyed.vectors[vector];
        let mut reread = None;
        if let Some(hit) = &surveyed.hit {
            let read = self.memo.read(&mut self.streams, hit)?;
            if let Some(bytes) = read.and_then(|mut read| read.pop()) {
                return Ok(Held::Memory(bytes));
            }
            // It was to be linked, so that nothing announced that it would be read.
            reread = Some(self.checkpoint.reader(std::iter::once(own.tensor)));
        }
        let bytes = reread.as_mut().unwrap_or(&mut self.reader).read(own.tensor)?;
        let (dtype, made) = match self.recipe.format {
            Format::Gguf => (own.to.dtype(), written(own, tensor, &bytes)?),
            _ => {
                let changed = self.solver.change(&tensor.name, &bytes)?;
                if changed.as_ref().is_some_and(|changed| changed.len() != bytes.len()) {
                    return Err(ProduceError::Defect(tensor.name.clone()));
                }
                (tensor.dtype, changed.unwrap_or_else(|| bytes.to_vec()))
            }
        };
        if let Some((layer, end)) = own.name.rsplit_once('.')
            && let Some(end) = ["weight", "bias"].into_iter().find(|own| *own == end)
        {
            let dims = tensor.shape.dims().to_vec();
            let encoded = Encoded { end, dtype, dims, bytes: made };
            self.memo.note(surveyed.key, layer, std::slice::from_ref(&encoded));
            return Ok(Held::Memory(encoded.bytes.into()));
        }
        Ok(Held::Memory(made.into()))
    }

    /// Links or computes what a weight becomes.
    fn produce(&mut self, product: usize) -> Result<(), ProduceError> {
        let own = &self.layers.quantized[product];
        let name = &self.checkpoint.tensors()[own.tensor].name;
        let becomes = &self.plan.products[product];
        if let Some(hit) = &self.surveyed.weights[product].hit {
            let known = hit.tensors();
            let fits = known.len() == becomes.len()
                && known.iter().zip(becomes).all(|(known, (end, dtype, dims))| {
                    known.name == format!("{}.{end}", own.layer)
                        && (known.dtype, &known.dims) == (*dtype, dims)
                });
            let read = match fits {
                true => self.memo.read(&mut self.streams, hit)?,
                false => None,
            };
            if let Some(read) = read {
                let all = read.into_iter().enumerate();
                self.ready.extend(all.map(|(part, bytes)| ((product, part), bytes)));
                self.linked += 1;
                self.events.layer(name, false);
                return Ok(());
            }
        }
        let bytes = match self.surveyed.weights[product].hit {
            // It was to be linked, so that nothing announced that its weight would be read.
            Some(_) => self.checkpoint.reader(std::iter::once(own.tensor)).read(own.tensor)?,
            None => self.reader.read(own.tensor)?,
        };
        let shape = &self.checkpoint.tensors()[own.tensor].shape;
        let permuted = match own.order {
            Change::Same => None,
            order => Some(permute(&bytes, shape, order)),
        };
        let bytes = match &permuted {
            Some(permuted) => {
                permuted.as_deref().ok_or_else(|| ProduceError::NoHeads(name.clone()))?
            }
            None => &bytes,
        };
        let weight = matrix(self.checkpoint, own, bytes)?;
        let recipe = own.recipe(self.recipe);
        let encoded = encode(&Layer { name, weight }, &recipe, self.solver, self.threads)?;
        let is = |(made, (end, dtype, dims)): (&Encoded, &(&str, _, Vec<u64>))| {
            (made.end, made.dtype, &made.dims) == (*end, *dtype, dims)
        };
        let mut encoded = encoded;
        encoded.sort_by_key(|made| becomes.iter().position(|(end, _, _)| *end == made.end));
        if encoded.len() != becomes.len() || !encoded.iter().zip(becomes).all(is) {
            return Err(ProduceError::Defect(name.clone()));
        }
        self.memo.note(self.surveyed.weights[product].key, &own.layer, &encoded);
        for (part, made) in encoded.into_iter().enumerate() {
            self.ready.insert((product, part), made.bytes.into());
        }
        self.computed += 1;
        self.events.layer(name, true);
        Ok(())
    }
}

/// A tensor that is not quantized as GGUF has it.
fn written(own: &Remade, tensor: &Tensor, bytes: &[u8]) -> Result<Vec<u8>, ProduceError> {
    let mut made = convert(bytes, own.float, own.to);
    match own.change {
        Change::Heads(_) | Change::Groups(_) => {
            let ordered = permute(&made, &tensor.shape, own.change);
            made = ordered.ok_or_else(|| ProduceError::NoHeads(tensor.name.clone()))?;
        }
        Change::PlusOne => {
            let count = made.len() / own.to.size() as usize;
            let mut more = Vec::with_capacity(made.len());
            (0..count).for_each(|at| own.to.push(own.to.read(&made, at) + 1.0, &mut more));
            made = more;
        }
        Change::Same | Change::Transposed => {}
    }
    let mut values = (0..made.len() / own.to.size() as usize).map(|at| own.to.read(&made, at));
    match values.all(f32::is_finite) {
        true => Ok(made),
        false => Err(ProduceError::GgufRange(tensor.name.clone())),
    }
}

/// The rows of a weight in the order that GGUF has them; `None` if they are not whole heads.
fn permute(bytes: &[u8], shape: &Shape, order: Change) -> Option<Vec<u8>> {
    let rows = usize::try_from(*shape.dims().first()?).ok()?;
    let width = bytes.len().checked_div(rows)?;
    let mut permuted = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let from = order.source_row(row, rows)? * width;
        permuted.extend_from_slice(bytes.get(from..from + width)?);
    }
    Some(permuted)
}

impl PartSource for Driver<'_> {
    fn make(&mut self, file: usize, part: usize) -> Result<Held, PackError> {
        let made = self.part(file, part);
        self.failed.keep(made)
    }

    fn may_pass(&self) -> bool {
        self.failed.may_pass()
    }

    fn finish(&mut self) -> Result<(), PackError> {
        self.checkpoint.check_unchanged().map_err(|error| {
            self.memo.forget();
            error.into()
        })
    }
}
