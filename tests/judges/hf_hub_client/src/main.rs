//! The Rust clients of the Hub, hf-hub 0.4 and 1.x, against HF_ENDPOINT: every file of a repository,
//! compared byte for byte.
//!
//! usage: hf_hub_client ORG MODEL FOLDER CACHE COMMIT

use std::error::Error;
use std::path::{Path, PathBuf};

type Failure = Box<dyn Error>;

fn files(folder: &Path, below: &Path, out: &mut Vec<String>) -> Result<(), Failure> {
    for entry in std::fs::read_dir(below)? {
        let path = entry?.path();
        if path.is_dir() {
            files(folder, &path, out)?;
        } else {
            out.push(path.strip_prefix(folder)?.to_str().ok_or("a name")?.to_owned());
        }
    }
    Ok(())
}

fn same(version: &str, got: &Path, right: &Path) -> Result<(), Failure> {
    match std::fs::read(got)? == std::fs::read(right)? {
        true => Ok(()),
        false => Err(format!("{version}: {} differs", right.display()).into()),
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [org, model, folder, cache, commit] = arguments.as_slice() else {
        return Err("usage: hf_hub_client ORG MODEL FOLDER CACHE COMMIT".into());
    };
    let (folder, cache) = (PathBuf::from(folder), PathBuf::from(cache));
    let mut names = Vec::new();
    files(&folder, &folder, &mut names)?;

    let api = hf_hub_0::api::sync::ApiBuilder::from_env()
        .with_cache_dir(cache.join("0.4"))
        .with_progress(false)
        .build()?;
    let repo = api.model(format!("{org}/{model}"));
    let info = repo.info()?;
    if info.sha != *commit || info.siblings.len() != names.len() {
        return Err(format!("0.4: {info:?}").into());
    }
    for name in &names {
        same("0.4", &repo.get(name)?, &folder.join(name))?;
    }
    if repo.get("nowhere.json").is_ok() {
        return Err("0.4: a file that is not there was downloaded".into());
    }

    let client = hf_hub_1::HFClient::builder().cache_dir(cache.join("1")).build()?;
    let client = hf_hub_1::HFClientSync::from_inner(client)?;
    let repo = client.model(org.as_str(), model.as_str());
    for name in &names {
        let got = repo.download_file().filename(name.as_str()).send()?;
        same("1", &got, &folder.join(name))?;
    }
    let snapshot = repo.snapshot_download().send()?;
    for name in &names {
        same("1", &snapshot.join(name), &folder.join(name))?;
    }
    println!("hf-hub 0.4 and 1: {} files", names.len());
    Ok(())
}
