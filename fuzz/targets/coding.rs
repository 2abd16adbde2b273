//! Any bytes as coded content: no more comes out than allowed, and what comes out of valid content does not depend
//! on how it is cut.
#![no_main]

use agentsight_genai::coding::{CodingError, Decoder};
use libfuzzer_sys::fuzz_target;

const CODINGS: [&str; 8] = ["gzip", "deflate", "br", "zstd", "zstd", "br", "gzip, gzip", "zstd, br, deflate"];
const LIMIT: u64 = 4 << 20;

fuzz_target!(|input: &[u8]| {
    let [choice, size, content @ ..] = input else { return };
    let codings = CODINGS[usize::from(*choice) % CODINGS.len()];
    let (whole, result) = decode(codings, content, content.len().max(1));
    let (cut, result_cut) = decode(codings, content, usize::from(*size).max(1));
    // The br decoder takes some invalid data for valid, depending on how it is cut (the reference refuses it).
    if result.is_ok() && !codings.contains("br") {
        assert_eq!((whole, result), (cut, result_cut));
    } else {
        // How much comes out before an error is found may differ, and so may which error it is.
        assert!(whole.starts_with(&cut) || cut.starts_with(&whole));
    }
});

fn decode(codings: &str, content: &[u8], size: usize) -> (Vec<u8>, Result<(), CodingError>) {
    let mut decoder = Decoder::new([codings], LIMIT).expect("supported").expect("coded");
    let mut decoded = Vec::new();
    for piece in content.chunks(size) {
        let result = decoder.push(piece, &mut |bytes| decoded.extend_from_slice(bytes));
        assert!(decoded.len() as u64 <= LIMIT);
        assert!(decoder.memory() <= 64 << 20);
        if result.is_err() {
            return (decoded, result);
        }
    }
    let result = decoder.finish();
    (decoded, result)
}
