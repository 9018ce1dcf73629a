//! The certificate of a server, as at the edge.

use std::fs;
use std::process::Command;

use tenpak::edge::Tls;

use crate::support::{Scripted, start};

#[test]
fn a_certificate_is_shown_and_both_versions_of_http_are_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    fs::write(&chain, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = Tls::load(&chain, &key).unwrap();
    let server = start(Scripted::new(), |server| server.tls = Some(tls));
    let url = format!("https://localhost:{}/v1/completions", server.address.port());
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let output = Command::new("curl")
            .args(["-sS", flag, "--noproxy", "*", "--resolve"])
            .arg(format!("localhost:{}:127.0.0.1", server.address.port()))
            .args(["-H", "content-type: application/json", "--cacert"])
            .arg(&chain)
            .args([
                "-d",
                r#"{"prompt": "say:Hello|", "max_tokens": 9}"#,
                "-w",
                "%{http_version}",
                &url,
            ])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let whole = told.contains(r#""text":"Hello""#) && told.ends_with(&format!("}}{version}"));
        assert!(whole, "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
