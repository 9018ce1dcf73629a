//! Every endpoint, by what clients see.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{CONTEXT, Running, Scripted, start};

fn server() -> Running {
    start(Scripted::new(), |_| {})
}

/// The texts of a streamed answer, put together, with all else that it says of each.
fn together(events: &[Value]) -> Vec<(String, Vec<Value>, Value, Value)> {
    let mut texts: BTreeMap<u64, (String, Vec<Value>, Value, Value)> = BTreeMap::new();
    for event in events {
        for choice in event["choices"].as_array().unwrap() {
            let own = texts.entry(choice["index"].as_u64().unwrap()).or_default();
            assert!(own.2.is_null(), "nothing follows the end of a text");
            let text = choice["text"].as_str().or_else(|| choice["delta"]["content"].as_str());
            own.0 += text.unwrap_or("");
            let logprobs = &choice["logprobs"];
            if let Some(content) = logprobs["content"].as_array() {
                own.1.extend(content.iter().cloned());
            }
            for (at, token) in logprobs["tokens"].as_array().into_iter().flatten().enumerate() {
                let (own_prob, top) =
                    (&logprobs["token_logprobs"][at], &logprobs["top_logprobs"][at]);
                own.1.push(json!([token, own_prob, top, logprobs["text_offset"][at]]));
            }
            own.2 = choice["finish_reason"].clone();
            own.3 = choice["stop_reason"].clone();
        }
    }
    texts.into_values().collect()
}

#[test]
fn streamed_or_not_an_answer_says_the_same() {
    let server = server();
    let requests = [
        ("/v1/completions", json!({"prompt": "say:Hello there, world!|"})),
        ("/v1/completions", json!({"prompt": "once", "max_tokens": 40, "seed": 5, "logprobs": 3})),
        (
            "/v1/completions",
            json!({"prompt": ["a", "say:bytes:größe 🦀|"], "n": 3, "seed": 1, "max_tokens": 30}),
        ),
        (
            "/v1/completions",
            json!({"prompt": "say:one two three four|", "stop": ["ee f", "nothing"], "echo": true, "logprobs": 0, "max_tokens": 30}),
        ),
        (
            "/v1/completions",
            json!({"prompt": [5, 6, 7], "echo": true, "logprobs": 2, "max_tokens": 0}),
        ),
        ("/v1/completions", json!({"prompt": "say:abc|", "echo": true, "max_tokens": 0})),
        (
            "/v1/completions",
            json!({"prompt": "say:one two|", "stop": "two", "include_stop_str_in_output": true}),
        ),
        ("/v1/completions", json!({"prompt": "say:one two|", "stop": "one", "min_tokens": 3})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "say:Grüße!|"}]})),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "hm"}], "seed": 9, "n": 2,
            "max_completion_tokens": 25, "logprobs": true, "top_logprobs": 2, "presence_penalty": 1.0}),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "x"}], "seed": 4, "max_tokens": 60,
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema":
                {"type": "object", "properties": {"a": {"enum": [1, 22]}}, "required": ["a"], "additionalProperties": false}}}}),
        ),
    ];
    for (path, request) in requests {
        let whole = server.ask(path, &request);
        let mut streamed = request.clone();
        streamed["stream"] = true.into();
        streamed["stream_options"] = json!({"include_usage": true});
        let reply = server.post(path, &streamed);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.head.contains("content-type: text/event-stream"));
        let mut events = reply.events();
        let last = events.pop().unwrap();
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"], whole["usage"], "{request}");
        let chat = path.contains("chat");
        let kind = if chat { "chat.completion.chunk" } else { "text_completion" };
        assert!(
            events.iter().all(|event| event["object"] == kind && event["id"] == events[0]["id"])
        );
        let parts = together(&events);
        for (choice, (text, tokens, finish, stop)) in
            whole["choices"].as_array().unwrap().iter().zip(&parts)
        {
            let own =
                choice["text"].as_str().or_else(|| choice["message"]["content"].as_str()).unwrap();
            assert_eq!(
                (own, &choice["finish_reason"], &choice["stop_reason"]),
                (text.as_str(), finish, stop),
                "{request}"
            );
            assert!(finish.is_string());
            let whole = together(&[json!({"choices": [choice]})]);
            assert_eq!(whole[0].1, *tokens, "{request}");
        }
        assert_eq!(parts.len(), whole["choices"].as_array().unwrap().len());
    }
}

