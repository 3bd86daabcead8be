//! `longhand eval` and `longhand generate` on a model that was just trained.

use crate::workplace::Workplace;
use serde_json::Value;

#[test]
fn eval_prints_loss_perplexity_bits_per_byte_and_tokens_as_json() {
    let place = Workplace::new();
    place.train(&["--steps", "2"]);
    let out = place.succeed(&["eval", "--model", "run", "--text", "text.txt", "--json"]);
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(object.as_object().unwrap().len(), 4, "{object}");
    let number = |field: &str| object[field].as_f64().unwrap();
    assert!((number("perplexity") - number("loss").exp()).abs() < 1e-9 * number("perplexity"));
    let bytes = std::fs::metadata(place.path("text.txt")).unwrap().len() as f64;
    let bits = number("loss") * number("tokens") / std::f64::consts::LN_2;
    // The first token is not predicted, and its bytes do not count.
    assert!((number("bits_per_byte") * bytes / bits - 1.0).abs() < 0.01, "{object}");
    let shown = place.succeed(&["eval", "--model", "run", "--text", "text.txt"]);
    assert!(shown.contains(&format!("{:.4} nats per token", number("loss"))), "{shown}");
}

#[test]
fn a_longer_context_predicts_as_many_tokens() {
    let place = Workplace::new();
    place.train(&["--steps", "2"]);
    let tokens = |context: &str| -> Value {
        let out =
            place.succeed(&["eval", "--model", "run", "--text", "text.txt", "--context", context, "--json"]);
        serde_json::from_str::<Value>(&out).unwrap()["tokens"].clone()
    };
    assert_eq!(tokens("16"), tokens("5"));
}

#[test]
fn the_same_seed_generates_the_same_text_and_another_seed_another() {
    let place = Workplace::new();
    place.train(&["--steps", "2"]);
    let generate = |more: &[&str]| {
        place.succeed(
            &[&["generate", "--model", "run", "--prompt", "line ", "--max-tokens", "12"], more].concat(),
        )
    };
    let sampled = generate(&["--seed", "7", "--temperature", "1.5"]);
    assert!(sampled.starts_with("line "), "{sampled}");
    assert_eq!(sampled, generate(&["--seed", "7", "--temperature", "1.5"]));
    assert_ne!(sampled, generate(&["--seed", "8", "--temperature", "1.5"]));
    assert_eq!(generate(&["--greedy"]), generate(&["--top-k", "1"]));
    assert_ne!(sampled, generate(&["--greedy"]));
}

#[test]
fn an_empty_prompt_starts_a_new_text() {
    let place = Workplace::new();
    place.train(&["--steps", "2"]);
    let out = place.succeed(&["generate", "--model", "run", "--prompt", "", "--max-tokens", "8"]);
    assert!(!out.trim().is_empty(), "{out:?}");
}
