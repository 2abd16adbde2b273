"""Calls a model over plain HTTP/1.1, by the socket calls of the kernel themselves.

    plain_calls.py PORT large      one call: a prompt of 1 MiB by sendmsg, in three parts; the answer, of 4 MiB, is looked at
                                   (MSG_PEEK) before it is read
    plain_calls.py PORT idle       two calls on one connection; the second waits for a line of the input
    plain_calls.py PORT sendfile   one call, whose body goes by sendfile
    plain_calls.py PORT other      speaks something else to a server of its own, for some time

Says "ok ID" for each call.
"""

import json
import os
import socket
import sys
import tempfile
import threading

HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost:%d\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"


def body_of(text):
    return json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}).encode()


def answer(connection):
    """Reads a response that tells its length, and looks at each piece before it takes it."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += take(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += take(connection)
    print("ok", json.loads(body)["id"], flush=True)


def take(connection):
    seen = connection.recv(1 << 20, socket.MSG_PEEK)
    # In two parts, as readv does it.
    first, second = bytearray(len(seen) // 2), bytearray(len(seen) - len(seen) // 2)
    count, _, _, _ = connection.recvmsg_into([first, second])
    read = bytes(first + second)[:count]
    assert read == seen[:count] and read, "what is read is what was seen"
    return read


def large(port):
    connection = socket.create_connection(("localhost", port))
    body = body_of("0123456789abcdef" * (1 << 16))
    parts = [(HEAD % (port, "x-mock-bytes: 4194304\r\nx-mock-framing: length\r\n", len(body))).encode(), body[:1000], body[1000:]]
    sent = connection.sendmsg(parts)
    connection.sendall(b"".join(parts)[sent:])
    answer(connection)


def idle(port):
    connection = socket.create_connection(("localhost", port))
    for text in ["Before", "After"]:
        body = body_of(text)
        connection.sendall((HEAD % (port, "x-mock-framing: length\r\n", len(body))).encode() + body)
        answer(connection)
        if text == "Before":
            sys.stdin.readline()


def by_sendfile(port):
    connection = socket.create_connection(("localhost", port))
    body = body_of("From a file")
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        connection.sendall((HEAD % (port, "x-mock-framing: length\r\n", len(body))).encode())
        assert os.sendfile(connection.fileno(), file.fileno(), 0, len(body)) == len(body)
    answer(connection)


def other(_port):
    listener = socket.create_server(("localhost", 0))

    def serve():
        served, _ = listener.accept()
        while line := served.recv(4096):
            served.sendall(b"+" + line)

    thread = threading.Thread(target=serve)
    thread.start()
    client = socket.create_connection(listener.getsockname())
    for _ in range(100):
        client.sendall(b"*1\r\n$4\r\nPING\r\n")
        assert client.recv(4096).startswith(b"+*1")
    # Only at the beginning of a connection it would be HTTP.
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n\r\n")
    assert client.recv(4096)
    client.close()
    thread.join()


{"large": large, "idle": idle, "sendfile": by_sendfile, "other": other}[sys.argv[2]](int(sys.argv[1]))
