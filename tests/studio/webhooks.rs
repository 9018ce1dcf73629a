//! Webhooks: signed, sent again until they arrive, and never inside.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::world::World;

/// A target that answers with these statuses in turn; gives its port, and each head and body.
fn target(statuses: &'static [&'static str]) -> (u16, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, heard) = channel();
    std::thread::spawn(move || {
        for status in statuses {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            let mut piece = [0; 4096];
            let (head, body) = loop {
                let read = stream.read(&mut piece).unwrap();
                all.extend_from_slice(&piece[..read]);
                let text = String::from_utf8_lossy(&all).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head
                    .to_ascii_lowercase()
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
                if Some(body.len()) == length {
                    break (head.to_ascii_lowercase(), body.to_owned());
                }
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).unwrap();
            tell.send((head, body)).unwrap();
        }
    });
    (port, heard)
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).expect("a header")
}

fn base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|c| alphabet.iter().position(|own| *own == c));
    let bits: String = digits.map(|digit| format!("{digit:06b}")).collect();
    bits.as_bytes()
        .chunks_exact(8)
        .map(|eight| u8::from_str_radix(std::str::from_utf8(eight).unwrap(), 2).unwrap())
        .collect()
}

#[test]
fn ends_of_jobs_are_told_signed_until_they_arrive() {
    let world = World::with_models("webhooks");
    let (port, heard) = target(&["500 Error", "307 Elsewhere", "204 Fine", "410 Gone"]);
    let server = format!("127.0.0.1:{port}");
    let studio = world.serve(&["--allow-private", &server]);
    let made = studio.post(
        "/webhooks",
        &json!({"url": format!("http://{server}/hook"), "events": ["job.succeeded"]}),
        &[],
    );
    assert_eq!(made.status, 201, "{}", made.json());
    let (id, secret) = (
        made.json()["id"].as_str().unwrap().to_owned(),
        made.json()["secret"].as_str().unwrap().to_owned(),
    );
    // The secret is shown once.
    assert!(studio.get(&format!("/webhooks/{id}")).json().get("secret").is_none());
    let wanted = json!({"model": "org/base", "preset": "bnb_nf4", "name": "org/small"});
    let job = studio.submit("/compress", &wanted);
    let patience = Duration::from_secs(120);
    let (head, body) = heard.recv_timeout(patience).unwrap();
    // The same message again, under the same id: after 5 seconds, and after 20.
    let (second, again) = heard.recv_timeout(patience).unwrap();
    assert_eq!((header(&head, "webhook-id"), &body), (header(&second, "webhook-id"), &again));
    let (third, _) = heard.recv_timeout(patience).unwrap();
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&told["type"], &told["data"]["id"]), (&json!("job.succeeded"), &json!(job)));
    let timestamp = header(&third, "webhook-timestamp");
    // Heads were lowered for the test; ids have no capitals, and the signature is computed from the raw text.
    let signed = format!("{}.{timestamp}.{body}", header(&third, "webhook-id"));
    let mut mac =
        Hmac::<Sha256>::new_from_slice(&base64(secret.trim_start_matches("whsec_"))).unwrap();
    mac.update(signed.as_bytes());
    let digest = mac.finalize().into_bytes();
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: String = digest.iter().map(|byte| format!("{byte:08b}")).collect::<String>() + "00";
    let expected: String = bits
        .as_bytes()
        .chunks(6)
        .map(|six| {
            alphabet[usize::from_str_radix(std::str::from_utf8(six).unwrap(), 2).unwrap()] as char
        })
        .collect();
    assert_eq!(
        header(&third, "webhook-signature"),
        format!("v1,{}=", expected.to_ascii_lowercase())
    );
    // The log says how each went; a target that is gone is told no more.
    assert_eq!(studio.ask(&["-X", "POST"], &format!("/webhooks/{id}/test")).status, 202);
    heard.recv_timeout(patience).unwrap();
    let start = std::time::Instant::now();
    while studio.get(&format!("/webhooks/{id}")).json()["disabled_at"].is_null() {
        assert!(start.elapsed() < patience);
        std::thread::sleep(Duration::from_millis(100));
    }
    let log = studio.get(&format!("/webhooks/{id}/deliveries")).json();
    let first = &log["deliveries"][1];
    assert_eq!(
        (&first["status"], &first["attempts"], &first["response_status"]),
        (&json!("delivered"), &json!(3), &json!(204))
    );
    assert_eq!(studio.ask(&["-X", "DELETE"], &format!("/webhooks/{id}")).status, 204);
    assert_eq!(studio.get(&format!("/webhooks/{id}")).status, 404);
}

#[test]
fn targets_inside_are_refused() {
    let world = World::new("inside-hooks");
    let studio = world.serve(&["--workers", "0"]);
    for url in [
        "http://example.com/",
        "https://127.0.0.1/",
        "https://10.1.1.1/",
        "https://[fd00::1]/",
        "file:///x",
        "https://u:p@example.com/",
        "https://169.254.169.254/",
        "https://0x7f000001/",
        "",
        "x",
    ] {
        let answer = studio.post("/webhooks", &json!({"url": url}), &[]);
        assert_eq!(answer.status, 422, "{url}: {}", answer.json());
    }
    let named = json!({"url": "https://example.com/", "events": ["job.begun"]});
    assert_eq!(studio.post("/webhooks", &named, &[]).status, 422);
    assert_eq!(studio.get("/webhooks").json()["webhooks"], json!([]));
}

/// A target that accepts and then says nothing is given up, and what else is to be told is told meanwhile.
#[test]
fn a_target_that_hangs_holds_nothing_up() {
    let world = World::new("hanging");
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("127.0.0.1:{}", hanging.local_addr().unwrap().port());
    let (port, heard) = target(&["200 Fine"]);
    let other = format!("127.0.0.1:{port}");
    let studio =
        world.serve(&["--workers", "0", "--allow-private", &silent, "--allow-private", &other]);
    let add = |server: &str| {
        let made = studio.post("/webhooks", &json!({"url": format!("http://{server}/")}), &[]);
        made.json()["id"].as_str().unwrap().to_owned()
    };
    let (first, second) = (add(&silent), add(&other));
    for id in [&first, &second] {
        studio.ask(&["-X", "POST"], &format!("/webhooks/{id}/test"));
    }
    heard.recv_timeout(Duration::from_secs(10)).unwrap();
    let start = std::time::Instant::now();
    loop {
        let log = studio.get(&format!("/webhooks/{first}/deliveries")).json();
        if log["deliveries"][0]["error"].as_str().is_some_and(|why| why.contains("within")) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{log}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
