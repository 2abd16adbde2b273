//! The caller's own span, as W3C Trace Context carries it.

use crate::http::Headers;
use crate::telemetry::{SpanContext, SpanId, TraceId};

/// Reads `traceparent` and `tracestate` (W3C Trace Context, sections 3.2 and 3.3).
pub(super) fn parent(headers: &Headers) -> Option<SpanContext> {
    let mut parents = headers.all("traceparent");
    let parent = parents.next()?;
    // Two of them: nobody knows which is right.
    if parents.next().is_some() {
        return None;
    }
    let bytes = parent.as_bytes();
    if bytes.len() < 55 || bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-' {
        return None;
    }
    let [version] = hex::<1>(&bytes[..2])?;
    // Version 00 ends here; a later one may go on after another dash; ff is forbidden.
    let ends_well = match version {
        0 => bytes.len() == 55,
        0xFF => false,
        _ => bytes.get(55).is_none_or(|byte| *byte == b'-'),
    };
    let trace_id = hex::<16>(&bytes[3..35])?;
    let span_id = hex::<8>(&bytes[36..52])?;
    let [flags] = hex::<1>(&bytes[53..55])?;
    if !ends_well || trace_id == [0; 16] || span_id == [0; 8] {
        return None;
    }
    Some(SpanContext { trace_id: TraceId(trace_id), span_id: SpanId(span_id), flags, state: state(headers) })
}

/// All `tracestate` fields as one; none where they are longer than anyone must pass on.
fn state(headers: &Headers) -> String {
    // 512 characters are the least that must be propagated (section 3.3.1.5); 32 members are the most.
    const MAX: usize = 512;
    let state = headers.all("tracestate").filter(|part| !part.is_empty()).collect::<Vec<_>>().join(",");
    if state.len() <= MAX && state.is_ascii() { state } else { String::new() }
}

/// Lower case hexadecimal digits, as section 3.2.2 asks.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn read(traceparent: &str) -> Option<SpanContext> {
        let mut headers = Headers::default();
        headers.push("traceparent", traceparent.as_bytes());
        parent(&headers)
    }

    #[test]
    fn a_valid_traceparent_is_read() {
        let context = read(VALID).unwrap();
        assert_eq!(context.trace_id.0[..2], [0x0a, 0xf7]);
        assert_eq!(context.span_id.0[7], 0x31);
        assert_eq!(context.flags, 1);
    }

    #[test]
    fn a_later_version_is_tolerated() {
        assert!(read("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-is").is_some());
        assert!(read("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").is_some());
        assert!(read("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x").is_none());
    }

    #[test]
    fn what_the_recommendation_forbids_is_no_parent() {
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-001",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn tracestate_comes_with_its_parent() {
        let mut headers = Headers::default();
        headers.push("traceparent", VALID.as_bytes());
        headers.push("tracestate", b"a=1");
        headers.push("tracestate", b"b=2");
        assert_eq!(parent(&headers).unwrap().state, "a=1,b=2");
        headers.push("traceparent", VALID.as_bytes());
        assert_eq!(parent(&headers), None);
    }
}
