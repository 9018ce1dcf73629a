//! Bits that are solved for the limit itself.

use super::{dropped, number, optimize, with_model};

#[test]
fn as_few_bits_are_found_as_the_limit_allows() {
    let store = with_model("solved");
    let all = ["--candidates", "mixed", "--context", "128"];
    let run = optimize(&store, &[&all[..], &["--max-kl", "0.02"]].concat());
    assert_eq!(run.status, Some(0), "{}", run.error);
    let rows = run.json["candidates"].as_array().unwrap();
    assert!((1..=3).contains(&rows.len()), "{} rounds", rows.len());
    let winner = &run.json["winner"];
    assert!(number(&winner["ranges"]["kl"]["high"]) <= 0.02, "{winner}");
    // Half a bit less would not have kept it.
    let budget = |method: &str| method.strip_prefix("mixed_").unwrap().parse::<f64>().unwrap();
    let won = budget(winner["method"].as_str().unwrap());
    assert!((3.0..8.0).contains(&won), "{won}");
    let less = format!("mixed_{:.2}", won - 0.5);
    let less_run =
        optimize(&store, &["--candidates", &less, "--context", "128", "--max-kl", "0.02"]);
    assert_eq!(less_run.status, Some(1), "{less}: {}", less_run.json);
    assert!(dropped(&less_run, &less).contains("--max-kl"), "{}", less_run.json);
    // What was found is known, and found again.
    let again = optimize(&store, &[&all[..], &["--max-kl", "0.02"]].concat());
    assert_eq!((again.number("computed"), &again.json["winner"]["method"]), (0, &winner["method"]));
    // A looser limit takes fewer bits.
    let loose = optimize(&store, &[&all[..], &["--max-kl", "0.1"]].concat());
    assert_eq!(loose.status, Some(0), "{}", loose.error);
    assert!(budget(loose.json["winner"]["method"].as_str().unwrap()) < won, "{}", loose.json);
    // Without one there is nothing to solve for.
    let none = optimize(&store, &all);
    assert_eq!(none.status, Some(1), "{}", none.error);
    assert!(none.error.contains("no limit of quality"), "{}", none.error);
}
