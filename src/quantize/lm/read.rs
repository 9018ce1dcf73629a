//! Reading a block out of a checkpoint, by its family's description.

use std::sync::Arc;

use super::attention::Attention;
use super::block::{Block, Experts, Gating, Latent, Norms, Stage};
use super::experts::Router;
use super::linear::Linear;
use super::norm::Norm;
use super::shelf::Shelf;
use super::{Checkpoint, LmConfig, LmError};

/// Reads block `index`; `prefix` is what names of the model's tensors begin with. Experts that take more than `room`
/// bytes are read when they are used.
pub(super) fn block(
    from: &Checkpoint,
    config: &LmConfig,
    prefix: &str,
    (index, room): (usize, u64),
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
        shelf: None,
    };
    let latent = reader.attention()?;
    let gating = reader.mlp(!own.has_experts)?;
    let experts = if own.has_experts { Some(reader.experts(room)?) } else { None };
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
    /// Where the layers that are read now are put, if they are not held.
    shelf: Option<Arc<Shelf>>,
}

impl Reader<'_> {
    fn stage(&mut self, stage: Stage, linears: Vec<Linear>) {
        let first = self.linears.len();
        self.linears.extend(linears);
        self.stages.push(stage);
        self.groups.push((first..self.linears.len()).collect());
    }

    fn linear(&self, name: &str, shape: [usize; 2]) -> Result<Linear, LmError> {
        Linear::read(self.from, format!("{}.{name}", self.path), shape, self.shelf.as_ref())
    }

    fn attention(&mut self) -> Result<Option<Latent>, LmError> {
        let (config, about) = (self.config, &self.config.about.attention);
        let (hidden, dim) = (config.hidden, config.head_dim);
        let (q, kv) = (config.heads * dim, config.kv_heads * dim);
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
                Some(rank) => self.linear(&names.q_down, [rank, hidden])?,
                None => self.linear(&names.q, [q, hidden])?,
            };
            let kv = self.linear(&names.kv_down, [numbers.kv_rank + numbers.turned, hidden])?;
            self.stage(Stage::LatentDown, vec![down, kv]);
            if let Some(rank) = numbers.q_rank {
                let up = self.linear(&names.q_up, [q, rank])?;
                self.stage(Stage::LatentQ, vec![up]);
            }
            let rows = config.heads * (numbers.plain + config.numbers.value_dim);
            let up = self.linear(&names.kv_up, [rows, numbers.kv_rank])?;
            self.stage(Stage::LatentKv, vec![up]);
        } else if let Some(fused) = &about.qkv {
            let linear = self.linear(&fused.name, [q + 2 * kv, hidden])?;
            self.stage(Stage::Heads, vec![linear]);
        } else {
            let name = |name: &Option<String>| name.clone().ok_or_else(missing);
            let apart = vec![
                self.linear(&name(&about.q)?, [q, hidden])?,
                self.linear(&name(&about.k)?, [kv, hidden])?,
                self.linear(&name(&about.v)?, [kv, hidden])?,
            ];
            self.stage(Stage::Heads, apart);
        }
        let o = self.linear(&about.o, [hidden, config.heads * config.numbers.value_dim])?;
        self.stage(Stage::Out, vec![o]);
        Ok(latent)
    }

    /// Gate and up as they are, and how they are put together.
    fn ups(
        &self,
        [gate, up, both]: [Option<String>; 3],
        wide: usize,
    ) -> Result<(Vec<Linear>, bool), LmError> {
        let hidden = self.config.hidden;
        let linear = |name: &str, rows| self.linear(name, [rows, hidden]);
        Ok(match (gate, up, both) {
            (_, _, Some(both)) => (vec![linear(&both, 2 * wide)?], true),
            (Some(gate), Some(up), None) => (vec![linear(&gate, wide)?, linear(&up, wide)?], false),
            (None, Some(up), None) => (vec![linear(&up, wide)?], false),
            _ => return Err(LmError::Defect("a description of an MLP without layers")),
        })
    }

    fn mlp(&mut self, is_used: bool) -> Result<Gating, LmError> {
        let (config, about) = (self.config, &self.config.about.mlp);
        let mut gating =
            Gating { activation: config.numbers.activation, limit: None, fused: false };
        if is_used {
            let names = [about.gate.clone(), about.up.clone(), about.gate_up.clone()];
            let (ups, fused) = self.ups(names, config.intermediate)?;
            gating.fused = fused;
            let down = self.linear(&about.down, [config.hidden, config.intermediate])?;
            self.stage(Stage::Up(None), ups);
            self.stage(Stage::Down(None), vec![down]);
        }
        Ok(gating)
    }

    fn experts(&mut self, room: u64) -> Result<Experts, LmError> {
        let config = self.config;
        let (Some(about), Some(numbers)) = (&config.about.experts, &config.numbers.experts) else {
            return Err(LmError::Defect("no experts"));
        };
        let router = Router::read(self.from, config, numbers, &self.path)?;
        let mut gating =
            Gating { activation: numbers.activation, limit: numbers.limit, fused: false };
        let mut shared = Gating { limit: None, ..gating };
        let mut switch = None;
        if let (Some(names), Some(wide)) = (&about.shared, numbers.shared) {
            let ups = [names.gate.clone(), names.up.clone(), names.gate_up.clone()];
            let (ups, fused) = self.ups(ups, wide)?;
            shared.fused = fused;
            let down = self.linear(&names.down, [config.hidden, wide])?;
            self.stage(Stage::SharedUp, ups);
            self.stage(Stage::SharedDown, vec![down]);
            if let Some(name) = &names.switch {
                let name = format!("{}.{name}.weight", self.path);
                switch = Some(self.from.tensor(&name, &[1, config.hidden])?);
            }
        }
        let names = about.names();
        let of_one = names.iter().flatten().count() * config.hidden * numbers.intermediate * 4;
        if (numbers.count as u64).saturating_mul(of_one as u64) > room {
            self.shelf = Some(Arc::new(Shelf::new(self.from)));
        }
        for expert in 0..numbers.count {
            let name = |name: &String| name.replace("{}", &expert.to_string());
            let wide = numbers.intermediate;
            let [gate, up, down] = names.each_ref().map(|own| own.as_ref().map(name));
            let (ups, fused) = self.ups([gate, up, None], wide)?;
            let down = self.linear(&down.unwrap_or_default(), [config.hidden, wide])?;
            gating.fused = fused;
            self.stage(Stage::Up(Some(expert)), ups);
            self.stage(Stage::Down(Some(expert)), vec![down]);
        }
        self.shelf = None;
        Ok(Experts { router, gating, shared, switch })
    }
}
