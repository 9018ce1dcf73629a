//! Failures and their exit statuses, which are a contract with scripts.

use std::fmt::Display;

use crate::format::with_causes;
use crate::load::ArtifactError;
use crate::load::sink::device::DeviceError;
use crate::load::{ErrorKind, LoadError};
use crate::maintain::MaintainError;
use crate::mount::MountError;
use crate::pack::PackError;
use crate::pack::model::{Malformed, ModelError};
use crate::pack::unpack::UnpackError;
use crate::quantize::lm::LmError;
use crate::quantize::produce::ProduceError;
use crate::quantize::source::SourceError;
use crate::store::StoreError;
use crate::transport::{TransportError, TransportErrorKind};
use crate::trust::{KeyError, TrustError};

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
        match &error {
            ArtifactError::Store(StoreError::File { .. }) => {
                Self::failed(format!("{error}; --dtype stored loads it as it is"))
            }
            _ => error.into(),
        }
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
        StoreError::NoStore { .. }
        | StoreError::NoArtifact { .. }
        | StoreError::NoTensor { .. } => NOT_FOUND,
        StoreError::Ambiguous { .. } | StoreError::Pattern { .. } => USAGE,
        _ => FAILED,
    }
}

/// What to do about a refusal, in terms of this command.
fn trust_advice(error: &TrustError) -> &'static str {
    match error {
        TrustError::Unsigned { .. } => {
            ": ask its publisher to sign it, or sign it yourself with `tenpak sign`"
        }
        TrustError::UntrustedKey { .. } => {
            ": if its publisher is one of them, pass that public key with --trust"
        }
        TrustError::Expired { .. } => " (`tenpak sign` renews a ref)",
        TrustError::CannotSign { .. } => " (`tenpak keygen` makes one)",
        TrustError::BadKey { reason: KeyError::Unknown, .. } => {
            " (--method hmac); `tenpak keygen` makes a key"
        }
        _ => "",
    }
}

fn store_advice(error: &StoreError) -> &'static str {
    match error {
        StoreError::Trust(error) => trust_advice(error),
        StoreError::NoStore { .. } => "; check the address (`tenpak pack` makes a store)",
        StoreError::NoArtifact { .. } => "; `tenpak ls` lists what is there",
        StoreError::File { .. } => "; `tenpak unpack` writes it",
        StoreError::Clock { .. } => "; set the clock, or give --trust-clock if it is right",
        _ => "",
    }
}

fn load_advice(error: &LoadError) -> &'static str {
    match error {
        LoadError::Corrupt { .. } => "; run `tenpak verify`, or name a --mirror",
        _ => "",
    }
}

fn device_advice(error: &DeviceError) -> &'static str {
    match error {
        DeviceError::NoAdapter { .. } | DeviceError::TooLarge { .. } => ", or use --device host",
        DeviceError::NoDriver(_) => "; use --device wgpu or host",
        DeviceError::NoCompiler(_) => ", or use --device wgpu",
        DeviceError::Part { .. } => " (without --shard, or with --dtype stored)",
        _ => "",
    }
}

/// A pattern for just this path, as it stands between single quotes in a shell.
fn pattern_of(path: &str) -> String {
    path.chars().fold(String::new(), |mut out, c| {
        match c {
            '\'' => out.push_str("'\\''"),
            '*' | '?' | '[' | ']' | '{' | '}' => out.extend(['\\', c]),
            c => out.push(c),
        }
        out
    })
}

/// What to do about files that are not packed.
fn model_advice(error: &ModelError) -> String {
    match error {
        ModelError::Safetensors(files) => {
            let flag = |file: &Malformed| format!(" --opaque '{}'", pattern_of(&file.path));
            let flags: String = files.iter().map(flag).collect();
            let them = if files.len() == 1 { "it" } else { "them" };
            format!("; repair {them}, or `tenpak pack{flags}` packs {them} as bytes")
        }
        ModelError::Incomplete { .. } => {
            "; complete the model, or `tenpak pack --allow-incomplete` packs it as it is".to_owned()
        }
        _ => String::new(),
    }
}

