//! Serving a language model: sampling, text, chat templates, and the server over an engine that is scripted.

mod chat_templates;
mod clients;
mod endpoints;
mod grammars;
mod limits;
mod sampling;
mod support;
mod text;
mod tls;
