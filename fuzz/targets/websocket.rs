//! Any script of chunks on a connection that has become a WebSocket, compressed in any way: the first byte says how.
#![no_main]

mod connection;

const EXTENSIONS: [&str; 4] = [
    "",
    "Sec-WebSocket-Extensions: permessage-deflate\r\n",
    "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n",
    "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_max_window_bits=9\r\n",
];

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&how, script)) = input.split_first() else { return };
    let extension = EXTENSIONS[usize::from(how & 3)];
    let accepted =
        format!("HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n{extension}\r\n");
    connection::test([b"GET /-w HTTP/1.1\r\nHost: h\r\n\r\n", accepted.as_bytes()], script);
});
