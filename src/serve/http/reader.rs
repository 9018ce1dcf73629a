//! Requests read without being answered: what fuzzers and checks of configurations ask.

use std::sync::Arc;

use super::body::parse;
use super::error::ApiError;
use super::state::{Server, State};

/// Reads requests as a server would, up to where its engine would be asked.
pub struct Reader(Arc<State>);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader {
    /// Of a server.
    #[must_use]
    pub fn new(server: Server) -> Self {
        Self(State::new(server))
    }

    /// Reads the body of a completion (or, if `chat`, of a chat), and gives how many texts it asks for.
    ///
    /// # Errors
    /// If the server would refuse it: with the answer that it would give, as JSON.
    pub fn read(&self, chat: bool, body: &[u8]) -> Result<usize, String> {
        let plan = if chat {
            parse(body).and_then(|request| self.0.plan_chat(&request))
        } else {
            parse(body).and_then(|request| self.0.plan_completion(&request))
        };
        let told = |error: ApiError| serde_json::to_string(&error.body()).unwrap_or_default();
        plan.map(|plan| plan.prompts.len() * plan.n).map_err(told)
    }
}
