//! Failures and their exit statuses, which are a contract with scripts.

use std::fmt::Display;

use crate::load::artifact::ArtifactError;
use crate::load::{ErrorKind, LoadError};
use crate::maintain::MaintainError;
use crate::pack::PackError;
use crate::pack::model::ModelError;
use crate::pack::unpack::UnpackError;
use crate::quantize::lm::LmError;
use crate::quantize::source::SourceError;
use crate::store::StoreError;
use crate::transport::{TransportError, TransportErrorKind};
use crate::trust::TrustError;

/// The command could not do what it was asked.
pub(super) const FAILED: u8 = 1;
/// Wrong use.
pub(super) const USAGE: u8 = 2;
/// No such artifact, tensor, file or key.
pub(super) const NOT_FOUND: u8 = 3;
/// Something is not what was signed or promised.
pub(super) const VERIFICATION: u8 = 4;
/// The network or the store failed, after retries.
pub(super) const NETWORK: u8 = 5;
/// Ctrl-C.
pub(super) const INTERRUPTED: u8 = 130;

/// Why a command ends with another status than 0.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: u8,
    pub(super) message: String,
    /// Whether the result has been printed already, so that only the status is left to give.
    pub(super) told: bool,
}

impl Failure {
    pub(super) fn new(status: u8, message: impl Display) -> Self {
        Self { status, message: message.to_string(), told: false }
    }

    /// A failure whose result, under `--json` too, has been printed.
    pub(super) fn told(status: u8, message: impl Display) -> Self {
        Self { told: true, ..Self::new(status, message) }
    }

    pub(super) fn usage(message: impl Display) -> Self {
        Self::new(USAGE, message)
    }

    pub(super) fn failed(message: impl Display) -> Self {
        Self::new(FAILED, message)
    }
}

impl Failure {
    /// A failure to find the weights of a checkpoint that is not delivered as it is stored.
    pub(super) fn of_weights(error: ArtifactError) -> Self {
        let advice = match &error {
            ArtifactError::File { .. } => "; --dtype stored loads it as it is",
            _ => "",
        };
        let failure = Self::from(error);
        Self { message: failure.message + advice, ..failure }
    }
}

fn source_status(error: &TransportError) -> u8 {
    match error.kind {
        TransportErrorKind::NotFound => NOT_FOUND,
        TransportErrorKind::OutOfRange => VERIFICATION,
        TransportErrorKind::Invalid
        | TransportErrorKind::ReadOnly
        | TransportErrorKind::Unlistable => USAGE,
        TransportErrorKind::Protocol
        | TransportErrorKind::Stalled
        | TransportErrorKind::Transient => NETWORK,
        _ => FAILED,
    }
}

fn trust_status(error: &TrustError) -> u8 {
    match error {
        TrustError::Malformed { .. } => VERIFICATION,
        error if error.is_refusal() => VERIFICATION,
        TrustError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => NOT_FOUND,
        _ => FAILED,
    }
}

fn store_status(error: &StoreError) -> u8 {
    match error {
        StoreError::Transport(error) => source_status(error),
        StoreError::Damaged { .. }
        | StoreError::Incomplete { .. }
        | StoreError::Chunk { .. }
        | StoreError::Decode { .. } => VERIFICATION,
        StoreError::Trust(error) => trust_status(error),
        StoreError::NoArtifact { .. } => NOT_FOUND,
        StoreError::Ambiguous { .. } => USAGE,
        _ => FAILED,
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self::new(source_status(&error), error)
    }
}

impl From<TrustError> for Failure {
    fn from(error: TrustError) -> Self {
        Self::new(trust_status(&error), error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(store_status(&error), error)
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::new(load_status(&error), with_causes(&error))
    }
}

impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Self {
        let status = match error.kind() {
            // What a ref or manifest names is missing: the store is damaged.
            ErrorKind::NotFound if matches!(error, ArtifactError::Transport(_)) => VERIFICATION,
            ErrorKind::NotFound => NOT_FOUND,
            ErrorKind::Verification => VERIFICATION,
            ErrorKind::Network => NETWORK,
            ErrorKind::Other => match &error {
                ArtifactError::Ambiguous { .. } | ArtifactError::Pattern { .. } => USAGE,
                _ => FAILED,
            },
        };
        Self::new(status, with_causes(&error))
    }
}

fn load_status(error: &LoadError) -> u8 {
    match error.kind() {
        // A pack that a layout names is missing: the store is damaged.
        ErrorKind::NotFound | ErrorKind::Verification => VERIFICATION,
        ErrorKind::Network => NETWORK,
        ErrorKind::Other => FAILED,
    }
}

/// The error and what it was caused by, where its own text does not say that.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Model(error) => PackError::from(error).into(),
            SourceError::Artifact(error) => (*error).into(),
            SourceError::Load(error) => (*error).into(),
            error => Self::failed(error),
        }
    }
}

impl From<LmError> for Failure {
    fn from(error: LmError) -> Self {
        match error {
            LmError::Source(error) => (*error).into(),
            LmError::Text { .. } => Self::usage(error),
            error => Self::failed(error),
        }
    }
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::Load(error) => error.into(),
            error => Self::failed(error),
        }
    }
}

impl From<PackError> for Failure {
    fn from(error: PackError) -> Self {
        let status = match &error {
            PackError::Store(error) => store_status(error),
            PackError::Model(ModelError::NotFound { .. }) => NOT_FOUND,
            _ => FAILED,
        };
        Self::new(status, error)
    }
}

impl From<MaintainError> for Failure {
    fn from(error: MaintainError) -> Self {
        let status = match &error {
            MaintainError::Store(error) => store_status(error),
            MaintainError::Unmarkable { .. } | MaintainError::Nowhere { .. } => VERIFICATION,
            _ => FAILED,
        };
        Self::new(status, error)
    }
}
