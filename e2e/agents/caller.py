"""Calls a model again and again by Python's own `ssl`, on one connection, and tells of each call on a line of its own.

    caller.py [--calls N] [--every SECONDS] [--stream] [--text TEXT] [--header NAME:VALUE]…

MODEL_HOST is where the model is, MODEL_CA the authority that it is trusted by (PEM; empty: it is called without TLS), CASE
the name of all calls. A line is "ok ID" with the response's id, or "failed" and why; one that failed makes the exit code 1.
With --stream, "streaming" comes before, with the first bytes.
"""

import argparse
import http.client
import json
import os
import ssl
import sys
import time


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=0, help="how many; 0 for no end")
    parser.add_argument("--every", type=float, default=0, help="seconds between the starts of two calls")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--text", default="Hello from a pod")
    parser.add_argument("--header", action="append", default=[])
    arguments = parser.parse_args()
    headers = {"content-type": "application/json", "x-mock-case": os.environ["CASE"]}
    headers.update(header.split(":", 1) for header in arguments.header)
    messages = [{"role": "user", "content": arguments.text}]
    body = json.dumps({"model": "gpt-4o-mini", "messages": messages, "stream": arguments.stream})
    host, authority = os.environ["MODEL_HOST"], os.environ["MODEL_CA"]
    if authority:
        context = ssl.create_default_context(cadata=authority)
        connection = http.client.HTTPSConnection(host, timeout=60, context=context)
    else:
        connection = http.client.HTTPConnection(host, timeout=60)
    failed = made = 0
    begin = time.monotonic()
    while not arguments.calls or made < arguments.calls:
        try:
            print("ok", call(connection, headers, body, arguments.stream), flush=True)
        except (OSError, http.client.HTTPException, ValueError) as error:
            print("failed", type(error).__name__, error, flush=True)
            connection.close()
            failed = 1
        made += 1
        time.sleep(max(0, begin + made * arguments.every - time.monotonic()))
    sys.exit(failed)


def call(connection, headers, body, stream):
    connection.request("POST", "/v1/chat/completions", body, headers)
    response = connection.getresponse()
    first = response.readline() if stream else b""
    if stream:
        print("streaming", flush=True)
    text = (first + response.read()).decode()
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    if not stream:
        return json.loads(text)["id"]
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if events[-1] != "[DONE]":
        raise ValueError("the stream ended early")
    return json.loads(events[0])["id"]


if __name__ == "__main__":
    main()
