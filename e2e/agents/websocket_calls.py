"""OpenAI's SDK over WebSockets: Responses and Realtime, with messages compressed in every way, and what it saw.

    websocket_calls.py --base https://localhost:PORT --out seen.jsonl

One JSON line for each response goes to --out: its case, id, text and tool calls, as the SDK has put them together.
"""

import argparse
import asyncio
import json
import os

import openai

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOUGH = 'Quotes "\'`, a back\\slash, a tab\t, lines\n\r\n, control \u0001, 日本語, 🦀 and \u2028.'


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    options = {"base_url": arguments.base + "/v1", "api_key": "sk-test-0123456789"}
    with open(arguments.out, "w") as out:
        for deflate in ("no", "takeover", "no-takeover"):
            for writes in ("event", "7"):
                responses(openai.OpenAI(**options), f"{deflate}.{writes}", headers(deflate, writes), out)
                realtime(openai.OpenAI(**options), f"{deflate}.{writes}", headers(deflate, writes), out)
        large(openai.OpenAI(**options), out)
        cut(openai.OpenAI(**options), out)
        asyncio.run(lanes(openai.AsyncOpenAI(**options), out))


def headers(deflate="takeover", writes="event", **more):
    trace = os.urandom(16).hex()
    mock = {"x-mock-deflate": deflate, "x-mock-writes": writes, **more}
    return {**mock, "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}


def offering(extra_headers):
    """What the SDK leaves to the library behind it: whether compression is offered."""
    offered = "deflate" if extra_headers["x-mock-deflate"] != "no" else None
    options = {"compression": offered}
    return {"extra_headers": extra_headers, "websocket_connection_options": options, "max_retries": 0}


class Answer:
    """One response while its events come."""

    def __init__(self, case):
        self.seen = {"case": case, "id": None, "text": "", "tool_calls": {}, "error": None}
        self.over = False

    def take(self, event):
        kind = event.type
        if kind == "error":
            self.seen["error"] = event.error.code
            self.over = True
        elif kind == "response.created":
            self.seen["id"] = event.response.id
        elif kind in ("response.output_text.delta", "response.refusal.delta"):
            self.seen["text"] += event.delta
        elif kind == "response.function_call_arguments.delta":
            calls = self.seen["tool_calls"]
            calls[event.output_index] = calls.get(event.output_index, "") + event.delta
        elif kind in ("response.completed", "response.incomplete", "response.failed", "response.done"):
            self.response = event.response
            self.over = True


def ask(connection, case, out, **request):
    connection.send({"type": "response.create", "metadata": {"case": case}, "model": "gpt-5", **request})
    return read(connection, case, out)


def read(connection, case, out):
    answer = Answer(case)
    while not answer.over:
        answer.take(connection.recv())
    print(json.dumps(answer.seen), file=out)
    return answer


def responses(client, name, extra_headers, out):
    with client.responses.connect(**offering(extra_headers)) as connection:
        warm = Answer(None)
        connection.send({"type": "response.create", "model": "gpt-5", "input": [], "generate": False})
        while not warm.over:
            warm.take(connection.recv())
        assert warm.seen["id"] and not warm.response.output, warm.seen
        ask(connection, f"{name}.plain", out, input="Hello there", previous_response_id=warm.seen["id"])
        ask(connection, f"{name}.tough", out, input=TOUGH, instructions="Be brief.", temperature=0.5, top_p=0.9)
        ask(connection, f"{name}.long", out, input="Long " * 5000, max_output_tokens=20)
        ask(connection, f"{name}.reasoning", out, input="Think", reasoning={"effort": "low", "summary": "auto"})
        asked = ask(connection, f"{name}.tool", out, input="What is the weather in Lisbon?", tools=[WEATHER])
        call = next(item for item in asked.response.output if item.type == "function_call")
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        last = {"input": [result], "previous_response_id": asked.seen["id"], "tools": [WEATHER]}
        ask(connection, f"{name}.tool-result", out, **last)
        ask(connection, f"{name}.missing", out, model="gpt-missing", input="Bad")
        ask(connection, f"{name}.after", out, input="Still there?")


def realtime(client, name, extra_headers, out):
    with client.realtime.connect(model="gpt-realtime", **offering(extra_headers)) as connection:
        assert connection.recv().type == "session.created"
        session = {"type": "realtime", "output_modalities": ["text"], "instructions": "Be brief.", "tools": [WEATHER]}
        connection.session.update(session=session)
        assert connection.recv().type == "session.updated"

        def add(item):
            connection.conversation.item.create(item=item)
            assert [connection.recv().type for _ in range(2)] == ["conversation.item.added", "conversation.item.done"]

        add({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello there"}]})
        connection.response.create(response={"max_output_tokens": 50, "metadata": {"case": f"{name}.realtime"}})
        read(connection, f"{name}.realtime", out)
        question = "What is the weather in Lisbon?"
        add({"type": "message", "role": "user", "content": [{"type": "input_text", "text": question}]})
        connection.response.create(response={"metadata": {"case": f"{name}.realtime-tool"}})
        asked = read(connection, f"{name}.realtime-tool", out)
        call = next(item for item in asked.response.output if item.type == "function_call")
        add({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
        connection.response.create(response={"metadata": {"case": f"{name}.realtime-result"}})
        read(connection, f"{name}.realtime-result", out)


def large(client, out):
    with client.responses.connect(**offering(headers(**{"x-mock-bytes": "300000"}))) as connection:
        ask(connection, "large", out, input="Much " * 100_000)


def cut(client, out):
    """The server goes away in the middle of a response."""
    with client.responses.connect(**offering(headers(**{"x-mock-cut": "close-notify"}))) as connection:
        try:
            ask(connection, "cut", out, input="Cut")
        except Exception as error:
            print(json.dumps({"case": "cut", "error": type(error).__name__}), file=out)


async def lanes(client, out):
    """Two conversations on one connection at a time."""
    async with client.responses.connect(**offering(headers())) as connection:
        answers = {lane: Answer(f"lanes.{lane}") for lane in ("one", "two")}
        for lane in answers:
            message = {"metadata": {"case": f"lanes.{lane}"}, "model": "gpt-5", "input": f"Lane {lane}"}
            await connection.send({"type": "response.create", "stream_id": lane, **message})
        while not all(answer.over for answer in answers.values()):
            event = await connection.recv()
            answers[event.stream_id].take(event)
        for answer in answers.values():
            print(json.dumps(answer.seen), file=out)


if __name__ == "__main__":
    main()
