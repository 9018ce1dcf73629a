//! SGLang's command. Pure.

use super::launch::{Invocation, Launch, ModelAt, Program, Unable, Word};

/// Options that are ours to give.
pub(super) const OWN: &[&str] = &[
    "--model-path",
    "--model",
    "--revision",
    "--host",
    "--port",
    "--served-model-name",
    "--tp-size",
    "--tensor-parallel-size",
    "--tp",
    "--context-length",
    "--max-running-requests",
    "--dtype",
    "--api-key",
    "--lora-paths",
];

pub(super) fn invocation(launch: &Launch) -> Result<Invocation, Unable> {
    let ModelAt::Hub { repo, revision } = &launch.model else {
        return Err(Unable("SGLang takes a repository, not a file".to_owned()));
    };
    let ([name], keys @ ([] | [_])) = (launch.names.as_slice(), launch.api_keys.as_slice()) else {
        return Err(Unable("SGLang takes one --served-name and one --api-key".to_owned()));
    };
    let mut made = match &launch.program {
        Program::Bin(bin) => Invocation::new([bin.as_str(), "serve"]),
        Program::Python(python) => Invocation::new([python.as_str(), "-m", "sglang.launch_server"]),
    };
    made.option("--model-path", repo);
    made.option("--revision", revision);
    made.option("--host", launch.listen.ip());
    made.option("--port", launch.listen.port());
    made.option("--served-model-name", name);
    made.option_of("--tp-size", launch.tensor_parallel);
    made.option_of("--context-length", launch.max_context);
    made.option_of("--max-running-requests", launch.max_concurrent);
    made.option_of("--dtype", launch.dtype.map(|dtype| dtype.torch()));
    if !launch.adapters.is_empty() {
        made.arg("--enable-lora");
        made.arg("--lora-paths");
        for own in &launch.adapters {
            made.arg(format!("{}={}", own.name, own.folder.display()));
        }
    }
    if let [key] = keys {
        made.arg("--api-key");
        made.arg(Word::Secret(key.clone()));
    }
    launch.more.iter().for_each(|word| made.arg(word.as_str()));
    made.env("DO_NOT_TRACK", "1");
    // Another hub would be asked.
    made.unset.push("SGLANG_USE_MODELSCOPE".to_owned());
    Ok(made)
}
