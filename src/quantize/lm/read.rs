//! Reading a block out of a checkpoint, by its family's description.

use candle_core::{D, Tensor};

use super::attention::Attention;
use super::block::{Block, Experts, Gating, Halves, Latent, Norms, Stage};
use super::experts::Router;
use super::linear::Linear;
use super::norm::Norm;
use super::{Checkpoint, LmConfig, LmError};

/// Reads block `index`; `prefix` is what names of the model's tensors begin with.
pub(super) fn block(
    from: &Checkpoint,
    config: &LmConfig,
    prefix: &str,
    index: usize,
) -> Result<Block, LmError> {
    let about = &*config.about;
    let own = config.by_layer.get(index).ok_or(LmError::Defect("there is no such layer"))?;
    let path = format!("{prefix}{}", about.block.replace("{}", &index.to_string()));
    let norm = |name: &Option<String>| match name {
        Some(name) => {
            let name = format!("{path}.{name}");
            Norm::read(from, &name, about.norm, &[config.hidden], config.epsilon).map(Some)
        }
        None => Ok(None),
    };
    let norms = Norms {
        attention: norm(&about.norms.attention)?,
        attention_out: norm(&about.norms.attention_out)?,
        attention_sum: norm(&about.norms.attention_sum)?,
        mlp: norm(&about.norms.mlp)?,
        mlp_out: norm(&about.norms.mlp_out)?,
        mlp_sum: norm(&about.norms.mlp_sum)?,
    };
    let mut reader = Reader {
        from,
        config,
        path: path.clone(),
        linears: Vec::new(),
        stages: Vec::new(),
        groups: Vec::new(),
    };
    let latent = reader.attention()?;
    let gating = reader.mlp(!own.has_experts)?;
    let experts = if own.has_experts { Some(reader.experts()?) } else { None };
    Ok(Block {
        attention: Attention::read(from, config, (prefix, &path), index)?,
        order: config.order(),
        latent,
        norms,
        parallel: about.parallel,
        residual: config.numbers.residual,
        gating,
        experts,
        linears: reader.linears,
        stages: reader.stages,
        groups: reader.groups,
    })
}

/// Reads linear layers, in the order in which they run.
struct Reader<'a> {
    from: &'a Checkpoint,
    config: &'a LmConfig,
    path: String,
    linears: Vec<Linear>,
    stages: Vec<Stage>,
    groups: Vec<Vec<usize>>,
}