#[test]
fn completions_go_on_as_they_are_asked() {
    let server = server();
    let ask = |request: Value| server.ask("/v1/completions", &request);
    let text =
        |answer: &Value, at: usize| answer["choices"][at]["text"].as_str().unwrap().to_owned();

    let answer = ask(json!({"model": "short", "prompt": "say:Hello|"}));
    assert_eq!((text(&answer, 0).as_str(), &answer["model"]), ("Hello", &json!("short")));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["object"], "text_completion");

    let cut = ask(json!({"prompt": "say:one two three|", "max_tokens": 2}));
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    assert_eq!(cut["usage"]["completion_tokens"], 2);

    // A stop string across tokens, and within one.
    let stopped =
        ask(json!({"prompt": "say:bytes:one two three|", "max_tokens": 40, "stop": ["o t"]}));
    assert_eq!(text(&stopped, 0), "one tw");
    assert_eq!(stopped["choices"][0]["stop_reason"], "o t");
    let kept = ask(
        json!({"prompt": "say:bytes:one two three|", "max_tokens": 40, "stop": ["o t"], "include_stop_str_in_output": true}),
    );
    assert_eq!(text(&kept, 0), "one two t");

    let echoed = ask(json!({"prompt": "say:Hi|", "echo": true, "logprobs": 1, "max_tokens": 5}));
    assert_eq!(text(&echoed, 0), "say:Hi|Hi");
    let told = &echoed["choices"][0]["logprobs"];
    assert_eq!(told["token_logprobs"][0], Value::Null);
    assert!(told["token_logprobs"][1].as_f64().unwrap() < 0.0);
    let (tokens, offsets) =
        (told["tokens"].as_array().unwrap(), told["text_offset"].as_array().unwrap());
    assert_eq!(tokens.len(), offsets.len());
    assert!(offsets.windows(2).all(|two| two[0].as_u64() <= two[1].as_u64()));

    // A token that ends, and the model's own end that does not.
    let end = ask(json!({"prompt": "say:Hello|", "ignore_eos": true, "max_tokens": 12}));
    assert_eq!(
        (end["choices"][0]["finish_reason"].as_str(), &end["usage"]["completion_tokens"]),
        (Some("length"), &json!(12))
    );
    let tokens = server.ask("/tokenize", &json!({"prompt": "Hello"}))["tokens"].clone();
    let first = ask(json!({"prompt": "say:Hello|", "stop_token_ids": [tokens[0]]}));
    assert_eq!((text(&first, 0).as_str(), &first["choices"][0]["stop_reason"]), ("", &tokens[0]));

    // Several prompts, several texts of each, told in order; seeds make them differ and come again.
    let many = json!({"prompt": ["a", "b"], "n": 2, "seed": 3, "max_tokens": 8});
    let (first, again) = (ask(many.clone()), ask(many));
    assert_eq!(first["choices"], again["choices"]);
    assert_eq!(first["choices"].as_array().unwrap().len(), 4);
    assert_ne!(text(&first, 0), text(&first, 1));

    let banned = ask(
        json!({"prompt": "say:Hello|", "logit_bias": {tokens[0].to_string(): -100}, "temperature": 0, "max_tokens": 4}),
    );
    assert!(!text(&banned, 0).starts_with("Hello"));
    let adapted = ask(json!({"model": "spoken", "prompt": "say:Hello|"}));
    assert_eq!(adapted["model"], "spoken");
}

