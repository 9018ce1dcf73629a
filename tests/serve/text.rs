//! Text that comes token by token, and strings that end it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use tenpak::engine::text::{Detokenizer, Passed, StopStrings, Tokenizer};

/// A tokenizer whose vocabulary are these tokens, decoded so.
fn tokenizer(tokens: &[&str], decoder: Value, special: &[&str]) -> Arc<Tokenizer> {
    let vocabulary: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id.into())).collect();
    let added: Vec<Value> = special
        .iter()
        .map(|token| {
            json!({"id": vocabulary[*token], "content": token, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": tokens[0]},
    });
    Arc::new(Tokenizer::parse(json.to_string().as_bytes()).unwrap())
}

fn llama() -> Arc<Tokenizer> {
    let mut tokens = vec![
        "<unk>".to_owned(),
        "<s>".to_owned(),
        "▁Hello".to_owned(),
        "▁".to_owned(),
        "é".to_owned(),
    ];
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    tokenizer(&tokens, decoder, &["<s>"])
}

fn byte_level() -> Arc<Tokenizer> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/base/tokenizer.json");
    Arc::new(Tokenizer::parse(&fs::read(fixture).unwrap()).unwrap())
}

fn in_parts(tokenizer: &Arc<Tokenizer>, tokens: &[u32]) -> String {
    let mut own = Detokenizer::new(tokenizer.clone(), false);
    let parts: String = tokens.iter().map(|token| own.push(*token)).collect();
    parts + &own.finish()
}

proptest! {
    #[test]
    fn byte_level_parts_are_the_whole(tokens in prop::collection::vec(0u32..2048, 0..60)) {
        let tokenizer = byte_level();
        prop_assert_eq!(in_parts(&tokenizer, &tokens), tokenizer.decode(&tokens).unwrap());
    }

    #[test]
    fn text_comes_back_from_its_tokens(text in "\\PC{0,40}") {
        let tokenizer = byte_level();
        let tokens = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(in_parts(&tokenizer, &tokens), tokenizer.decode(&tokens).unwrap());
        let whole: Vec<u8> = tokens.iter().flat_map(|token| tokenizer.bytes(*token).to_vec()).collect();
        prop_assert_eq!(String::from_utf8(whole).unwrap(), tokenizer.decode(&tokens).unwrap());
    }

    #[test]
    fn llamas_bytes_are_put_together(text in "\\PC{0,20}", spaces in 0usize..3) {
        let tokenizer = llama();
        let mut tokens = vec![1u32];
        tokens.extend(vec![3; spaces]);
        tokens.extend(text.bytes().map(|byte| 5 + u32::from(byte)));
        let parts = in_parts(&tokenizer, &tokens);
        prop_assert_eq!(parts, tokenizer.decode(&tokens).unwrap());
    }

    #[test]
    fn stops_do_not_depend_on_how_text_is_cut(
        text in "[abé]{0,30}|[ab]{0,60}", strings in prop::collection::vec("[abé]{1,4}|[ab]{1,9}", 0..4), cuts in prop::collection::vec(0usize..6, 0..30),
        include: bool,
    ) {
        // The slow way: after each character, look whether any string ends there; the longest counts.
        let mut expected = (text.clone(), None);
        let ends = text.char_indices().map(|(at, letter)| at + letter.len_utf8());
        'found: for end in ends {
            let mut here: Vec<(usize, usize)> = strings.iter().enumerate()
                .filter(|(_, stop)| text[..end].ends_with(stop.as_str()))
                .map(|(which, stop)| (which, stop.len())).collect();
            here.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
            if let Some((which, length)) = here.first() {
                expected = (text[..if include { end } else { end - length }].to_owned(), Some(*which));
                break 'found;
            }
        }
        let mut own = StopStrings::new(&strings, include);
        let (mut got, mut stop, mut rest) = (String::new(), None, text.as_str());
        let mut cuts = cuts.into_iter();
        while !rest.is_empty() && stop.is_none() {
            let letters = cuts.next().unwrap_or(3);
            let at = rest.char_indices().nth(letters).map_or(rest.len(), |(at, _)| at);
            let passed = own.push(&rest[..at]);
            got += &passed.text;
            // What was told can no longer be taken back.
            prop_assert!(expected.0.starts_with(&got));
            (stop, rest) = (passed.stop, &rest[at..]);
        }
        if stop.is_none() {
            got += &own.finish();
        }
        prop_assert_eq!((got, stop), expected);
    }
}

