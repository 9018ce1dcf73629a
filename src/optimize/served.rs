//! Candidates that a server runs which speaks as OpenAI's does: what it tells of a text, and how fast it is.

use futures_util::future::try_join_all;

use super::endpoint::Endpoint;
use super::told::{Dialect, Told, parse};
use crate::serve::speed::Client;

/// Windows that are asked for at a time: engines read several together.
const AT_ONCE: usize = 4;

/// A server, and which of its models is meant.
#[derive(Debug)]
pub(super) struct Server {
    client: Client,
    url: String,
    model: String,
    /// What it says of itself.
    pub(super) version: String,
    dialect: Option<Dialect>,
}

impl Server {
    /// The first of `endpoints` that serves what has one of these names.
    ///
    /// # Errors
    /// If none does, or one that should does not: in words.
    pub(super) async fn find(
        endpoints: &[&Endpoint],
        names: &[String],
        key: Option<&String>,
    ) -> Result<Self, String> {
        let mut seen = Vec::new();
        for endpoint in endpoints {
            let url = endpoint.url.clone();
            let client = Client::open(&url, key.cloned()).map_err(|error| error.to_string())?;
            let listed = client.models().await.map_err(|error| error.to_string())?;
            if let Some(model) = endpoint.choose(&listed, names)? {
                let version = client.version().await.unwrap_or_default();
                return Ok(Self { client, url, model, version, dialect: None });
            }
            seen.push(format!("{url} serves {}", listed.join(", ")));
        }
        let seen =
            if seen.is_empty() { "no server is named for it".to_owned() } else { seen.join("; ") };
        Err(format!("it is not served: {seen}; serve it as {}", names.join(" or ")))
    }

    /// What a run's results are told apart by.
    pub(super) fn about(&self) -> String {
        format!("{} {}", self.model, self.version)
    }

    /// Where it is measured, in words.
    pub(super) fn words(&self) -> String {
        format!("measured at {}, which calls it {}", self.url, self.model)
    }

    /// What it tells of each of some windows.
    ///
    /// # Errors
    /// If it does not tell it: in words.
    pub(super) async fn read(&mut self, windows: &[&[u32]]) -> Result<Vec<Vec<Told>>, String> {
        let dialect = match (self.dialect, windows.first()) {
            (Some(dialect), _) => dialect,
            (None, Some(window)) => self.learn(window).await?,
            (None, None) => return Ok(Vec::new()),
        };
        self.dialect = Some(dialect);
        let mut all = Vec::with_capacity(windows.len());
        for some in windows.chunks(AT_ONCE) {
            let asked = some.iter().map(|window| self.one(dialect, window));
            for told in try_join_all(asked).await? {
                all.push(told.map_err(|why| format!("{}: {why}", self.url))?);
            }
        }
        Ok(all)
    }

    /// Which dialect it speaks.
    async fn learn(&self, window: &[u32]) -> Result<Dialect, String> {
        let mut refusals: Vec<String> = Vec::new();
        for dialect in Dialect::ALL {
            match self.one(dialect, window).await? {
                Ok(_) => return Ok(dialect),
                Err(why) => refusals.push(format!("{}: {why}", dialect.name())),
            }
        }
        Err(format!(
            "{} does not tell the probabilities of a prompt's tokens: {}",
            self.url,
            refusals.join("; ")
        ))
    }

    async fn one(
        &self,
        dialect: Dialect,
        window: &[u32],
    ) -> Result<Result<Vec<Told>, String>, String> {
        let answer = self.client.completion(dialect.body(&self.model, window)).await;
        let answer = answer.map_err(|error| error.to_string())?;
        Ok(answer.and_then(|answer| parse(dialect, window, &answer)))
    }

    /// The same, ready to be measured.
    ///
    /// # Errors
    /// If it does not answer as it must: in words.
    pub(super) async fn timed(self) -> Result<Client, String> {
        self.client.asking(self.model).await.map_err(|error| error.to_string())
    }
}