#[test]
fn grammars_hold_what_is_made() {
    let server = server();
    let ask = |field: &str, value: Value| {
        let mut request = json!({"prompt": "x", "max_tokens": 200, "seed": 11, "temperature": 1.5});
        request[field] = value;
        let answer = server.ask("/v1/completions", &request);
        (
            answer["choices"][0]["text"].as_str().unwrap().to_owned(),
            answer["choices"][0]["finish_reason"].clone(),
        )
    };
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9},
        "b": {"enum": ["x", "yy"]}}, "required": ["a", "b"], "additionalProperties": false});
    for (field, value) in [
        ("guided_json", schema.clone()),
        ("guided_json", schema.to_string().into()),
        ("structured_outputs", json!({"json": schema})),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}),
        ),
    ] {
        let (text, finish) = ask(field, value);
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(
            value["a"].as_u64().unwrap() < 10 && (value["b"] == "x" || value["b"] == "yy"),
            "{text}"
        );
        assert_eq!(finish, "stop");
    }
    let (text, _) = ask("guided_regex", "[0-9]{3}-[a-c]{2}".into());
    assert!(text.len() == 6 && text.as_bytes()[3] == b'-', "{text}");
    let (text, _) = ask("guided_choice", json!(["größe", "little"]));
    assert!(text == "größe" || text == "little", "{text}");
    let (text, _) = ask("guided_grammar", "start: \"a\" (\"b\" | \"c\") \"d\"".into());
    assert!(text == "abd" || text == "acd", "{text}");

    let wrong = [
        ("guided_json", json!("{")),
        ("guided_json", json!({"type": "nothing"})),
        ("guided_regex", json!("(")),
        ("guided_grammar", json!("start: other")),
        ("guided_grammar", json!("")),
        ("guided_choice", json!([])),
        ("response_format", json!({"type": "json_schema"})),
        ("response_format", json!({"type": "xml"})),
        ("structured_outputs", json!({"regex": "a", "choice": ["a"]})),
    ];
    for (field, value) in wrong {
        let mut request = json!({"prompt": "x"});
        request[field] = value.clone();
        let (status, error) = server.refused("/v1/completions", &request);
        assert_eq!(status, 400, "{field} {value}: {error}");
    }
}

