//! `tenpak keygen` and `tenpak sign`.

use std::path::PathBuf;

use serde_json::json;

use super::error::Failure;
use super::output::Output;
use super::publishing::lifetime;
use super::{Global, artifact};
use crate::format::name::ArtifactSpec;
use crate::format::time;
use crate::store::unix_now;
use crate::transport::ObjectPath;
use crate::trust::{Method, Signer, keygen, signature_path};

#[derive(Debug, clap::Args)]
pub(super) struct Keygen {
    /// The file for the secret key; the public key goes to OUT.pub
    out: PathBuf,
}

impl Keygen {
    pub(super) fn run(self, output: &Output) -> Result<(), Failure> {
        let made = keygen(&self.out)?;
        let object = json!({
            "key": made.key_id.as_str(),
            "secret": made.secret.display().to_string(),
            "public": made.public.display().to_string(),
        });
        output.result(object, || {
            format!(
                "key {}\nsecret {}\npublic {}",
                made.key_id.as_str(),
                made.secret.display(),
                made.public.display()
            )
        })
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Sign {
    /// The artifact to sign
    #[arg(value_parser = artifact)]
    artifact: ArtifactSpec,
    /// The secret key to sign with
    #[arg(long)]
    key: PathBuf,
    /// The signature method [default: that of the key file]
    #[arg(long)]
    method: Option<Method>,
    /// Days until the name must be signed again
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    expires: u32,
}

impl Sign {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let signer = Signer::load(&self.key, self.method)?;
        let store = global.existing_store().await?;
        let resolved = store.resolve(&self.artifact).await?;
        let (_, bytes) = store
            .manifest(resolved.manifest)
            .await
            .map_err(|error| store.no_manifest(&self.artifact, error))?;
        // Whoever trusts somebody adds a signature only to what those signed.
        store.check_manifest(&global.trust()?, resolved.name(), resolved.manifest, &bytes).await?;
        let signature = signer.sign_manifest(resolved.manifest, &bytes, unix_now())?;
        let path = signature_path(resolved.manifest, &signer.key_id(), signer.method());
        let path = ObjectPath::new(path)
            .ok_or_else(|| Failure::failed("the signature's path is not valid"))?;
        store.transport().put(&path, vec![signature]).await?;
        let mut version = None;
        if let (Some(envelope), Method::Ed25519) = (&resolved.by, signer.method()) {
            let body = envelope.body();
            let signers = std::slice::from_ref(&signer);
            let life = lifetime(self.expires);
            let published =
                store.publish(&body.name, &body.tag, resolved.manifest, signers, life).await?;
            version = Some(published.version);
        }
        let object = json!({
            "manifest": resolved.manifest,
            "key": signer.key_id().as_str(),
            "method": signer.method().to_string(),
            "version": version,
        });
        output.result(object, || {
            let renewed = match version {
                Some(version) => {
                    format!("{} renewed as version {}", self.artifact, time::version(version))
                }
                None => "the name was not signed".to_owned(),
            };
            format!("@{} signed by {}; {renewed}", resolved.manifest, signer.key_id().as_str())
        })
    }
}
