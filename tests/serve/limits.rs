//! What a server survives: clients that leave, that do not read, that have no key; and its own end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{Reply, Running, Scripted, start, until};

const JSON: &str = "content-type: application/json\r\n";

fn gauge(server: &Running, name: &str) -> i64 {
    let metrics = server.get("/metrics").text();
    let line = metrics.lines().find(|line| line.starts_with(&format!("vllm:{name}{{"))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn stream(server: &Running, tokens: usize) -> TcpStream {
    let request = json!({"prompt": "x", "max_tokens": tokens, "stream": true, "ignore_eos": true});
    server.send("POST", "/v1/completions", JSON, request.to_string().as_bytes())
}

#[test]
fn a_thousand_requests_with_random_cancels_leave_nothing_behind() {
    let server = start(Scripted::new(), |_| {});
    let seed = 7;
    std::thread::scope(|scope| {
        for worker in 0..8u64 {
            let server = &server;
            scope.spawn(move || {
                let mut random = (seed + worker).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                let mut roll = |most: u64| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random % most
                };
                for _ in 0..125 {
                    let request = json!({"prompt": "x", "max_tokens": 1 + roll(60), "stream": roll(2) == 0, "n": 1 + roll(3)});
                    let mut stream = server.send("POST", "/v1/completions", JSON, request.to_string().as_bytes());
                    match roll(4) {
                        // It leaves at once, or after some bytes, or it stays.
                        0 => {}
                        1 | 2 => {
                            let mut some = vec![0; 1 + roll(2000) as usize];
                            drop(stream.read(&mut some));
                        }
                        _ => assert_eq!(Reply::read(stream).status, 200),
                    }
                }
            });
        }
    });
    until("no text open", || server.open.load(Ordering::Acquire) == 0);
    until("no request counted", || {
        gauge(&server, "num_requests_running") + gauge(&server, "num_requests_waiting") == 0
    });
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "say:Hi|"})).status, 200);
}

#[test]
fn who_leaves_frees_a_place_before_the_next_token() {
    let mut engine = Scripted::new();
    let steps = Arc::new(Semaphore::new(0));
    engine.steps = Some(steps.clone());
    let server = start(engine, |_| {});
    let waiting =
        server.send("POST", "/v1/completions", JSON, json!({"prompt": "x"}).to_string().as_bytes());
    let mut reading = stream(&server, 1000);
    until("two texts", || server.open.load(Ordering::Acquire) == 2);
    steps.add_permits(2);
    reading.read_exact(&mut [0; 200]).unwrap();
    drop((waiting, reading));
    until("no text", || server.open.load(Ordering::Acquire) == 0);
    assert!(server.made.load(Ordering::Acquire) <= 2);
}

#[test]
fn who_does_not_read_loses_the_answer() {
    let server = start(Scripted::new(), |server| server.limits.backlog = 20_000);
    let request = json!({"prompt": "x", "max_tokens": 1900, "n": 40, "stream": true, "ignore_eos": true, "logprobs": 20});
    let stalled = server.send("POST", "/v1/completions", JSON, request.to_string().as_bytes());
    until("texts", || server.made.load(Ordering::Acquire) > 0);
    until("no text", || server.open.load(Ordering::Acquire) == 0);
    assert!(server.made.load(Ordering::Acquire) < 1900 * 40, "the texts were made to their end");
    // Others are answered meanwhile, and what was cut does not look whole.
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "say:Hi|"})).status, 200);
    let mut rest = Vec::new();
    let mut stalled = stalled;
    drop(stalled.read_to_end(&mut rest));
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"));
}

#[test]
fn a_server_that_stops_finishes_what_is_open_and_refuses_what_is_new() {
    let mut engine = Scripted::new();
    let steps = Arc::new(Semaphore::new(0));
    engine.steps = Some(steps.clone());
    let mut server = start(engine, |_| {});
    let open = stream(&server, 30);
    until("one text", || server.open.load(Ordering::Acquire) == 1);
    server.stop();
    until("refusal", || server.get("/health").status == 503);
    let (status, _) = server.refused("/v1/completions", &json!({"prompt": "x"}));
    assert_eq!(status, 503);
    steps.add_permits(100);
    let reply = Reply::read(open);
    assert_eq!(reply.events().last().unwrap()["choices"][0]["finish_reason"], "length");
    server.join();
}

#[test]
fn a_server_that_stops_does_not_wait_for_ever() {
    let mut engine = Scripted::new();
    engine.steps = Some(Arc::new(Semaphore::new(1)));
    let server = start(engine, |server| server.limits.drain = Duration::from_millis(200));
    let mut open = stream(&server, 30);
    open.read_exact(&mut [0; 100]).unwrap();
    let texts = server.open.clone();
    server.join();
    assert_eq!(texts.load(Ordering::Acquire), 0);
    let mut rest = Vec::new();
    drop(open.read_to_end(&mut rest));
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"));
}

