//! OpenAI's Embeddings.

use super::{Content, Making, Rendered};
use crate::ids::Ids;
use serde_json::{Value, json};

/// Small on purpose: tests compare calls, not vectors.
const DIMENSIONS: u64 = 16;

/// A list of vectors, one for each input.
pub fn render(making: &Making<'_>) -> Rendered {
    let body = making.body;
    let inputs = match &body["input"] {
        // An array of numbers is one input, in tokens.
        Value::Array(inputs) if inputs.first().is_some_and(|first| !first.is_number()) => inputs.len(),
        _ => 1,
    };
    let dimensions = body["dimensions"].as_u64().unwrap_or(DIMENSIONS).min(4096);
    let data: Vec<_> = (0..inputs)
        .map(|index| {
            let mut ids = Ids::new(making.question.input_tokens, index as u64);
            let vector: Vec<f32> =
                (0..dimensions).map(|_| (ids.number() % 2001) as f32 / 1000.0 - 1.0).collect();
            let embedding = if body["encoding_format"] == "base64" {
                json!(base64(&vector.iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<_>>()))
            } else {
                json!(vector)
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let tokens = making.answer.input_tokens;
    let mut document = json!({"object": "list", "data": data, "model": making.answer.model});
    if !making.behaviour.no_usage {
        document["usage"] = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    }
    Rendered {
        id: None,
        finish_reasons: Vec::new(),
        choices: Vec::new(),
        content: Content::Whole(document.to_string().into_bytes()),
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_fits_the_examples_of_rfc_4648() {
        let examples = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in examples {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
