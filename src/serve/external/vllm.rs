//! vLLM's command. Pure.

use super::launch::{Invocation, Launch, ModelAt, Program, Unable, Word};

/// Options that are ours to give.
pub(super) const OWN: &[&str] = &[
    "--model",
    "--revision",
    "--tokenizer-revision",
    "--host",
    "--port",
    "--served-model-name",
    "--tensor-parallel-size",
    "-tp",
    "--max-model-len",
    "--max-num-seqs",
    "--dtype",
    "--api-key",
    "--lora-modules",
];

/// Ranks that vLLM reserves room for.
const RANKS: [u32; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];

pub(super) fn invocation(launch: &Launch) -> Result<Invocation, Unable> {
    let ModelAt::Hub { repo, revision } = &launch.model else {
        return Err(Unable("vLLM takes a repository, not a file".to_owned()));
    };
    let mut made = match &launch.program {
        Program::Bin(bin) => Invocation::new([bin.as_str(), "serve"]),
        Program::Python(python) => {
            Invocation::new([python.as_str(), "-m", "vllm.entrypoints.cli.main", "serve"])
        }
    };
    made.arg(repo.as_str());
    made.option("--revision", revision);
    made.option("--tokenizer-revision", revision);
    made.option("--host", launch.listen.ip());
    made.option("--port", launch.listen.port());
    made.arg("--served-model-name");
    launch.names.iter().for_each(|name| made.arg(name.as_str()));
    made.option_of("--tensor-parallel-size", launch.tensor_parallel);
    made.option_of("--max-model-len", launch.max_context);
    made.option_of("--max-num-seqs", launch.max_concurrent);
    made.option_of("--dtype", launch.dtype.map(|dtype| dtype.torch()));
    if !launch.adapters.is_empty() {
        let most = launch.adapters.iter().map(|own| own.rank).max().unwrap_or(0);
        let Some(rank) = RANKS.iter().find(|rank| **rank >= most) else {
            return Err(Unable(format!("vLLM takes adapters of a rank up to 512; one has {most}")));
        };
        made.arg("--enable-lora");
        made.option("--max-lora-rank", rank);
        made.arg("--lora-modules");
        for own in &launch.adapters {
            made.arg(format!("{}={}", own.name, own.folder.display()));
        }
    }
    match launch.api_keys.as_slice() {
        [] => {}
        // Where others on the machine do not see it.
        [key] => made.env("VLLM_API_KEY", Word::Secret(key.clone())),
        keys => {
            made.arg("--api-key");
            keys.iter().for_each(|key| made.arg(Word::Secret(key.clone())));
        }
    }
    launch.more.iter().for_each(|word| made.arg(word.as_str()));
    made.env("VLLM_NO_USAGE_STATS", "1");
    made.env("DO_NOT_TRACK", "1");
    // Another hub would be asked.
    made.unset.push("VLLM_USE_MODELSCOPE".to_owned());
    if launch.api_keys.len() != 1 {
        made.unset.push("VLLM_API_KEY".to_owned());
    }
    Ok(made)
}