#[test]
fn a_character_waits_for_its_last_byte_and_damage_is_shown() {
    let tokenizer = llama();
    let byte = |byte: u8| 5 + u32::from(byte);
    let mut own = Detokenizer::new(tokenizer.clone(), true);
    let crab = "🦀".as_bytes();
    assert_eq!(own.push(byte(crab[0])), "");
    assert_eq!(own.push(byte(crab[1])), "");
    assert_eq!(own.push(byte(crab[2])), "");
    assert_eq!(own.push(byte(crab[3])), "🦀");
    assert_eq!(own.push(byte(0xff)), "\u{fffd}");
    assert_eq!(own.push(byte(crab[0])), "");
    assert_eq!(own.push(2), "\u{fffd} Hello");
    assert_eq!(own.push(byte(crab[0])), "");
    assert_eq!(own.finish(), "\u{fffd}");
    assert_eq!(own.push(99_999), "", "a token that is not there has no text");
}

#[test]
fn the_first_space_falls_only_at_the_beginning_of_a_text() {
    let tokenizer = llama();
    let first = |prompt: &[u32]| Detokenizer::after(tokenizer.clone(), true, prompt).push(2);
    assert_eq!(first(&[1]), "Hello");
    assert_eq!(first(&[]), "Hello");
    assert_eq!(first(&[1, 4]), " Hello");
    assert_eq!(first(&[2, 1, 1, 1, 1, 1, 1, 1, 1, 1]), " Hello", "what is skipped is no beginning");
    // The prompt ends within a character.
    let mut own = Detokenizer::after(tokenizer.clone(), true, &[2, 5 + 0xc3]);
    assert_eq!(own.push(5 + 0xa9), "é");
}

#[test]
fn other_decoders_are_asked() {
    let tokens = ["[UNK]", "[CLS]", "hello", "wor", "##ld", "!"];
    let own = tokenizer(
        &tokens,
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        &["[CLS]"],
    );
    let ids = [2, 3, 4, 5];
    assert_eq!(in_parts(&own, &ids), "hello world!");
    assert_eq!(own.decode(&ids).unwrap(), "hello world!");
}

#[test]
fn a_stop_string_is_found_wherever_it_is() {
    let words = |length: u32| {
        (0..1u32 << length).map(move |bits| {
            (0..length).map(|at| if bits >> at & 1 == 1 { 'a' } else { 'b' }).collect::<String>()
        })
    };
    let texts: Vec<String> = words(11).collect();
    for stop in (1..=7).flat_map(words) {
        for text in &texts {
            let found = StopStrings::new(std::slice::from_ref(&stop), false).push(text);
            match text.find(&stop) {
                Some(at) => {
                    assert_eq!(found, Passed { text: text[..at].to_owned(), stop: Some(0) })
                }
                None => assert!(
                    found.stop.is_none() && text.starts_with(&found.text),
                    "{stop} in {text}"
                ),
            }
        }
    }
}

#[test]
fn nothing_ends_what_is_passed() {
    let mut own = StopStrings::new(&["end".to_owned(), String::new()], false);
    assert_eq!(own.pass("the end"), "the end");
    assert_eq!(own.push("e"), Passed { text: String::new(), stop: None });
    assert_eq!(own.pass("nd e"), "end e", "what began before is no longer looked for");
    assert_eq!(own.push("nd"), Passed { text: "nd".to_owned(), stop: None });
    assert_eq!(own.push("en"), Passed { text: String::new(), stop: None });
    assert_eq!(own.push("d."), Passed { text: String::new(), stop: Some(0) });
}

#[test]
fn what_is_no_tokenizer_is_refused() {
    for json in [&b""[..], b"{}", b"[]", b"{\"model\": 3}"] {
        assert!(Tokenizer::parse(json).is_err());
    }
    let sparse = json!({"version": "1.0", "added_tokens": [], "model":
        {"type": "WordLevel", "vocab": {"a": 4_000_000_000u32}, "unk_token": "a"}});
    let told = Tokenizer::parse(sparse.to_string().as_bytes()).unwrap_err().to_string();
    assert!(told.contains("names token 4000000000"), "{told}");
}
