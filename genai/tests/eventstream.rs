//! AWS event streams as AWS' own library for Rust writes and reads them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use agentsight_genai::eventstream::Parser;
use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder, write_message_to};
use aws_smithy_types::DateTime;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use proptest::prelude::*;

/// A message as we read it.
type Read = (Option<String>, Option<String>, Vec<u8>);

fn ours(bytes: &[u8], sizes: &[usize]) -> (Vec<Read>, bool) {
    let mut parser = Parser::default();
    let mut read = Vec::new();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        rest = after;
        parser.push(piece, &mut |message| {
            let text = |text: Option<&str>| text.map(str::to_owned);
            read.push((text(message.kind), text(message.name), message.payload.to_vec()));
        });
    }
    (read, parser.is_broken())
}

/// The same by AWS' library; it ends at the first error.
fn theirs(mut bytes: &[u8]) -> (Vec<Read>, bool) {
    let mut decoder = MessageFrameDecoder::new();
    let mut read = Vec::new();
    loop {
        match decoder.decode_frame(&mut bytes) {
            Ok(DecodedFrame::Complete(message)) => read.push(meant(&message)),
            Ok(_) => return (read, false),
            Err(_) => return (read, true),
        }
    }
}

fn meant(message: &Message) -> Read {
    let text = |names: &[&str]| {
        let found = message.headers().iter().rfind(|header| names.contains(&header.name().as_str()));
        found.and_then(|header| header.value().as_string().ok()).map(|text| text.as_str().to_owned())
    };
    (
        text(&[":message-type"]),
        text(&[":event-type", ":exception-type", ":error-code"]),
        message.payload().to_vec(),
    )
}

fn written(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        write_message_to(message, &mut bytes).unwrap();
    }
    bytes
}

fn value() -> impl Strategy<Value = HeaderValue> {
    prop_oneof![
        any::<bool>().prop_map(HeaderValue::Bool),
        any::<i8>().prop_map(HeaderValue::Byte),
        any::<i16>().prop_map(HeaderValue::Int16),
        any::<i32>().prop_map(HeaderValue::Int32),
        any::<i64>().prop_map(HeaderValue::Int64),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| HeaderValue::ByteArray(bytes.into())),
        ".{0,60}".prop_map(|text| HeaderValue::String(text.into())),
        (0..4_000_000_000i64).prop_map(|seconds| HeaderValue::Timestamp(DateTime::from_secs(seconds))),
        any::<u128>().prop_map(HeaderValue::Uuid),
    ]
}

fn headers() -> impl Strategy<Value = Vec<Header>> {
    let known = prop_oneof![
        Just(Vec::new()),
        "[a-zA-Z]{1,30}".prop_map(|name| vec![(":event-type", name)]),
        "[a-zA-Z]{1,30}"
            .prop_map(|name| vec![(":exception-type", name), (":message-type", "exception".into())]),
        "[a-zA-Z]{1,30}".prop_map(|name| vec![(":message-type", "event".into()), (":event-type", name)]),
    ];
    let known = known.prop_map(|known| {
        known
            .into_iter()
            .map(|(name, value)| Header::new(name, HeaderValue::String(value.into())))
            .collect::<Vec<_>>()
    });
    let others = prop::collection::vec(("[a-z-]{1,40}", value()), 0..6).prop_map(|headers| {
        headers.into_iter().map(|(name, value)| Header::new(name, value)).collect::<Vec<_>>()
    });
    (known, others, any::<bool>()).prop_map(|(known, others, first)| {
        if first { [known, others].concat() } else { [others, known].concat() }
    })
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let message = (headers(), prop::collection::vec(any::<u8>(), 0..2000))
        .prop_map(|(headers, payload)| Message::new_from_parts(headers, payload));
    prop::collection::vec(message, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_a_well_known_library_writes_is_read_as_it_was_meant(
        messages in messages(),
        sizes in prop::collection::vec(1usize..700, 1..20),
    ) {
        let bytes = written(&messages);
        let expected: Vec<_> = messages.iter().map(meant).collect();
        prop_assert_eq!(&ours(&bytes, &sizes), &(expected.clone(), false));
        prop_assert_eq!(theirs(&bytes), (expected, false));
    }

    #[test]
    fn of_a_damaged_stream_no_more_is_read_than_that_library_reads(
        messages in messages(),
        at in any::<prop::sample::Index>(),
        change in 1u8..,
    ) {
        let mut bytes = written(&messages);
        prop_assume!(!bytes.is_empty());
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let (read, broken) = ours(&bytes, &[usize::MAX]);
        let (expected, failed) = theirs(&bytes);
        prop_assert_eq!(read, expected);
        prop_assert!(broken || !failed, "an error there is an error here");
    }
}
