"""Conversations between the two sides of the websockets library, with every byte that moved and what was meant.

    websocket_conversations.py COUNT SEED

One JSON line each: the bytes in order, `>` those of the client, and the messages of both sides. All that can be agreed on
occurs: no compression, compression with and without context takeover and with windows of any size, in each direction;
messages in fragments, control frames between them, large and empty ones, both ways to close.
"""

import base64
import json
import random
import sys

from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

WORDS = ["response", "output_text", "delta", "the", "model", "says", "naïve", "日本語", "🦀", '{"type":', "\n", "x" * 500]


def main():
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    for number in range(count):
        print(json.dumps(converse(random.Random(seed * 1_000_000 + number))))


def converse(rng):
    uri = parse_uri("ws://localhost/websocket")
    extension = factories(rng)
    client = ClientProtocol(uri, extensions=extension and [extension[0]], max_size=None)
    server = ServerProtocol(extensions=extension and [extension[1]], max_size=None)
    moved = []

    def exchange():
        """Until neither has anything to say."""
        while True:
            said = [(">", client, server), ("<", server, client)]
            rng.shuffle(said)
            silent = True
            for mark, speaker, listener in said:
                data = b"".join(speaker.data_to_send())
                if data:
                    silent = False
                    moved.append([mark, base64.b64encode(data).decode()])
                    listener.receive_data(data)
            if silent:
                return

    client.send_request(client.connect())
    exchange()
    [request] = server.events_received()
    server.send_response(server.accept(request))
    exchange()
    [response] = client.events_received()
    assert response.status_code == 101
    messages = {"sent": [], "received": []}
    for _ in range(rng.randrange(1, 14)):
        name, side = rng.choice([("sent", client), ("received", server)])
        messages[name].append(say(rng, side))
        if rng.random() < 0.6:
            exchange()
    closing = rng.choice([client, server])
    exchange()
    closing.send_close(1000, "over")
    exchange()
    closed_by = "sent" if closing is client else "received"
    return {"moved": moved, "messages": messages, "closedBy": closed_by, "deflate": bool(client.extensions)}


def factories(rng):
    """Extensions of both sides that agree; none at times."""
    if rng.random() < 0.2:
        return None
    # The library makes no windows of 8 bits: zlib cannot.
    options = {
        "server_no_context_takeover": rng.random() < 0.5,
        "client_no_context_takeover": rng.random() < 0.5,
        "server_max_window_bits": rng.choice([None, *range(9, 16)]),
        "client_max_window_bits": rng.choice([None, *range(9, 16)]),
    }
    settings = {"compress_settings": {"level": rng.randrange(1, 10), "memLevel": rng.randrange(1, 10)}}
    offer = {**options, "client_max_window_bits": options["client_max_window_bits"] or True}
    return ClientPerMessageDeflateFactory(**offer, **settings), ServerPerMessageDeflateFactory(**options, **settings)


def say(rng, side):
    size = rng.choice([0, 1, 5, 30, 125, 126, 400, 5000]) if rng.random() < 0.97 else 20_000
    message = ""
    while len(message) < size:
        message += rng.choice(WORDS)
    data = message.encode()
    binary = rng.random() < 0.1
    begin = side.send_binary if binary else side.send_text
    fragments = rng.choice([1, 1, 1, 2, 3, 7])
    length = len(data) // fragments + 1
    for number in range(fragments):
        fragment, last = data[number * length : (number + 1) * length], number + 1 == fragments
        if number == 0:
            begin(fragment, fin=last)
        else:
            side.send_continuation(fragment, fin=last)
        if rng.random() < 0.2:
            rng.choice([side.send_ping, side.send_pong])(bytes(rng.randrange(126)))
    return message


if __name__ == "__main__":
    main()
