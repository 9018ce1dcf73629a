//! The environment in which an engine takes every file from our edge, and tells nobody. Pure.

use super::launch::{Invocation, Word};

/// What would lead an engine elsewhere, or show the user's own token to somebody.
const ELSEWHERE: &[&str] = &[
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "TRANSFORMERS_CACHE",
    "HF_ASSETS_CACHE",
    "HF_XET_CACHE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "HF_HUB_ENABLE_HF_TRANSFER",
    "HF_HUB_USER_AGENT_ORIGIN",
];

/// Seconds for an answer: what is not in the edge's cache comes from the store.
const PATIENCE: &str = "120";

/// The hub of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    /// The edge's address.
    pub url: String,
    /// What the edge wants to see.
    pub token: String,
    /// The folder for what the engine keeps of it.
    pub home: String,
}

impl Hub {
    /// Adds what leads the engine here. `no_proxy` is what this process has.
    pub fn lead(&self, to: &mut Invocation, no_proxy: Option<&str>) {
        to.env("HF_ENDPOINT", self.url.as_str());
        to.env("HF_TOKEN", Word::Secret(self.token.clone()));
        to.env("HF_HOME", self.home.as_str());
        to.env("HF_HUB_DISABLE_TELEMETRY", "1");
        to.env("HF_HUB_DISABLE_UPDATE_CHECK", "1");
        // Files come whole over HTTP: the edge has verified their bytes.
        to.env("HF_HUB_DISABLE_XET", "1");
        to.env("HF_HUB_ETAG_TIMEOUT", PATIENCE);
        to.env("HF_HUB_DOWNLOAD_TIMEOUT", PATIENCE);
        let around = match no_proxy.filter(|hosts| !hosts.is_empty()) {
            Some(hosts) => format!("{hosts},127.0.0.1,localhost"),
            None => "127.0.0.1,localhost".to_owned(),
        };
        // Loopback is reached through no proxy.
        to.env("NO_PROXY", around.as_str());
        to.env("no_proxy", around);
        to.unset.extend(ELSEWHERE.iter().map(|name| (*name).to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_led_to_the_edge_and_nowhere_else() {
        let hub = Hub {
            url: "http://127.0.0.1:1".to_owned(),
            token: "t0ken".to_owned(),
            home: "/tmp/home".to_owned(),
        };
        let mut made = Invocation::new(["x"]);
        hub.lead(&mut made, Some("intern"));
        let value = |name: &str| {
            let found: Vec<&str> = made
                .set
                .iter()
                .filter(|(own, _)| own == name)
                .map(|(_, value)| value.value())
                .collect();
            found.join("|")
        };
        assert_eq!(value("HF_ENDPOINT"), "http://127.0.0.1:1");
        assert_eq!(value("HF_TOKEN"), "t0ken");
        assert_eq!(value("HF_HOME"), "/tmp/home");
        assert_eq!(value("NO_PROXY"), "intern,127.0.0.1,localhost");
        assert_eq!(value("no_proxy"), value("NO_PROXY"));
        assert!(!made.shown().contains("t0ken"));
        assert!(made.unset.iter().all(|name| value(name).is_empty()));
        for name in ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"] {
            assert!(made.unset.iter().any(|own| own == name));
        }
    }
}
