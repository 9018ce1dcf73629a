//! PostgreSQL over TLS: a server whose certificate was checked, name and all, or none.

use std::path::{Path, PathBuf};
use std::process::Command;

use tenpak::jobs::{Clock, Jobs, Policy};

use super::postgres::Postgres;
use super::world::submission;

fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let output = command.args(arguments.split(' ')).current_dir(folder).output().expect("openssl");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and a certificate of it for 127.0.0.1.
fn authority(folder: &Path, name: &str) -> [PathBuf; 3] {
    let subject = format!("/CN={name}");
    openssl(
        folder,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj {subject} -keyout {name}.key -out {name}.pem"
        ),
    );
    openssl(
        folder,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj {subject}-server -keyout {name}-server.key -out {name}.csr"
        ),
    );
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").expect("a file");
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA {name}.pem -CAkey {name}.key -CAcreateserial -days 2 -extfile names -out {name}-server.pem"
        ),
    );
    ["pem", "server.pem", "server.key"].map(|end| match end {
        "pem" => folder.join(format!("{name}.pem")),
        end => folder.join(format!("{name}-{end}")),
    })
}

#[test]
fn a_server_is_spoken_to_over_tls_if_its_certificate_is_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let [right, certificate, key] = authority(folder.path(), "right");
    let [wrong, ..] = authority(folder.path(), "wrong");
    let server = Postgres::start_with_tls(&certificate, &key);
    let url = server.database();
    let open = |rest: &str| Jobs::open(&format!("{url}{rest}"), Policy::default(), Clock::Database);
    let with = |roots: &Path| format!("?sslmode=require&sslrootcert={}", roots.display());
    let jobs = open(&with(&right)).expect("a database");
    let job = jobs.submit(&submission("a", "k")).expect("a job").job;
    let (claimed, _) = jobs.claim("w").expect("a claim").expect("a job");
    assert_eq!(claimed.id, job.id);
    // Another authority's server, one that nobody vouches for, another name, and no TLS at all.
    for (rest, why) in [
        (with(&wrong), "certificate"),
        ("?sslmode=verify-full".to_owned(), "certificate"),
        ("".to_owned(), "pg_hba"),
        ("?sslmode=disable".to_owned(), "pg_hba"),
        ("?sslmode=require&sslrootcert=/nowhere".to_owned(), "sslrootcert"),
    ] {
        let error = open(&rest).expect_err(&rest);
        let mut told = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            told.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        assert!(told.to_lowercase().contains(why), "{rest}: {told}");
    }
    let named = format!("{}{}", url.replace("127.0.0.1", "localhost"), with(&right));
    assert!(Jobs::open(&named, Policy::default(), Clock::Database).is_err(), "another name");
}