#[test]
fn conversations_are_written_by_the_template() {
    let server = server();
    let chat = |request: Value| server.ask("/v1/chat/completions", &request);
    let answer = chat(
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "say:Good"},
        {"type": "text", "text": "day|"}]}]}),
    );
    assert_eq!(
        answer["choices"][0]["message"],
        json!({"role": "assistant", "content": "Good\nday"})
    );
    assert_eq!(
        (&answer["object"], &answer["choices"][0]["finish_reason"]),
        (&json!("chat.completion"), &json!("stop"))
    );
    let tokens =
        server.ask("/tokenize", &json!({"messages": [{"role": "user", "content": "Hello"}]}));
    assert_eq!(server.ask("/detokenize", &json!({"tokens": tokens["tokens"]}))["prompt"], "Hello|");
    let wrong = [
        json!({}),
        json!({"messages": []}),
        json!({"messages": [{"content": "a"}]}),
        json!({"messages": [{"role": "odd", "content": "a"}]}),
        json!({"messages": [{"role": "user", "content": 3}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        json!({"messages": [{"role": "user", "content": "a"}], "tool_choice": "required"}),
        json!({"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2}),
        json!({"messages": [{"role": "user", "content": "a"}], "logprobs": true, "top_logprobs": 21}),
    ];
    for request in wrong {
        assert_eq!(server.refused("/v1/chat/completions", &request).0, 400, "{request}");
    }
}

#[test]
fn embeddings_come_as_numbers_or_as_their_bytes() {
    let mut engine = Scripted::new();
    engine.generates = false;
    let server = start(engine, |_| {});
    let answer = server.ask("/v1/embeddings", &json!({"input": ["a b", "c"], "model": "short"}));
    assert_eq!(answer["data"][1]["embedding"][1], 0.5);
    assert_eq!((&answer["data"][1]["index"], &answer["object"]), (&json!(1), &json!("list")));
    let bytes = server.ask(
        "/v1/embeddings",
        &json!({"input": [3, 4], "encoding_format": "base64", "dimensions": 3}),
    );
    assert_eq!(bytes["data"][0]["embedding"], "AAAAQAAAAD8AAIC/");
    assert_eq!(bytes["usage"]["prompt_tokens"], 2);
    for request in [
        json!({}),
        json!({"input": []}),
        json!({"input": ""}),
        json!({"input": "a", "dimensions": 7}),
        json!({"input": "a", "encoding_format": "hex"}),
        json!({"input": [99_999_999]}),
        json!({"input": vec![5; CONTEXT + 1]}),
    ] {
        assert_eq!(server.refused("/v1/embeddings", &request).0, 400, "{request}");
    }
    assert_eq!(server.refused("/v1/completions", &json!({"prompt": "a"})).0, 400);
    let server = start(Scripted::new(), |_| {});
    assert_eq!(server.refused("/v1/embeddings", &json!({"input": "a"})).0, 400);
}

#[test]
fn what_stands_around_is_told() {
    let server = server();
    let models = server.get("/v1/models").json();
    let names: Vec<&Value> =
        models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(names, ["org/model", "short", "spoken"]);
    assert_eq!(models["data"][2]["parent"], "org/model");
    assert_eq!(server.get("/v1/models/org/model").json()["max_model_len"], CONTEXT);
    assert_eq!(server.get("/v1/models/org%2Fmodel").json()["id"], "org/model");
    assert_eq!(server.get("/v1/models/other").status, 404);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/version").json()["version"], env!("CARGO_PKG_VERSION"));
    server.ask("/v1/completions", &json!({"prompt": "say:Hello|"}));
    let metrics = server.get("/metrics").text();
    for line in [
        "vllm:num_requests_running{model_name=\"org/model\"} 0",
        "vllm:request_success_total{model_name=\"org/model\",finished_reason=\"stop\"} 1",
        "vllm:time_to_first_token_seconds_count{model_name=\"org/model\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let page = server.get("/");
    assert!(page.head.contains("content-security-policy") && page.text().contains("tokens/s"));
    let document = server.get("/openapi.json").json();
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths.len(), 10, "{paths:?}");
    let strings = server.ask("/tokenize", &json!({"prompt": "Hello", "return_token_strs": true}));
    assert_eq!(strings["count"], strings["token_strs"].as_array().unwrap().len());
}

#[test]
fn what_makes_no_sense_is_refused_in_openais_form() {
    let server = server();
    let wrong: [(Value, u16, Option<&str>); 37] = [
        (json!({}), 400, Some("prompt")),
        (json!({"prompt": []}), 400, Some("prompt")),
        (json!({"prompt": ""}), 400, Some("prompt")),
        (json!({"prompt": {"a": 1}}), 400, Some("prompt")),
        (json!({"prompt": [-1]}), 400, Some("prompt")),
        (json!({"prompt": [99_999]}), 400, Some("prompt")),
        (json!({"prompt": vec![5; CONTEXT]}), 400, Some("max_tokens")),
        (json!({"prompt": "a", "max_tokens": 5000}), 400, Some("max_tokens")),
        (json!({"prompt": "a", "max_tokens": 0}), 400, Some("max_tokens")),
        (json!({"prompt": "a", "max_tokens": -1}), 400, Some("max_tokens")),
        (json!({"prompt": "a", "max_tokens": 1.5}), 400, Some("max_tokens")),
        (json!({"prompt": "a", "temperature": -1}), 400, Some("temperature")),
        (json!({"prompt": "a", "temperature": "hot"}), 400, Some("temperature")),
        (json!({"prompt": "a", "temperature": 1e300}), 400, Some("temperature")),
        (json!({"prompt": "a", "top_p": 0}), 400, Some("top_p")),
        (json!({"prompt": "a", "top_k": -2}), 400, Some("top_k")),
        (json!({"prompt": "a", "min_p": 2}), 400, Some("min_p")),
        (json!({"prompt": "a", "typical_p": 0}), 400, Some("typical_p")),
        (json!({"prompt": "a", "repetition_penalty": 0}), 400, Some("repetition_penalty")),
        (json!({"prompt": "a", "presence_penalty": 3}), 400, Some("presence_penalty")),
        (json!({"prompt": "a", "n": 0}), 400, Some("n")),
        (json!({"prompt": "a", "n": 1_000_000}), 400, Some("n")),
        (json!({"prompt": "a", "n": 2, "best_of": 3}), 400, Some("best_of")),
        (json!({"prompt": "a", "use_beam_search": true}), 400, Some("use_beam_search")),
        (json!({"prompt": "a", "suffix": "b"}), 400, Some("suffix")),
        (json!({"prompt": "a", "bad_words": ["b"]}), 400, Some("bad_words")),
        (json!({"prompt": "a", "prompt_logprobs": 1}), 400, Some("prompt_logprobs")),
        (
            json!({"prompt": vec!["a"; 100], "n": 1, "logprobs": 20, "max_tokens": 2000}),
            400,
            Some("logprobs"),
        ),
        (json!({"prompt": "a", "logprobs": 21}), 400, Some("logprobs")),
        (json!({"prompt": "a", "logit_bias": {"x": 1}}), 400, Some("logit_bias")),
        (json!({"prompt": "a", "logit_bias": {"5": 101}}), 400, Some("logit_bias")),
        (json!({"prompt": "a", "stop_token_ids": [99_999]}), 400, Some("stop_token_ids")),
        (json!({"prompt": "a", "stop": [""]}), 400, Some("stop")),
        (json!({"prompt": "a", "min_tokens": 17}), 400, Some("min_tokens")),
        (json!({"prompt": "a", "stream_options": {}}), 400, Some("stream_options")),
        (json!({"prompt": "a", "model": "other"}), 404, None),
        (json!({"prompt": "busy:"}), 429, None),
    ];
    for (request, status, param) in wrong {
        let (own, error) = server.refused("/v1/completions", &request);
        assert_eq!((own, error["param"].as_str()), (status, param), "{error}");
    }
    let json = "content-type: application/json\r\n";
    for body in [&b""[..], b"{", b"[]", b"3", b"\xff", b"{\"prompt\": \"\\ud800\"}"] {
        let reply = server.raw("POST", "/v1/completions", json, body);
        assert_eq!(reply.status, 400);
        reply.error();
    }
    let deep = "[".repeat(100_000);
    assert_eq!(server.raw("POST", "/v1/completions", json, deep.as_bytes()).status, 400);
    assert_eq!(
        server.raw("POST", "/v1/completions", "content-type: text/plain\r\n", b"{}").status,
        415
    );
    assert_eq!(server.raw("POST", "/v1/completions", "", b"{}").status, 415);
    for (method, path, status) in
        [("GET", "/v1/completions", 405), ("GET", "/nothing", 404), ("POST", "/health", 405)]
    {
        let reply = server.raw(method, path, json, b"{}");
        assert_eq!(reply.status, status);
        reply.error();
    }
    // An engine that fails says so, before the answer and within a stream.
    let (status, error) = server.refused("/v1/completions", &json!({"prompt": "fail:"}));
    assert_eq!((status, error["message"].as_str()), (500, Some("the weights are damaged")));
    let events =
        server.post("/v1/completions", &json!({"prompt": "fail:", "stream": true})).events();
    assert_eq!(events.last().unwrap()["error"]["message"], "the weights are damaged");
}
