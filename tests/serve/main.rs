//! Serving a language model: sampling, text, chat templates, and the server over an engine that is scripted.

mod chat_templates;
mod sampling;
mod text;
