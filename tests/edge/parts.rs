//! Several ranges in one request: the right bytes as multipart/byteranges, and bounded work whatever
//! is asked.

use std::sync::Arc;

use super::serving::{Edge, path};
use bytes::Bytes;
use tenpak::transport::Transport;
use tenpak::transport::object::ObjectBackend;

const SIZE: usize = 500_000;

fn object() -> Bytes {
    (0..SIZE).map(|i| (i * 13 + i / 253) as u8).collect()
}

async fn edge() -> Edge {
    let memory = ObjectBackend::memory();
    memory.put(&path("tables/a"), vec![object()]).await.expect("a write");
    memory.put(&path("refs/m/@a"), vec![object().slice(..2000)]).await.expect("a write");
    Edge::over(Arc::new(memory)).await
}

/// The parts of a multipart body, in order, as (first, last, size, bytes).
fn parts(head: &str, body: &[u8]) -> Vec<(usize, usize, usize, Vec<u8>)> {
    let boundary = head.split("boundary=").nth(1).expect("a boundary").lines().next().expect("one");
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|length| length.parse().ok())
        .expect("a length");
    assert_eq!(length, body.len());
    let mark = format!("\r\n--{boundary}").into_bytes();
    let starts: Vec<usize> = body
        .windows(mark.len())
        .enumerate()
        .filter(|(_, window)| *window == mark.as_slice())
        .map(|(at, _)| at)
        .collect();
    assert_eq!(starts.first(), Some(&0));
    let last = *starts.last().expect("a mark");
    assert_eq!(&body[last + mark.len()..], b"--\r\n");
    starts
        .windows(2)
        .map(|two| {
            let part = &body[two[0] + mark.len() + 2..two[1]];
            let end = part.windows(4).position(|w| w == b"\r\n\r\n").expect("a part's head");
            let head = String::from_utf8_lossy(&part[..end]).to_lowercase();
            assert!(head.contains("content-type: application/octet-stream"), "{head}");
            let range = head.split("content-range: bytes ").nth(1).expect("a range");
            let numbers: Vec<usize> =
                range.split(['-', '/']).map(|n| n.trim().parse().expect("a number")).collect();
            (numbers[0], numbers[1], numbers[2], part[end + 4..].to_vec())
        })
        .collect()
}

#[tokio::test]
async fn each_part_is_what_it_says() {
    let edge = edge().await;
    for (asked, expected) in [
        ("0-9,1000-1999,499990-", vec![(0, 9), (1000, 1999), (499_990, 499_999)]),
        ("-10,0-0", vec![(0, 0), (499_990, 499_999)]),
        ("1000-2000,100-200,150-300,900000-", vec![(100, 300), (1000, 2000)]),
    ] {
        let (head, body) = edge.ask("GET /tables/a", &format!("Range: bytes={asked}\r\n")).await;
        assert!(head.starts_with("http/1.1 206"), "{asked}: {head}");
        assert!(!head.contains("content-range"), "{head}");
        let parts = parts(&head, &body);
        let got: Vec<_> = parts.iter().map(|(first, last, _, _)| (*first, *last)).collect();
        assert_eq!(got, expected, "{asked}");
        for (first, last, size, bytes) in parts {
            assert_eq!(size, SIZE);
            assert!(bytes == object()[first..=last], "{asked}: {first}-{last}");
        }
    }
    let (head, body) = edge.ask("GET /refs/m/@a", "Range: bytes=0-9,1000-1009\r\n").await;
    assert_eq!(parts(&head, &body).len(), 2);
    edge.end().await;
}

#[tokio::test]
async fn ten_thousand_ranges_cost_no_more_than_a_few() {
    let edge = edge().await;
    let many = |count: usize, step: usize| {
        let all: Vec<String> = (0..count).map(|i| format!("{0}-{0}", i * step)).collect();
        format!("Range: bytes={}\r\n", all.join(","))
    };
    for (headers, status) in [
        // Longer than any head may be.
        (many(10_000, 40), "431"),
        // Ten thousand short ones.
        (format!("Range: bytes={}\r\n", vec!["0-"; 10_000].join(",")), "416"),
        (many(900, 400), "416"),
        // Near ones are one.
        (many(900, 2), "206"),
        // The same part again and again is sent once.
        (format!("Range: bytes={}\r\n", vec!["0-"; 900].join(",")), "206"),
        (format!("Range: bytes={}\r\n", vec!["9-0"; 900].join(",")), "200"),
    ] {
        let (head, body) = edge.ask("GET /tables/a", &headers).await;
        let what = &headers[..headers.len().min(60)];
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{what}: {head}");
        assert!(body.len() <= SIZE, "{what}: {} bytes", body.len());
    }
    edge.end().await;
}
