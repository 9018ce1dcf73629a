//! llama.cpp's command. Pure.

use super::launch::{Invocation, Launch, ModelAt, Program, Unable, Word};

/// Options that are ours to give.
pub(super) const OWN: &[&str] = &[
    "--model",
    "-m",
    "--hf-repo",
    "-hf",
    "-hfr",
    "--model-url",
    "-mu",
    "--host",
    "--port",
    "--alias",
    "-a",
    "--ctx-size",
    "-c",
    "--parallel",
    "-np",
    "--api-key",
    "--api-key-file",
];

pub(super) fn invocation(launch: &Launch) -> Result<Invocation, Unable> {
    let unable = |why: &str| Err(Unable(why.to_owned()));
    let ModelAt::File(file) = &launch.model else {
        return unable("llama.cpp takes a GGUF file, not a repository");
    };
    let Program::Bin(bin) = &launch.program else {
        return unable("llama.cpp is no Python module; name llama-server with --engine-bin");
    };
    let [name] = launch.names.as_slice() else {
        return unable("llama.cpp takes one --served-name");
    };
    if launch.tensor_parallel.is_some_and(|gpus| gpus > 1) {
        return unable(
            "llama.cpp spreads layers over all GPUs by itself; leave --tensor-parallel out",
        );
    }
    if launch.dtype.is_some() {
        return unable("llama.cpp computes in the types of the GGUF file; leave --dtype out");
    }
    if !launch.adapters.is_empty() {
        return unable(
            "llama.cpp takes adapters as GGUF files only: give one after --, with --lora FILE",
        );
    }
    let mut made = Invocation::new([bin.as_str()]);
    made.option("--model", file.display());
    made.option("--host", launch.listen.ip());
    made.option("--port", launch.listen.port());
    made.option("--alias", name);
    if let Some(tokens) = launch.max_context {
        // It is the room of all texts at a time.
        made.option(
            "--ctx-size",
            u64::from(tokens) * u64::from(launch.max_concurrent.unwrap_or(1)),
        );
    }
    made.option_of("--parallel", launch.max_concurrent.or(launch.max_context.map(|_| 1)));
    launch.more.iter().for_each(|word| made.arg(word.as_str()));
    match launch.api_keys.as_slice() {
        [] => made.unset.push("LLAMA_API_KEY".to_owned()),
        keys if keys.iter().any(|key| key.contains(',')) => {
            return unable("llama.cpp takes API keys without commas");
        }
        // Where others on the machine do not see it.
        keys => made.env("LLAMA_API_KEY", Word::Secret(keys.join(","))),
    }
    Ok(made)
}