impl Reader<'_> {
    fn stage(&mut self, stage: Stage, linears: Vec<Linear>) {
        let first = self.linears.len();
        self.linears.extend(linears);
        self.stages.push(stage);
        self.groups.push((first..self.linears.len()).collect());
    }

    fn linear(&self, name: &str, shape: [usize; 2], transposed: bool) -> Result<Linear, LmError> {
        Linear::read(self.from, format!("{}.{name}", self.path), shape, transposed)
    }

    fn attention(&mut self) -> Result<Option<Latent>, LmError> {
        let (config, about) = (self.config, &self.config.about.attention);
        let (hidden, dim) = (config.hidden, config.head_dim);
        let (q, kv) = (config.heads * dim, config.kv_heads * dim);
        let turns = about.transposed;
        let missing = || LmError::Defect("a description without q, k and v");
        let mut latent = None;
        if let (Some(names), Some(numbers)) = (&about.latent, &config.numbers.latent) {
            let norm = |name: &str, width| {
                let path = format!("{}.{name}", self.path);
                Norm::read(self.from, &path, config.about.norm, &[width], numbers.epsilon)
            };
            let q_norm = numbers.q_rank.map(|rank| norm(&names.q_norm, rank)).transpose()?;
            let kv_norm = norm(&names.kv_norm, numbers.kv_rank)?;
            latent = Some(Latent { q_norm, kv_norm, plain: numbers.plain });
            let down = match numbers.q_rank {
                Some(rank) => self.linear(&names.q_down, [rank, hidden], turns)?,
                None => self.linear(&names.q, [q, hidden], turns)?,
            };
            let kv =
                self.linear(&names.kv_down, [numbers.kv_rank + numbers.turned, hidden], turns)?;
            self.stage(Stage::LatentDown, vec![down, kv]);
            if let Some(rank) = numbers.q_rank {
                let up = self.linear(&names.q_up, [q, rank], turns)?;
                self.stage(Stage::LatentQ, vec![up]);
            }
            let rows = config.heads * (numbers.plain + config.numbers.value_dim);
            let up = self.linear(&names.kv_up, [rows, numbers.kv_rank], turns)?;
            self.stage(Stage::LatentKv, vec![up]);
        } else if let Some(fused) = &about.qkv {
            let linear = self.linear(&fused.name, [q + 2 * kv, hidden], turns)?;
            self.stage(Stage::Heads, vec![linear]);
        } else {
            let name = |name: &Option<String>| name.clone().ok_or_else(missing);
            let apart = vec![
                self.linear(&name(&about.q)?, [q, hidden], turns)?,
                self.linear(&name(&about.k)?, [kv, hidden], turns)?,
                self.linear(&name(&about.v)?, [kv, hidden], turns)?,
            ];
            self.stage(Stage::Heads, apart);
        }
        let o = self.linear(&about.o, [hidden, config.heads * config.numbers.value_dim], turns)?;
        self.stage(Stage::Out, vec![o]);
        Ok(latent)
    }

    /// Gate and up as they are, and how they are put together.
    fn ups(
        &self,
        [gate, up, both]: [Option<String>; 3],
        wide: usize,
        turns: bool,
    ) -> Result<(Vec<Linear>, Option<Halves>), LmError> {
        let hidden = self.config.hidden;
        let linear = |name: &str, rows| self.linear(name, [rows, hidden], turns);
        Ok(match (gate, up, both) {
            (_, _, Some(both)) => (vec![linear(&both, 2 * wide)?], Some(Halves::Apart)),
            (Some(gate), Some(up), None) => (vec![linear(&gate, wide)?, linear(&up, wide)?], None),
            (None, Some(up), None) => (vec![linear(&up, wide)?], None),
            _ => return Err(LmError::Defect("a description of an MLP without layers")),
        })
    }

    fn mlp(&mut self, is_used: bool) -> Result<Gating, LmError> {
        let (config, about) = (self.config, &self.config.about.mlp);
        let mut gating = Gating { activation: config.numbers.activation, limit: None, fused: None };
        if is_used {
            let names = [about.gate.clone(), about.up.clone(), about.gate_up.clone()];
            let (ups, fused) = self.ups(names, config.intermediate, about.transposed)?;
            gating.fused = fused;
            let down =
                self.linear(&about.down, [config.hidden, config.intermediate], about.transposed)?;
            self.stage(Stage::Up(None), ups);
            self.stage(Stage::Down(None), vec![down]);
        }
        Ok(gating)
    }

    fn experts(&mut self) -> Result<Experts, LmError> {
        let config = self.config;
        let (Some(about), Some(numbers)) = (&config.about.experts, &config.numbers.experts) else {
            return Err(LmError::Defect("no experts"));
        };
        let router = Router::read(self.from, config, numbers, &self.path)?;
        let mut gating =
            Gating { activation: numbers.activation, limit: numbers.limit, fused: None };
        let mut shared = Gating { limit: None, ..gating };
        let mut switch = None;
        if let (Some(names), Some(wide)) = (&about.shared, numbers.shared) {
            let ups = [names.gate.clone(), names.up.clone(), names.gate_up.clone()];
            let (ups, fused) = self.ups(ups, wide, false)?;
            shared.fused = fused;
            let down = self.linear(&names.down, [config.hidden, wide], false)?;
            self.stage(Stage::SharedUp, ups);
            self.stage(Stage::SharedDown, vec![down]);
            if let Some(name) = &names.switch {
                let name = format!("{}.{name}.weight", self.path);
                switch = Some(self.from.tensor(&name, &[1, config.hidden])?);
            }
        }
        for expert in 0..numbers.count {
            let name = |name: &String| name.replace("{}", &expert.to_string());
            let wide = numbers.intermediate;
            let (ups, fused, down) = if let Some(stacked) = &about.stacked {
                let biases = stacked.biases.as_ref();
                let slice = |name: &str, bias: Option<&String>, shape: [usize; 2]| {
                    let bias = bias.map(|bias| format!("{}.{bias}", self.path));
                    let name = format!("{}.{name}", self.path);
                    let place = (expert, numbers.count);
                    stacked_layer(
                        self.from,
                        &name,
                        bias.as_deref(),
                        place,
                        shape,
                        stacked.transposed,
                    )
                };
                let both =
                    slice(&stacked.gate_up, biases.map(|[up, _]| up), [2 * wide, config.hidden])?;
                let down =
                    slice(&stacked.down, biases.map(|[_, down]| down), [config.hidden, wide])?;
                let halves = if stacked.interleaved { Halves::Alternate } else { Halves::Apart };
                (vec![both], Some(halves), down)
            } else {
                let names = [&about.gate, &about.up].map(|own| own.as_ref().map(name));
                let [gate, up] = names;
                let (ups, fused) = self.ups([gate, up, None], wide, false)?;
                let down = about.down.as_ref().map(name).unwrap_or_default();
                (ups, fused, self.linear(&down, [config.hidden, wide], false)?)
            };
            gating.fused = fused;
            self.stage(Stage::Up(Some(expert)), ups);
            self.stage(Stage::Down(Some(expert)), vec![down]);
        }
        Ok(Experts { router, gating, shared, switch })
    }
}

/// A linear layer out of a tensor of all experts' layers.
fn stacked_layer(
    from: &Checkpoint,
    name: &str,
    bias: Option<&str>,
    (expert, count): (usize, usize),
    [rows, columns]: [usize; 2],
    transposed: bool,
) -> Result<Linear, LmError> {
    let weight = match transposed {
        true => from.slice(name, [count, columns, rows], expert)?.t()?.contiguous()?,
        false => from.slice(name, [count, rows, columns], expert)?,
    };
    let bias: Option<Tensor> = match bias {
        Some(bias) => Some(from.tensor(bias, &[count, rows])?.narrow(0, expert, 1)?.flatten_all()?),
        None => None,
    };
    debug_assert_eq!(weight.dim(D::Minus1).ok(), Some(columns));
    let (stack, part) = name.rsplit_once('.').unwrap_or(("", name));
    let part = part.strip_suffix(".weight").unwrap_or(part);
    Ok(Linear { name: format!("{stack}.{expert}.{part}"), weight, bias })
}
