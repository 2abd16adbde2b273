"""Many streaming calls at once, by threads that share one client of the official OpenAI SDK.

    load.py --base https://localhost:PORT [--ca ca.pem] [--workers 50] [--calls 2000] [--chunks 20]

Each call has its own trace id (its number, in hexadecimal) and its own question. Checks each answer; ends with 1 where
one was wrong.
"""

import argparse
import concurrent.futures
import ssl
import sys

import httpx2
import openai


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--ca")
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--chunks", type=int, default=20)
    options = parser.parse_args()
    limits = httpx2.Limits(max_connections=options.workers, max_keepalive_connections=options.workers)
    trust = ssl.create_default_context(cafile=options.ca) if options.ca else True
    http = httpx2.Client(verify=trust, limits=limits, timeout=120)
    client = openai.OpenAI(base_url=options.base + "/v1", api_key="sk-load", http_client=http, max_retries=0)

    def call(number):
        question = f"Question number {number} of many, asked by a worker of the load"
        stream = client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": question}],
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={
                "x-mock-case": str(number),
                "x-mock-chunks": str(options.chunks),
                "traceparent": f"00-{number + 1:032x}-00f067aa0ba902b7-01",
            },
        )
        text = "".join(c.delta.content or "" for chunk in stream for c in chunk.choices)
        return text == f"You said: {question}"

    with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        good = sum(pool.map(call, range(options.calls)))
    print(f"{good} of {options.calls} answers right")
    return 0 if good == options.calls else 1


if __name__ == "__main__":
    sys.exit(main())
