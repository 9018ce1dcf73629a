//! Deployments that a person can apply: the engine, and beside it an edge that feeds it. Pure.
//!
//! Keys of requests are never in them: they are taken from an environment file, a variable or a secret, by name.

mod compose;
mod deployment;
mod kubernetes;
mod systemd;
mod yaml;

pub use deployment::{API_KEYS, CACHE, Deployment, EDGE, KEYS, PORT, STORE, Server, TrustedKey};

/// In which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A unit, in which this program starts the engine.
    Systemd,
    /// A file of Compose.
    Compose,
    /// Objects of Kubernetes.
    Kubernetes,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Systemd, Self::Compose, Self::Kubernetes];

    /// What the command line calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Compose => "compose",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// The deployment in a form.
pub fn print(deployment: &Deployment, form: Form) -> String {
    match form {
        Form::Systemd => systemd::unit(deployment),
        Form::Compose => compose::file(deployment),
        Form::Kubernetes => kubernetes::objects(deployment),
    }
}
