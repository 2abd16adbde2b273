//! What a terminal can show: colours, its width, and text that it will not obey.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use unicode_width::UnicodeWidthChar;

/// Where text goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terminal {
    /// Whether colours are wanted.
    pub colour: bool,
    /// Columns.
    pub width: usize,
}

impl Terminal {
    /// A file or a pipe: no colours, and lines of a readable length.
    pub const PLAIN: Self = Self { colour: false, width: 120 };

    /// What `out` is. Colours are for terminals, and there only without `NO_COLOR` (no-color.org).
    pub fn of(out: &(impl IsTerminal + AsFd)) -> Self {
        if !out.is_terminal() {
            return Self::PLAIN;
        }
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let width =
            terminal_size::terminal_size_of(out).map_or(Self::PLAIN.width, |(width, _)| usize::from(width.0));
        // A width of zero is that of a terminal which does not know its own.
        Self {
            colour: !no_colour && !dumb,
            width: if width == 0 { Self::PLAIN.width } else { width.max(40) },
        }
    }

    /// Text in a colour, where colours are wanted.
    pub fn paint(self, text: &str, colour: Colour) -> String {
        match self.colour {
            true => format!("\x1b[{}m{text}\x1b[0m", colour as u8),
            false => text.to_owned(),
        }
    }
}

/// Colours by their SGR number (ECMA-48).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Colour {
    /// For names.
    Bold = 1,
    /// For what matters less.
    Dim = 2,
    /// For errors.
    Red = 31,
    /// For what is well.
    Green = 32,
    /// For warnings.
    Yellow = 33,
}

/// Text from outside on one line of at most `width` columns: white space is joined to one space, and what a
/// terminal would obey or hide is shown as a sign.
pub fn harmless(text: &str, width: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(width));
    let (mut columns, mut space) = (0, false);
    for c in text.chars() {
        if c.is_whitespace() {
            space = !shown.is_empty();
            continue;
        }
        let c = visible(c);
        let needed = c.width().unwrap_or(0) + usize::from(space);
        if columns + needed > width {
            return with_ellipsis(shown, width);
        }
        if std::mem::take(&mut space) {
            shown.push(' ');
        }
        shown.push(c);
        columns += needed;
    }
    shown
}

/// The sign for a character that must not reach a terminal, else the character itself.
fn visible(c: char) -> char {
    match c {
        // Unicode has a picture for each control character of ASCII.
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        // C1 controls: U+009B is CSI for some terminals.
        '\u{80}'..='\u{9f}' => '\u{fffd}',
        // Marks and overrides of writing direction, which reorder what follows; invisible characters and tags.
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' => '\u{fffd}',
        '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}' => '\u{fffd}',
        c => c,
    }
}

fn with_ellipsis(mut text: String, width: usize) -> String {
    let mut columns: usize = text.chars().filter_map(UnicodeWidthChar::width).sum();
    while columns + 1 > width {
        match text.pop() {
            Some(c) => columns -= c.width().unwrap_or(0),
            None => return text,
        }
    }
    text.push('…');
    text
}

/// JSON text in which what a terminal would obey or hide stands as an escape. In JSON text such characters
/// can only be inside strings, where `\u` has the same meaning.
pub fn harmless_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if c >= '\x7f' && visible(c) != c {
            for unit in c.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_shown_instead_of_obeyed() {
        assert_eq!(harmless("a\x1b]0;owned\x07b\x1b[2J", 80), "a␛]0;owned␇b␛[2J");
        assert_eq!(harmless("\u{9b}31m\x7f\0", 80), "\u{fffd}31m␡␀");
    }

    #[test]
    fn writing_direction_cannot_be_turned() {
        assert_eq!(harmless("a\u{202e}b\u{2066}c\u{200b}d", 80), "a\u{fffd}b\u{fffd}c\u{fffd}d");
    }

    #[test]
    fn white_space_is_one_space() {
        assert_eq!(harmless("  a \r\n\t b\u{2028}c  ", 80), "a b c");
    }

    #[test]
    fn what_is_too_long_ends_with_an_ellipsis() {
        assert_eq!(harmless("abcdef", 6), "abcdef");
        assert_eq!(harmless("abcdefg", 6), "abcde…");
        assert_eq!(harmless("漢字漢字", 6), "漢字…");
        assert_eq!(harmless("ab cd", 3), "ab…");
        assert_eq!(harmless("abc", 0), "");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({"a": "x\u{9b}y\u{e0041}z\u{202e}ü漢\x7f\x1b"});
        let shown = harmless_json(&value.to_string());
        assert!(!shown.contains(['\u{9b}', '\u{e0041}', '\u{202e}', '\x7f', '\x1b']));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), value);
    }
}
