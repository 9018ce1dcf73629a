//! Writes the test vectors of `fixtures/`, the same bytes each time.
//!
//! `cargo run --example make_vectors -- fixtures`

mod codecs;
mod deltas;
mod golden;
mod hostile;
mod tree;

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(out) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err("usage: make_vectors OUT".into());
    };
    let mut files = golden::objects()?;
    codecs::golden(&mut files)?;
    deltas::golden(&mut files);
    tree::golden(&mut files)?;
    hostile::objects(&mut files)?;
    golden::write(&out, &files)?;
    println!("{} files in {}", files.len(), out.display());
    Ok(())
}
