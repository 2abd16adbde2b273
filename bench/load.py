"""A Python program that calls a model from many threads, as often and in such a way as it is told.

    load.py --base https://localhost:PORT --ca ca.pem

Reads lines of JSON from standard input and answers each with one, after all its calls:
    {"client": "openai" | "httpx", "workers": 20, "calls": 80, "stream": true, "headers": {…}}
    {"calls": 80, "seconds": 4.3, "cpu": 0.61, "p50": 1.07, "p99": 1.09, "rss": 71303168}
Times are in seconds, `cpu` is this process's own, `rss` is in bytes. Headers go to the model server as they are.
"""

import argparse
import concurrent.futures
import json
import os
import ssl
import statistics
import sys
import time

import httpx
import httpx2
import openai


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--ca", required=True)
    options = parser.parse_args()
    context = ssl.create_default_context(cafile=options.ca)
    clients = {"openai": OpenAI(options.base, context), "httpx": Httpx(options.base, context)}
    print(json.dumps({"ready": f"{ssl.OPENSSL_VERSION}, Python {sys.version.split()[0]}"}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(clients, **json.loads(line))), flush=True)


def measure(clients, client, workers, calls, stream, headers):
    call = clients[client].call

    def timed(number):
        began = time.perf_counter()
        question = f"Question number {number}, long enough to be answered in as many pieces as are asked for here"
        answer = call(question, stream, headers)
        if answer != f"You said: {question}":
            raise SystemExit(f"a wrong answer to {question!r}: {answer!r}")
        return time.perf_counter() - began

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        began, cpu = time.perf_counter(), time.process_time()
        times = list(pool.map(timed, range(calls)))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    percentiles = statistics.quantiles(times, n=100, method="inclusive")
    return {
        "calls": calls,
        "seconds": seconds,
        "cpu": cpu,
        "p50": percentiles[49],
        "p99": percentiles[98],
        "rss": resident(),
    }


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class OpenAI:
    """The official SDK: what most agents use."""

    def __init__(self, base, context):
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        http = httpx2.Client(verify=context, limits=limits, timeout=60)
        self.client = openai.OpenAI(base_url=base + "/v1", api_key="sk-bench", http_client=http, max_retries=0)

    def call(self, question, stream, headers):
        answer = self.client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": question}],
            stream=stream,
            extra_headers=headers,
        )
        if not stream:
            return answer.choices[0].message.content
        return "".join(choice.delta.content or "" for chunk in answer for choice in chunk.choices)


class Httpx:
    """A client that does as little as it can beside TLS: what tracing costs is a larger share of its time."""

    def __init__(self, base, context):
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self.client = httpx.Client(verify=context, limits=limits, timeout=60)
        self.url = base + "/v1/chat/completions"

    def call(self, question, stream, headers):
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": question}], "stream": stream}
        with self.client.stream("POST", self.url, json=body, headers=headers) as response:
            if not stream:
                return json.loads(response.read())["choices"][0]["message"]["content"]
            answer = []
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    choices = json.loads(line[6:])["choices"]
                    answer.extend(choice["delta"].get("content") or "" for choice in choices)
            return "".join(answer)


if __name__ == "__main__":
    main()
