//! The command of Text Generation Inference, which is archived. Pure.

use super::launch::{ComputeType, Invocation, Launch, ModelAt, Program, Unable, Word};

/// Options that are ours to give.
pub(super) const OWN: &[&str] = &[
    "--model-id",
    "--revision",
    "--hostname",
    "--port",
    "-p",
    "--num-shard",
    "--sharded",
    "--max-total-tokens",
    "--max-input-tokens",
    "--max-input-length",
    "--max-concurrent-requests",
    "--dtype",
    "--quantize",
    "--api-key",
    "--huggingface-hub-cache",
    "--lora-adapters",
];

/// What `--quantize` calls a layout.
fn quantize(layout: &str) -> Result<&'static str, Unable> {
    let format = layout.split(' ').next().unwrap_or(layout);
    Ok(match format {
        "gptq" => "gptq",
        "awq" => "awq",
        "compressed-tensors" => "compressed-tensors",
        "bitsandbytes" if layout.contains("nf4") => "bitsandbytes-nf4",
        "bitsandbytes" => "bitsandbytes",
        _ => {
            return Err(Unable(format!(
                "TGI has no --quantize for {layout}; quantize with --format gptq, awq or compressed-tensors"
            )));
        }
    })
}

pub(super) fn invocation(launch: &Launch) -> Result<Invocation, Unable> {
    let unable = |why: &str| Err(Unable(why.to_owned()));
    let ModelAt::Hub { repo, revision } = &launch.model else {
        return unable("TGI takes a repository, not a file");
    };
    let Program::Bin(bin) = &launch.program else {
        return unable("TGI is no Python module; name text-generation-launcher with --engine-bin");
    };
    let keys @ ([] | [_]) = launch.api_keys.as_slice() else {
        return unable("TGI takes one --api-key");
    };
    if launch.named {
        return unable("TGI answers to any model's name; leave --served-name out");
    }
    if launch.dtype == Some(ComputeType::F32) {
        return unable("TGI computes in bf16 or f16; give one of them with --dtype");
    }
    let mut made = Invocation::new([bin.as_str()]);
    made.option("--model-id", repo);
    made.option("--revision", revision);
    made.option("--hostname", launch.listen.ip());
    made.option("--port", launch.listen.port());
    made.option_of("--num-shard", launch.tensor_parallel);
    if let Some(tokens) = launch.max_context {
        made.option("--max-total-tokens", tokens);
        made.option("--max-input-tokens", tokens.saturating_sub(1).max(1));
    }
    made.option_of("--max-concurrent-requests", launch.max_concurrent);
    match &launch.layout {
        // The two exclude each other.
        Some(_) if launch.dtype.is_some() => {
            return unable("TGI takes no --dtype for quantized weights; leave it out");
        }
        Some(layout) => made.option("--quantize", quantize(layout)?),
        None => made.option_of("--dtype", launch.dtype.map(|dtype| dtype.torch())),
    }
    made.option("--usage-stats", "off");
    launch.more.iter().for_each(|word| made.arg(word.as_str()));
    if !launch.adapters.is_empty() {
        let own = |own: &super::launch::Adapter| format!("{}={}", own.name, own.folder.display());
        let all: Vec<String> = launch.adapters.iter().map(own).collect();
        made.env("LORA_ADAPTERS", all.join(","));
    }
    match keys {
        // Where others on the machine do not see it.
        [key] => made.env("API_KEY", Word::Secret(key.clone())),
        _ => made.unset.push("API_KEY".to_owned()),
    }
    Ok(made)
}
