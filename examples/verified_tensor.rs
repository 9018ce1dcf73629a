//! Loads one tensor, verified against a trusted key, from any store:
//! `verified_tensor STORE ARTIFACT TENSOR PUBLIC_KEY`.

use tenpak::{Artifact, LoadOptions, OpenOptions, Selection, Store, TrustSet};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [store, name, tensor, key] = arguments.as_slice() else {
        return Err("usage: verified_tensor STORE ARTIFACT TENSOR PUBLIC_KEY".into());
    };
    let trust = TrustSet::load(std::slice::from_ref(key))?;
    let mut options = OpenOptions::default();
    options.trust = trust;
    let artifact = Artifact::open(Store::open(store)?, &name.parse()?, &options).await?;
    let wanted = artifact.select(&Selection::new(&[tensor])?, None).await?;
    let mut loader = artifact.load(wanted, &LoadOptions::default());
    while let Some(tensor) = loader.next().await {
        // Every byte of `data` was checked against a manifest that the trusted key signed.
        let tensor = tensor?;
        println!("{} {} {}", tensor.name(), tensor.request.entry.dtype, tensor.request.shape);
        println!("{:02x?}...", &tensor.data[..tensor.data.len().min(16)]);
    }
    Ok(())
}
