//! Configuration files: no panic, and errors that can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(errors) = shadowcat::config::check_text(text) {
        assert!(!errors.problems().is_empty());
        let _ = errors.to_string();
    }
});
