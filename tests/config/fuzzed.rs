//! No input makes the reader panic.

use shadowcat::config;

/// Changes that a hand or a broken editor makes.
fn mutated(text: &str, at: usize, change: u8) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let line = at % lines.len().max(1);
    let cut = text.floor_char_boundary(at % text.len().max(1));
    if lines.is_empty() {
        return "$".to_owned();
    }
    match change % 5 {
        0 => [&lines[..line], &lines[line + 1..]].concat().join("\n"),
        1 => [&lines[..line], &[lines[line]], &lines[line..]].concat().join("\n"),
        2 => text[..cut].to_owned(),
        3 => format!("{}\"{}", &text[..cut], &text[cut..]),
        _ => format!("{}${{{}", &text[..cut], &text[cut..]),
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC*|[\\[\\]\"'=#${}:\\-a-z0-9_.,\n \\t\u{0}\u{e9}]{0,200}") {
        let _ = config::check_text(&text).map_err(|errors| errors.to_string());
        let _ = config::check_auth_text(&text).map_err(|errors| errors.to_string());
    }

    #[test]
    fn no_change_of_a_good_file_makes_the_reader_panic(at in 0usize..100_000, change: u8, again: u8) {
        let complete = include_str!("../fixtures/guide/complete.toml");
        let text = mutated(&mutated(complete, at, change), at / 7, again);
        let _ = config::check_text(&text).map_err(|errors| errors.to_string());
        let yaml = mutated(include_str!("../../config/auth.yaml"), at, change);
        let _ = config::check_auth_text(&yaml).map_err(|errors| errors.to_string());
    }
}
