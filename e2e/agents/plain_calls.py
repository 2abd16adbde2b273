"""Calls a model over plain HTTP/1.1, by the socket calls of the kernel themselves.

    plain_calls.py WHERE large     one call: a prompt of 1 MiB by sendmsg, in three parts; the answer, of 4 MiB, is looked at
                                   (MSG_PEEK) before it is read
    plain_calls.py WHERE idle      two calls on one connection; the second waits for a line of the input
    plain_calls.py WHERE sendfile  one call, whose body goes by sendfile
    plain_calls.py WHERE passed    one call: the question by a process that does not wait while the socket is full; it gives the
                                   socket (SCM_RIGHTS) to another, which reads the answer
    plain_calls.py WHERE other     speaks something else to a server of its own, for some time

WHERE is a port of this host, or the path of a Unix socket. Says "ok ID" for each call.
"""

import json
import os
import select
import socket
import sys
import tempfile
import threading

HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"


def connect(where):
    if "/" not in where:
        return socket.create_connection(("localhost", int(where)))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(where)
    return connection


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


def large(where):
    connection = connect(where)
    body = body_of("0123456789abcdef" * (1 << 16))
    parts = [(HEAD % ("x-mock-bytes: 4194304\r\nx-mock-framing: length\r\n", len(body))).encode(), body[:1000], body[1000:]]
    sent = connection.sendmsg(parts)
    connection.sendall(b"".join(parts)[sent:])
    answer(connection)


def idle(where):
    connection = connect(where)
    for text in ["Before", "After"]:
        body = body_of(text)
        connection.sendall((HEAD % ("x-mock-framing: length\r\n", len(body))).encode() + body)
        answer(connection)
        if text == "Before":
            sys.stdin.readline()


def by_sendfile(where):
    connection = connect(where)
    body = body_of("From a file")
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        connection.sendall((HEAD % ("x-mock-framing: length\r\n", len(body))).encode())
        assert os.sendfile(connection.fileno(), file.fileno(), 0, len(body)) == len(body)
    answer(connection)


def other(where):
    if "/" in where:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(where)
        listener.listen()
    else:
        listener = socket.create_server(("localhost", 0))

    def serve():
        served, _ = listener.accept()
        while line := served.recv(4096):
            served.sendall(b"+" + line)

    thread = threading.Thread(target=serve)
    thread.start()
    name = listener.getsockname()
    client = connect(name if isinstance(name, str) else str(name[1]))
    for _ in range(100):
        client.sendall(b"*1\r\n$4\r\nPING\r\n")
        assert client.recv(4096).startswith(b"+*1")
    # Only at the beginning of a connection it would be HTTP.
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n\r\n")
    assert client.recv(4096)
    client.close()
    thread.join()


def passed(where):
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        _, [descriptor], _, _ = socket.recv_fds(theirs, 1, 1)
        connection = socket.socket(fileno=descriptor)
        connection.setblocking(True)
        answer(connection)
        os._exit(0)
    connection = connect(where)
    connection.setblocking(False)
    body = body_of("0123456789abcdef" * (1 << 16))
    rest = memoryview((HEAD % ("x-mock-bytes: 65536\r\nx-mock-framing: length\r\n", len(body))).encode() + body)
    while rest:
        try:
            rest = rest[connection.send(rest) :]
        except BlockingIOError:
            select.select([], [connection], [])
    socket.send_fds(ours, [b"x"], [connection.fileno()])
    connection.close()
    assert os.waitpid(child, 0)[1] == 0


actions = {"large": large, "idle": idle, "sendfile": by_sendfile, "other": other, "passed": passed}
actions[sys.argv[2]](sys.argv[1])
