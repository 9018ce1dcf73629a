//! What is deployed: the server, where its weights come from, and whom to trust. Pure.

use crate::serve::external::{External, Invocation};

/// The edge's address in the pod that it shares with the engine.
pub const EDGE: &str = "127.0.0.1:8080";
/// Where an edge listens in a deployment.
pub(super) const EDGE_PORT: u16 = 8080;
/// Where the server listens in a container.
pub const PORT: u16 = 8000;
/// The folder of what is kept, in a container.
pub const CACHE: &str = "/var/cache/tenpak";
/// The folder of keys, in a container.
pub const KEYS: &str = "/etc/tenpak/trust";
/// The folder of a store that is a folder, in a container.
pub const STORE: &str = "/var/lib/tenpak/store";
/// The variable of the keys of requests.
pub const API_KEYS: &str = "TENPAK_API_KEYS";
/// The image that `deploy/Containerfile` makes.
pub(super) const IMAGE: &str = "tenpak";
/// Seconds that an engine may take until it is ready.
pub(super) const START: u64 = 3600;
/// Seconds that a server has to finish what it has begun.
pub(super) const STOP: u64 = 120;

/// A trusted key: the name of its file, and what is in it, which is public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// The file's name.
    pub name: String,
    /// What is in it.
    pub content: String,
}

/// Which process serves.
#[derive(Debug, Clone, PartialEq)]
pub enum Server {
    /// `tenpak serve` itself, with these arguments.
    Tenpak(Vec<String>),
    /// An engine in its own image. Words that are secret stand for the key of requests.
    Engine {
        /// Which.
        engine: External,
        /// Its command, the model being in the repository of the edge.
        invocation: Invocation,
        /// The artifact that is unpacked first, where the engine takes files.
        unpack: Option<String>,
    },
}

/// What is deployed.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// The artifact, as it is shown.
    pub artifact: String,
    /// What runs.
    pub server: Server,
    /// The store, and its mirrors: addresses, or a folder of the host.
    pub stores: Vec<String>,
    /// Keys that are trusted.
    pub trust: Vec<TrustedKey>,
    /// Whether requests must show a key.
    pub api_key: bool,
    /// GPUs.
    pub gpus: Option<u32>,
    /// Bytes of the weights.
    pub weights: u64,
}

impl Deployment {
    /// A name that every form takes: lower-case letters, digits and `-`.
    pub fn slug(&self) -> String {
        let name = self.artifact.split(':').next().unwrap_or(&self.artifact);
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = name.chars().map(letter).collect();
        let short: String = name.trim_matches('-').chars().take(40).collect();
        format!("tenpak-{}", short.trim_end_matches('-'))
    }

    /// The image of what serves.
    pub(super) fn image(&self) -> &'static str {
        match &self.server {
            Server::Tenpak(_) => IMAGE,
            Server::Engine { engine, .. } => match engine {
                External::Vllm => "docker.io/vllm/vllm-openai:v0.33.0",
                External::Sglang => "docker.io/lmsysorg/sglang:v0.5.23",
                External::Tgi => "ghcr.io/huggingface/text-generation-inference:3.3.7",
                External::LlamaCpp => "ghcr.io/ggml-org/llama.cpp:server-cuda",
            },
        }
    }

    /// What a store is called in a container: a folder of the host is mounted.
    fn inside(&self, index: usize, store: &str) -> String {
        match store.contains("://") {
            true => store.to_owned(),
            false => format!("{STORE}-{index}"),
        }
    }

    /// Folders of the host, and where a container has them.
    pub(super) fn mounts(&self) -> Vec<(&str, String)> {
        let all = self.stores.iter().enumerate();
        all.filter(|(_, store)| !store.contains("://"))
            .map(|(index, store)| (store.as_str(), self.inside(index, store)))
            .collect()
    }

    /// The flags that say from where, and whom to trust.
    pub fn sources(&self, store: &str) -> Vec<String> {
        let mut flags = Vec::new();
        for (index, own) in self.stores.iter().enumerate() {
            flags.push(format!(
                "{}={}",
                if index == 0 { store } else { "--mirror" },
                self.inside(index, own)
            ));
        }
        flags.extend(self.trust.iter().map(|key| format!("--trust={KEYS}/{}", key.name)));
        flags
    }

    /// The command of the edge.
    pub(super) fn edge(&self) -> Vec<String> {
        let mut words = vec!["edge".to_owned()];
        words.extend(self.sources("--origin"));
        words.push(format!("--listen=0.0.0.0:{EDGE_PORT}"));
        words.push(format!("--cache-dir={CACHE}/chunks"));
        words.push(format!("--cache-disk={}G", disk(self.weights)));
        words
    }

    /// The command that writes an artifact's files before the engine starts.
    pub(super) fn unpacking(&self, artifact: &str) -> Vec<String> {
        let mut words =
            vec!["unpack".to_owned(), artifact.to_owned(), format!("--out={CACHE}/files")];
        // The tag may have moved since the last start.
        words.push("--force".to_owned());
        words.extend(self.sources("--store"));
        words
    }
}

/// GiB of a cache that holds the weights with room for another version.
pub(super) fn disk(weights: u64) -> u64 {
    (weights >> 30).saturating_add(1).saturating_mul(2).max(16)
}
