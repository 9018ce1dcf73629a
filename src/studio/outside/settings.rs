//! What an operator says of the world outside: which Hub, whose tokens, which servers inside may be asked.

use std::collections::HashMap;

use super::client::Outside;
use super::place::Hub;

/// The Hub that is asked where nothing else is said.
const HUB: &str = "https://huggingface.co";

/// The tenant of whoever works without tokens.
pub const LOCAL: &str = "local";

/// What is asked outside, and as whom.
#[derive(Debug, Clone)]
pub struct OutsideOptions {
    endpoint: String,
    /// The Hub's tokens, by tenant.
    tokens: HashMap<String, String>,
    allowed: Vec<String>,
    certificates: Vec<Vec<u8>>,
}

impl OutsideOptions {
    /// The Hub at `endpoint` (or the public one); `tokens` has a tenant and its token on each line; `allowed` are
    /// servers (`HOST:PORT`) that may have any address, and speak http. `own` is the token of who works without tokens.
    ///
    /// # Errors
    /// If a line is not understood, or the endpoint is no address.
    pub fn new(
        endpoint: Option<&str>,
        own: Option<String>,
        tokens: Option<&str>,
        allowed: &[String],
        certificates: Vec<Vec<u8>>,
    ) -> Result<Self, String> {
        let endpoint = endpoint.filter(|own| !own.is_empty()).unwrap_or(HUB).to_owned();
        // Whoever names a Hub says with it that it may be asked, wherever it is.
        let hub = Hub::new(&endpoint, None)?;
        let mut allowed = allowed.to_vec();
        if let Some(wrong) = allowed.iter().find(|one| {
            one.rsplit_once(':')
                .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
        }) {
            return Err(format!("{wrong}: expected HOST:PORT"));
        }
        if endpoint != HUB {
            allowed.push(hub.authority());
        }
        let mut by_tenant: HashMap<String, String> =
            own.map(|own| (LOCAL.to_owned(), own)).into_iter().collect();
        for (line, text) in (1..).zip(tokens.unwrap_or_default().lines().map(str::trim)) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let mut words = text.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some(tenant), Some(token), None) => {
                    // It can be sent.
                    Hub::new(&endpoint, Some(token))
                        .map_err(|why| format!("line {line}: {why}"))?;
                    by_tenant.insert(tenant.to_owned(), token.to_owned());
                }
                _ => return Err(format!("line {line}: expected TENANT TOKEN")),
            }
        }
        Ok(Self { endpoint, tokens: by_tenant, allowed, certificates })
    }

    /// A client that keeps to it.
    pub fn client(&self) -> Outside {
        Outside::guarded(&self.allowed, self.certificates.clone())
    }

    /// The Hub, as this tenant asks it.
    ///
    /// # Errors
    /// If its token cannot be sent.
    pub fn hub(&self, tenant: &str) -> Result<Hub, String> {
        Hub::new(&self.endpoint, self.token(tenant))
    }

    /// The Hub, as whoever works without tokens asks it.
    ///
    /// # Errors
    /// If the token cannot be sent.
    pub fn own_hub(&self) -> Result<Hub, String> {
        self.hub(LOCAL)
    }

    /// The Hub's token of a tenant.
    pub fn token(&self, tenant: &str) -> Option<&str> {
        self.tokens.get(tenant).map(String::as_str)
    }

    /// Servers that may have any address.
    pub fn allowed(&self) -> &[String] {
        &self.allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_of_tenants() {
        let of = |tokens: &str, allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            OutsideOptions::new(
                Some("http://hub.inside:80"),
                Some("mine".to_owned()),
                Some(tokens),
                &allowed,
                Vec::new(),
            )
        };
        let options = of("# who\none hf_a\n\ntwo hf_b\n", &["minio:9000"]).unwrap();
        assert_eq!(
            (options.token("one"), options.token("three"), options.token(LOCAL)),
            (Some("hf_a"), None, Some("mine"))
        );
        assert_eq!(options.allowed(), ["minio:9000", "hub.inside:80"]);
        for wrong in ["one", "one a b", "one \u{7f}x"] {
            assert!(of(wrong, &[]).is_err(), "{wrong}");
        }
        assert!(of("", &["minio"]).is_err() && of("", &[":80"]).is_err());
        assert!(OutsideOptions::new(Some("ftp://x"), None, None, &[], Vec::new()).is_err());
    }
}
