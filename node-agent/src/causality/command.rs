//! Whether a process runs what a tool was called with.

use agentsight_genai::links::{Fingerprint, FingerprintKey};
use serde_json::Value;

/// What a tool was called with, as texts to compare. Never shown.
#[derive(Default)]
pub struct Arguments {
    texts: Vec<Text>,
}

struct Text {
    text: String,
    fingerprint: Fingerprint,
    /// It is there to be run.
    command: bool,
}

impl Arguments {
    /// Reads the arguments of a tool call: JSON, or text of a tool that takes one.
    pub fn new(arguments: &str, key: FingerprintKey) -> Arguments {
        let mut read = Arguments::default();
        match serde_json::from_str(arguments) {
            Ok(value) => read.add(&value, false, key, 0),
            Err(_) => read.push(arguments.to_owned(), false, key),
        }
        read
    }

    /// Texts of JSON values; a list of words is one text, as in an argument vector.
    fn add(&mut self, value: &Value, command: bool, key: FingerprintKey, depth: u8) {
        /// Nothing that tools take nests deeper.
        const DEEPEST: u8 = 8;
        if depth > DEEPEST {
            return;
        }
        match value {
            Value::String(text) => self.push(text.clone(), command, key),
            Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_string) => {
                let words: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
                self.push(words.join(" "), command, key);
            }
            Value::Array(items) => items.iter().for_each(|item| self.add(item, command, key, depth + 1)),
            Value::Object(map) => {
                for (name, value) in map {
                    let command = command || matches!(name.as_str(), "command" | "cmd" | "commands");
                    self.add(value, command, key, depth + 1);
                }
            }
            _ => {}
        }
    }

    fn push(&mut self, text: String, command: bool, key: FingerprintKey) {
        const MOST: usize = 64;
        if self.texts.len() < MOST {
            self.texts.push(Text { fingerprint: key.of(&text), text, command });
        }
    }

    /// Whether the tool takes a command: what it runs carries it, then.
    pub fn has_command(&self) -> bool {
        self.texts.iter().any(|text| text.command)
    }

    /// Whether one of these texts is the same as one of the tool's.
    pub fn has_text(&self, fingerprints: &[Fingerprint]) -> bool {
        self.texts.iter().any(|text| fingerprints.contains(&text.fingerprint))
    }

    /// How many words of one of the tool's texts stand in `said`, all of them and in a row; 0: no text does.
    pub fn matches(&self, said: &str) -> usize {
        let said: Vec<&str> = words(said).collect();
        let stands = |text: &Text| {
            let wanted: Vec<&str> = words(&text.text).collect();
            let found = !wanted.is_empty()
                && wanted.len() <= said.len()
                && said.windows(wanted.len()).any(|window| window == wanted);
            if found { wanted.len() } else { 0 }
        };
        self.texts.iter().map(stands).max().unwrap_or(0)
    }

    /// Bytes that are held, about.
    pub fn memory(&self) -> usize {
        self.texts.iter().map(|text| text.text.len() + size_of::<Text>()).sum()
    }
}

/// Letters, digits and `_` in a row. Quotes and escapes fall away: shells put them around and into commands.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(json: &str) -> Arguments {
        Arguments::new(json, FingerprintKey::default())
    }

    #[test]
    fn a_command_is_known_inside_a_shells_words() {
        let bash = arguments(r#"{"command":"cd src && echo 'it''s' > x","description":"CANARY"}"#);
        assert!(bash.has_command());
        assert_eq!(bash.matches(r"/bin/zsh -c eval 'cd src && echo '\''it'\'''\''s'\'' > x'"), 6);
        assert_eq!(bash.matches("git status"), 0);
    }

    #[test]
    fn a_list_of_words_is_a_command() {
        assert_eq!(arguments(r#"{"cmd":["pytest","-q"]}"#).matches("/usr/bin/python3 pytest -q"), 2);
    }

    #[test]
    fn part_of_a_command_is_no_command() {
        assert_eq!(arguments(r#"{"command":"ls -l src"}"#).matches("ls -l"), 0);
        assert_eq!(arguments("{}").matches("ls"), 0);
        assert_eq!(arguments(r#"{"command":""}"#).matches("ls"), 0);
    }
}