/// What to do about a model that was not produced.
fn produce_advice(error: &ProduceError) -> &'static str {
    match error {
        ProduceError::NoText(_) => "; give one with --calibration FILE",
        ProduceError::Transposed(_) => "; --backend runs a tool that converts them",
        ProduceError::NotRun(_) => "; leave it out with --skip",
        ProduceError::NoPython { .. } => "; name another with --python",
        ProduceError::Layer { .. } => " (--skip leaves layers out)",
        _ => "",
    }
}

impl From<crate::engine::ModelError> for Failure {
    fn from(error: crate::engine::ModelError) -> Self {
        use crate::engine::ModelError as E;
        let status = match &error {
            E::Artifact(own) => match &**own {
                ArtifactError::Store(own) => store_status(own),
                ArtifactError::Load(own) => load_status(own),
            },
            _ => FAILED,
        };
        Self::new(status, error)
    }
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        match &error {
            MountError::Store(own) => {
                Self::new(store_status(own), format!("{own}{}", store_advice(own)))
            }
            MountError::Folder { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Self::new(NOT_FOUND, error)
            }
            MountError::Cache(own) => Self::failed(format!("{own}; name another --cache")),
            _ => Self::failed(error),
        }
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self::new(source_status(&error), error)
    }
}

impl From<TrustError> for Failure {
    fn from(error: TrustError) -> Self {
        Self::new(trust_status(&error), format!("{error}{}", trust_advice(&error)))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(store_status(&error), format!("{error}{}", store_advice(&error)))
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::new(load_status(&error), with_causes(&error) + load_advice(&error))
    }
}

impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Store(error) => error.into(),
            ArtifactError::Load(error) => error.into(),
        }
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

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Model(error) => PackError::from(error).into(),
            SourceError::Artifact(error) => (*error).into(),
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
            error @ UnpackError::Occupied { .. } => Self::failed(format!(
                "{error}; name another folder, or give --force to replace the artifact's files and \
                 leave the rest"
            )),
            error => Self::failed(error),
        }
    }
}

impl From<PackError> for Failure {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Store(error) => error.into(),
            PackError::Model(error) => {
                let message = format!("{error}{}", model_advice(&error));
                match error {
                    ModelError::NotFound { .. } => Self::new(NOT_FOUND, message),
                    ModelError::Pattern { .. } | ModelError::NoneOpaque { .. } => {
                        Self::usage(format!("--opaque: {message}"))
                    }
                    _ => Self::failed(message),
                }
            }
            error => Self::failed(error),
        }
    }
}

impl From<MaintainError> for Failure {
    fn from(error: MaintainError) -> Self {
        match error {
            MaintainError::Store(error) => error.into(),
            MaintainError::Unmarkable { .. } | MaintainError::Nowhere { .. } => {
                Self::new(VERIFICATION, error)
            }
            error => Self::failed(error),
        }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        let message = format!("{error}{}", device_advice(&error));
        match error {
            DeviceError::Load(error) => error.into(),
            DeviceError::Part { .. } => Self::usage(message),
            DeviceError::Decode { .. } => Self::new(VERIFICATION, message),
            _ => Self::failed(message),
        }
    }
}

impl From<ProduceError> for Failure {
    fn from(error: ProduceError) -> Self {
        let message = format!("{error}{}", produce_advice(&error));
        match error {
            ProduceError::Source(error) => error.into(),
            ProduceError::Store(error) => error.into(),
            ProduceError::Pack(error) => error.into(),
            ProduceError::Skip { pattern, why } => Self::usage(format!("--skip {pattern}: {why}")),
            ProduceError::OutOfRange { .. } => Self::usage(format!("--{message}")),
            ProduceError::Recipe(_)
            | ProduceError::NoText(_)
            | ProduceError::NoneSkipped { .. } => Self::usage(message),
            _ => Self::failed(message),
        }
    }
}
