//! Any text, as text and as JSON: no panic, and where nothing is marked nothing was changed.
#![no_main]

use agentsight_genai::redact::Redactor;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static REDACTOR: LazyLock<Redactor> = LazyLock::new(Redactor::default);

fuzz_target!(|text: &str| {
    let clean = REDACTOR.text(text).into_owned();
    // A rule leaves at least its mark, so a text without one is as it was.
    if !clean.contains("[REDACTED:") {
        assert_eq!(clean, text);
    }
    if let Ok(mut value) = serde_json::from_str(text) {
        REDACTOR.json(&mut value);
    }
});
