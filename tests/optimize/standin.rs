//! A server that speaks as vLLM's does, and makes up what it says of texts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// What a server does.
#[derive(Clone)]
pub struct Manners {
    /// Its models, each with how much more its tokens cost.
    pub models: Vec<(String, f64)>,
    /// Whether it tells the probabilities of a prompt's tokens.
    pub tells: bool,
    /// After so many completions it is gone.
    pub dies_after: usize,
}

pub struct StandIn {
    pub url: String,
    completions: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl StandIn {
    pub fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (completions, asked) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let own = Self { url, completions: Arc::clone(&completions), asked: Arc::clone(&asked) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { break };
                let (manners, completions, asked) =
                    (manners.clone(), Arc::clone(&completions), Arc::clone(&asked));
                std::thread::spawn(move || serve(stream, &manners, &completions, &asked));
            }
        });
        own
    }

    /// Completions that were asked for.
    pub fn completions(&self) -> usize {
        self.completions.load(Ordering::SeqCst)
    }

    /// What was asked.
    pub fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

/// One request of a connection.
fn serve(
    mut stream: TcpStream,
    manners: &Manners,
    completions: &AtomicUsize,
    asked: &Mutex<Vec<Value>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let lower = line.to_lowercase();
        if let Some(told) = lower.strip_prefix("content-length:") {
            length = told.trim().parse().unwrap();
        }
        if first.is_empty() {
            first = lower;
        } else if lower.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let path = first.split_whitespace().nth(1).unwrap_or_default();
    let (status, answer) = match path {
        "/v1/models" => {
            let data: Vec<Value> = manners.models.iter().map(|own| json!({"id": own.0})).collect();
            (200, json!({"object": "list", "data": data}).to_string())
        }
        "/version" => (200, json!({"version": "stand-in 1"}).to_string()),
        "/v1/completions" => {
            let body: Value = serde_json::from_slice(&body).unwrap();
            if completions.fetch_add(1, Ordering::SeqCst) >= manners.dies_after {
                return;
            }
            asked.lock().unwrap().push(body.clone());
            complete(&body, manners)
        }
        _ => (404, json!({"error": {"message": "nothing here"}}).to_string()),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        answer.len()
    );
    drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(answer.as_bytes())));
}

fn complete(body: &Value, manners: &Manners) -> (u16, String) {
    let Some((_, more)) = manners.models.iter().find(|own| body["model"] == own.0.as_str()) else {
        return (404, json!({"error": {"message": "no such model"}}).to_string());
    };
    if body["stream"] == true {
        let event = json!({"choices": [{"index": 0, "text": " a"}]});
        let usage = json!({"choices": [], "usage": {
            "prompt_tokens": 8, "completion_tokens": body["max_tokens"],
        }});
        return (200, format!("data: {event}\n\ndata: {usage}\n\ndata: [DONE]\n\n"));
    }
    let tokens: Vec<u64> = match body["prompt"].as_array() {
        Some(all) => all.iter().map(|own| own.as_u64().unwrap()).collect(),
        None => vec![1, 2],
    };
    let told = |token: &u64| {
        let loss = 1.0 + (token % 7) as f64 / 10.0 + more;
        if more.is_nan() {
            // As engines write it that keep to JSON.
            return json!({token.to_string(): {"logprob": "NaN", "rank": 1}});
        }
        let other = (1.0 - (-loss).exp()) / 2.0;
        json!({
            token.to_string(): {"logprob": -loss, "rank": 2},
            (token + 1).to_string(): {"logprob": other.ln(), "rank": 1},
        })
    };
    let mut choice = json!({"index": 0, "text": "", "finish_reason": "length"});
    if manners.tells && body.get("prompt_logprobs").is_some() {
        let mut all = vec![Value::Null];
        all.extend(tokens.iter().skip(1).map(told));
        choice["prompt_logprobs"] = json!(all);
    }
    (200, json!({"choices": [choice]}).to_string())
}
