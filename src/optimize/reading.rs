//! Which text candidates are read on, and by whom: here, or by servers.

use std::collections::HashMap;

use serde_json::Value;

use super::candidate::{Candidate, UNQUANTIZED};
use super::error::OptimizeError;
use super::exam::{Base, Exam, Sitter};
use super::served::Server;
use super::solve::ROUNDS;
use super::stages::Run;
use crate::format::id::ManifestId;
use crate::quantize::calibrate::BUILT_IN;
use crate::quantize::lm::{LmError, Model, Text};
use crate::quantize::source::ModelSource;

/// The largest tokenizer that is read.
const MAX_TOKENIZER: u64 = 256 << 20;

impl Run<'_> {
    /// The text that candidates are read on.
    pub(super) fn exam<'m>(
        &mut self,
        lm: Option<&'m Model>,
    ) -> Result<Option<Exam<'m>>, OptimizeError> {
        let text = self.options.text.as_deref().unwrap_or(BUILT_IN);
        let (base, most, tokens) = match lm {
            _ if !self.options.quality_at.is_empty() => {
                if self.options.dry_run {
                    self.notes.push("a dry run asks no server what candidates lose".to_owned());
                    return Ok(None);
                }
                let (server, most) = self.served_model()?;
                (
                    Base::Served(Box::new(server), HashMap::new()),
                    most,
                    self.tokenizer()?.encode(text)?,
                )
            }
            Some(model) => {
                let base = Base::Run(model, None);
                (base, model.config().positions, model.tokenizer()?.encode(text)?)
            }
            None => return Ok(None),
        };
        if tokens.len() < 2 {
            return Err(LmError::Short(tokens.len()).into());
        }
        if text == self.options.calibration.as_deref().unwrap_or(BUILT_IN)
            && self.candidates.iter().any(Candidate::reads_text)
        {
            let note = "quality is measured on the text that candidates are calibrated with, which flatters those \
                        that are: give another with --text";
            self.notes.push(note.to_owned());
        }
        let limits = usize::from(self.constraints.max_ppl_delta.is_some())
            + usize::from(self.constraints.max_kl.is_some());
        let rounds = if self.options.solve_bits { ROUNDS } else { 0 };
        let decisions = (self.candidates.len() + rounds) * limits.max(1);
        let decisions = (decisions, self.options.error);
        let (context, runtime) = (self.options.context, self.workshop.runtime);
        Ok(Some(Exam::new((base, most), tokens, context, decisions, runtime)))
    }

    /// The server of the unquantized model, and how many tokens of a prompt it takes.
    fn served_model(&self) -> Result<(Server, usize), OptimizeError> {
        let source = self.workshop.source;
        let names = self.workshop.names(&Candidate::unquantized(), source.id())?;
        let server = self.server(UNQUANTIZED, &names)?;
        let most = source.config()?.get("max_position_embeddings").and_then(Value::as_u64);
        // A server makes a token after the prompt.
        let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(2048);
        Ok((server, most.saturating_sub(1).max(2)))
    }

    fn server(&self, method: &str, names: &[String]) -> Result<Server, OptimizeError> {
        let own = self.options.quality_at.iter().filter(|own| own.may_serve(method, None, 1));
        let own: Vec<_> = own.collect();
        let found = Server::find(&own, names, self.options.api_key.as_ref());
        let found = self.workshop.runtime.block_on(found);
        found.map_err(|why| OptimizeError::Served(format!("{method}: {why} (--quality-at)")))
    }

    fn tokenizer(&self) -> Result<Text, OptimizeError> {
        let bytes = self.workshop.source.file("tokenizer.json", MAX_TOKENIZER)?;
        let none =
            || OptimizeError::Served("--quality-at: the model has no tokenizer.json".to_owned());
        Ok(Text::parse(&bytes.ok_or_else(none)?)?)
    }

    /// The candidate, as the model is read.
    pub(super) fn sitter(
        &self,
        candidate: &Candidate,
        id: ManifestId,
        exam: &Exam<'_>,
    ) -> Result<Sitter, OptimizeError> {
        if exam.is_served() {
            let names = self.workshop.names(candidate, Some(id))?;
            return Ok(Sitter::Served(Box::new(self.server(&candidate.label, &names)?)));
        }
        let artifact = self.workshop.open(id)?;
        let source = ModelSource::artifact(artifact, self.workshop.runtime)?;
        Ok(Sitter::Run(Box::new(Model::open(source)?)))
    }
}
