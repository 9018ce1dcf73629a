//! A quick S3 server in memory that takes and gives so many bytes a second on each connection, as object stores do.
//!
//! `slow_bucket PORT BYTES_PER_SECOND`; each line that it reads, it answers with one line of JSON: what was uploaded
//! so far, in bodies of 1 MiB and more.

#[path = "../tests/support/bucket.rs"]
mod bucket;

use std::io::BufRead;

use bucket::Bucket;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [port, rate] = &arguments[..] else {
        return Err("slow_bucket PORT BYTES_PER_SECOND".into());
    };
    let (bucket, at) = Bucket::start(rate.parse()?, port.parse()?).await?;
    for (name, value) in Bucket::environment(at) {
        println!("export {name}={value}");
    }
    let told = tokio::task::spawn_blocking(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            let uploads = bucket.uploads();
            let (bytes, at_once, seconds) = (uploads.bytes, uploads.at_once, uploads.seconds);
            let of_one = bytes as f64 / bucket.rate() / seconds.max(1e-9);
            println!(
                "{{\"bytes\": {bytes}, \"at_once\": {at_once}, \"seconds\": {seconds:.3}, \"connections\": {of_one:.2}}}"
            );
        }
    });
    Ok(told.await?)
}
