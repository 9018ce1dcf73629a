//! Versions of engines, out of what they say. Pure.

use super::engine::External;

/// The numbers that a version begins with, three of them; none if what is said holds none.
///
/// What programs say is such as `0.32.0+cpu`, `sglang version: 0.5.23`, `text-generation-launcher 3.3.7` and
/// `version: 6123 (abc)`.
pub(super) fn numbers(said: &str) -> Option<[u32; 3]> {
    let number =
        |word: &&str| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
    let word = said.split_whitespace().find(number)?.trim_start_matches('v');
    let mut found = [0; 3];
    for (place, (own, part)) in found.iter_mut().zip(word.split('.')).enumerate() {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        let Ok(number) = digits.parse() else {
            if place == 0 {
                return None;
            }
            break;
        };
        *own = number;
        if digits.len() < part.len() {
            break;
        }
    }
    Some(found)
}

/// Why a version is not started.
///
/// A build from a working tree names no release: it is taken for new.
pub(super) fn too_old(engine: External, said: &str) -> Option<String> {
    let found = numbers(said).filter(|_| !said.contains(".dev"))?;
    let oldest = engine.oldest();
    (found < oldest).then(|| {
        let shown = match engine {
            External::LlamaCpp => oldest[..1].to_vec(),
            _ => oldest.to_vec(),
        };
        let shown: Vec<String> = shown.iter().map(u32::to_string).collect();
        format!(
            "{} {} is too old: {} or newer is needed; {}",
            engine.title(),
            said.trim(),
            shown.join("."),
            engine.install()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_however_they_are_said() {
        for (said, is) in [
            ("0.32.0+cpu", Some([0, 32, 0])),
            ("sglang version: 0.5.23", Some([0, 5, 23])),
            ("text-generation-launcher 3.3.7", Some([3, 3, 7])),
            ("version: 6123 (abc123)", Some([6123, 0, 0])),
            ("v1.2", Some([1, 2, 0])),
            ("0.11.0rc2", Some([0, 11, 0])),
            ("no number", None),
            ("", None),
            ("99999999999999999999.1", None),
        ] {
            assert_eq!(numbers(said), is, "{said}");
        }
    }

    #[test]
    fn old_ones_are_refused_and_builds_are_not() {
        let old = too_old(External::Vllm, "0.6.3").unwrap();
        assert!(
            old.contains("vLLM 0.6.3")
                && old.contains("0.10.0")
                && old.contains("pip install vllm"),
            "{old}"
        );
        assert!(too_old(External::LlamaCpp, "version: 12 (a)").unwrap().contains("4000 or newer"));
        for said in ["0.32.0+cpu", "0.1.dev1+g123", "who knows"] {
            assert_eq!(too_old(External::Vllm, said), None, "{said}");
        }
    }
}