#[test]
fn only_who_shows_a_key_is_answered() {
    let server = start(Scripted::new(), |server| {
        server.keys = vec!["first-key".to_owned(), "second-key".to_owned()];
        server.routes = Router::new().route("/v1/admin/other", post(async || "done"));
    });
    let status = |path: &str, method: &str, key: &str| {
        let headers = if key.is_empty() {
            JSON.to_owned()
        } else {
            format!("{JSON}authorization: {key}\r\n")
        };
        let reply = server.raw(method, path, &headers, b"{\"prompt\": \"say:Hi|\"}");
        if reply.status == 401 {
            assert_eq!(reply.error()["code"], "invalid_api_key");
            assert!(reply.head.contains("www-authenticate: bearer"));
        }
        reply.status
    };
    for (path, method) in [
        ("/v1/completions", "POST"),
        ("/tokenize", "POST"),
        ("/v1/models", "GET"),
        ("/v1/admin/other", "POST"),
    ] {
        assert_eq!(status(path, method, ""), 401, "{path}");
        for wrong in
            ["Bearer first-ke", "Bearer first-key2", "Bearer", "Basic first-key", "Bearer \u{e4}"]
        {
            assert_eq!(status(path, method, wrong), 401, "{path}");
        }
        assert_eq!(status(path, method, "Bearer first-key"), 200, "{path}");
        assert_eq!(status(path, method, "bearer second-key"), 200, "{path}");
    }
    // Who has no key is told so before anything of the body is read.
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 4000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(Reply::read(stream).status, 401);
    for path in ["/health", "/version", "/metrics", "/", "/openapi.json"] {
        assert_eq!(status(path, "GET", ""), 200, "{path}");
    }
}

#[test]
fn requests_are_bounded() {
    let server = start(Scripted::new(), |server| {
        server.limits.body = 1000;
        server.limits.body_time = Duration::from_millis(300);
    });
    let long = json!({"prompt": "x".repeat(2000)}).to_string();
    let reply = server.raw("POST", "/v1/completions", JSON, long.as_bytes());
    assert_eq!(reply.status, 413);
    reply.error();
    // A body that never ends.
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{").unwrap();
    let reply = Reply::read(slow);
    assert_eq!(reply.status, 408);
    reply.error();
}

/// JSON that is nearly a request.
fn hostile() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("user")),
        Just(json!(1)),
    ];
    let value = leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(
                "[a-z_]{1,8}|role|content|type|text|json|schema",
                inner,
                0..4
            )
            .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    let names = prop::sample::select(vec![
        "prompt",
        "messages",
        "input",
        "tokens",
        "model",
        "stream",
        "n",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "typical_p",
        "seed",
        "stop",
        "stop_token_ids",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "echo",
        "response_format",
        "guided_json",
        "guided_regex",
        "guided_grammar",
        "guided_choice",
        "structured_outputs",
        "tools",
        "tool_choice",
        "chat_template_kwargs",
        "stream_options",
        "min_tokens",
        "encoding_format",
        "documents",
        "continue_final_message",
        "add_generation_prompt",
        "repetition_penalty",
        "presence_penalty",
        "best_of",
    ]);
    let sound = prop_oneof![
        Just(json!({"prompt": "say:Hi|"})),
        Just(json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4})),
        Just(json!({"input": "a"})),
        Just(json!({"tokens": [1, 2]})),
        Just(json!({})),
    ];
    (sound, prop::collection::vec((names, value), 0..3)).prop_map(|(mut sound, changes)| {
        for (name, value) in changes {
            sound[name] = value;
        }
        sound
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn hostile_json_is_answered_or_refused_in_openais_form(
        request in hostile(),
        path in prop::sample::select(vec!["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize"]),
    ) {
        let server = shared();
        let reply = server.post(path, &request);
        if reply.status != 200 {
            reply.error();
            prop_assert!([400, 404, 429].contains(&reply.status), "{}: {}", reply.status, reply.text());
        } else if request["stream"] == true {
            reply.events();
        } else {
            reply.json();
        }
    }
}

#[test]
fn tools_and_documents_are_objects() {
    for name in ["tools", "documents"] {
        for (value, status) in [(json!([1]), 400), (json!([{"a": 1}]), 200), (json!(null), 200)] {
            let mut request =
                json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1});
            request[name] = value.clone();
            let reply = shared().post("/v1/chat/completions", &request);
            assert_eq!(reply.status, status, "{name} {value}: {}", reply.text());
        }
    }
}

/// One server for all cases.
fn shared() -> &'static Running {
    static SHARED: std::sync::OnceLock<Running> = std::sync::OnceLock::new();
    SHARED.get_or_init(|| start(Scripted::new(), |_| {}))
}
