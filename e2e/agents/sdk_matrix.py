"""The official SDKs through everything that they can do with a model, and what they saw of it.

    sdk_matrix.py --base https://localhost:PORT --ca ca.pem --out seen.jsonl [--only SUBSTRING]

Each call carries its name in `x-mock-case`. One JSON line per call goes to --out: what was sent (role, kind and text
of each part), and what the SDK gave back: model, id, finish reasons, usage, text, tool calls, or the exception.
A tracer that watched this program must have seen the same. Ends with 1 where an SDK did what no case expects.
"""

import argparse
import asyncio
import hashlib
import json
import ssl
import sys

import anthropic
import httpx2
import openai

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CITIES = 'Compare: get_weather {"city":"Zürich"} and get_weather {"city":"São Paulo"}, please.'
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOUGH = 'Quotes "\'`, a back\\slash, a tab\t, lines\n\r\n, NUL-free control \u0001, 日本語, 🦀 and \u2028.'


def user(text):
    return {"role": "user", "content": text}


# name: (request, x-mock headers). Each runs sync and async, whole and streamed.
CHAT = {
    "plain": ({"messages": [user("Hello there")]}, {}),
    "system": ({"messages": [{"role": "system", "content": "Be brief."}, user("Hi")], "temperature": 0.2}, {}),
    "developer": ({"messages": [{"role": "developer", "content": "Be kind."}, user("Hi")], "seed": 7}, {}),
    "tough": ({"messages": [user(TOUGH)], "top_p": 0.9, "stop": ["@@"]}, {}),
    "history": ({"messages": [user("One"), {"role": "assistant", "content": "Two"}, user("Three")]}, {}),
    "options": (
        {
            "messages": [user("Options")],
            "frequency_penalty": 0.5,
            "presence_penalty": 0.25,
            "max_completion_tokens": 50,
            "service_tier": "flex",
            "user": "someone",
        },
        {},
    ),
    "length": ({"messages": [user("A long question wants a long answer")], "max_tokens": 3}, {}),
    "stop": ({"messages": [user("Say one END two")], "stop": ["END", "FINIS"]}, {}),
    "choices": ({"messages": [user("Three ways")], "n": 3}, {}),
    "tool": (
        {
            "messages": [user("What is the weather in Lisbon?")],
            "tools": [{"type": "function", "function": {"name": "get_weather", "description": "x", "parameters": CITY}}],
        },
        {},
    ),
    "tools-parallel": (
        {
            "messages": [user(CITIES)],
            "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": CITY}}],
        },
        {},
    ),
    "tool-result": (
        {
            "messages": [
                user(CITIES),
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": f"call_{n}",
                            "type": "function",
                            "function": {"name": "get_weather", "arguments": json.dumps({"city": city})},
                        }
                        for n, city in enumerate(["Zürich", "Rome"])
                    ],
                },
                {"role": "tool", "tool_call_id": "call_0", "content": "sunny"},
                {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
            ],
            "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": CITY}}],
        },
        {},
    ),
    "image": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is in it?"},
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                    ],
                }
            ]
        },
        {},
    ),
    "structured": (
        {
            "messages": [user("Describe Ada")],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "person", "strict": True, "schema": PERSON},
            },
        },
        {},
    ),
    "refusal": ({"messages": [user("Something bad")]}, {"x-mock-refuse": "1"}),
    "filtered": ({"messages": [user("Something odd")]}, {"x-mock-filter": "1"}),
    "cached": ({"messages": [user("The same long prompt again and again and again")]}, {"x-mock-cached": "8"}),
    "reasoning": ({"model": "gpt-5", "messages": [user("Think")], "reasoning_effort": "low"}, {}),
    "reasoning-told": ({"model": "deepseek-reasoner", "messages": [user("Think")]}, {"x-mock-reasoning": "Hm. So."}),
    "no-usage": ({"messages": [user("Count nothing")]}, {"x-mock-no-usage": "1"}),
    "large": ({"messages": [user("Much")]}, {"x-mock-bytes": "200000"}),
    "gzip": ({"messages": [user("Small")]}, {"x-mock-encoding": "gzip", "x-mock-bytes": "3000"}),
    "deflate": ({"messages": [user("Small")]}, {"x-mock-encoding": "deflate", "x-mock-bytes": "3000"}),
    "br": ({"messages": [user("Small")]}, {"x-mock-encoding": "br", "x-mock-bytes": "3000"}),
    "zstd": ({"messages": [user("Small")]}, {"x-mock-encoding": "zstd", "x-mock-bytes": "3000"}),
    "length-framed": ({"messages": [user("Framed")]}, {"x-mock-framing": "length"}),
    "chunked": ({"messages": [user("Framed")]}, {"x-mock-framing": "chunked", "x-mock-chunks": "5"}),
    "trailers": ({"messages": [user("Framed")]}, {"x-mock-framing": "trailers"}),
    "close-framed": ({"messages": [user("Framed")]}, {"x-mock-framing": "close"}),
    "bytewise": ({"messages": [user("Drop by drop")]}, {"x-mock-writes": "1"}),
    "coalesced": ({"messages": [user("At once")]}, {"x-mock-writes": "coalesce"}),
    "crlf": ({"messages": [user("Lines")]}, {"x-mock-newline": "crlf"}),
    "interim": ({"messages": [user("Hints")]}, {"x-mock-interim": "103"}),
    "no-done": ({"messages": [user("Endless")]}, {"x-mock-no-done": "1"}),
    "retried": ({"messages": [user("Again")]}, {"x-mock-status": "429", "x-mock-fail": "2"}),
    # Errors.
    "error-400": ({"messages": [user("Bad")]}, {"x-mock-status": "400"}),
    "error-401": ({"messages": [user("Bad")]}, {"x-mock-status": "401"}),
    "error-404": ({"model": "gpt-missing", "messages": [user("Bad")]}, {}),
    "error-429": ({"messages": [user("Bad")]}, {"x-mock-status": "429"}),
    "error-500": ({"messages": [user("Bad")]}, {"x-mock-status": "500", "x-mock-error-body": "<h1>oops</h1>"}),
    "error-502": ({"messages": [user("Bad")]}, {"x-mock-status": "502", "x-mock-error-body": "bad gateway"}),
    "cut-fin": ({"messages": [user("Cut")]}, {"x-mock-cut": "fin", "x-mock-bytes": "2000"}),
    "cut-reset": ({"messages": [user("Cut")]}, {"x-mock-cut": "reset", "x-mock-bytes": "2000"}),
    "cut-close-notify": ({"messages": [user("Cut")]}, {"x-mock-cut": "close-notify", "x-mock-bytes": "2000"}),
}
CHAT_STREAM_ONLY = {
    "stream-error": ({"messages": [user("Err")]}, {"x-mock-stream-error": "3"}),
    "cancelled": ({"messages": [user("Stop")]}, {"x-mock-chunks": "400", "x-mock-chunk-ms": "5", "x-mock-bytes": "8000"}),
}

FUNCTION = {"type": "function", "name": "get_weather", "description": "x", "parameters": CITY, "strict": False}
RESPONSES = {
    "plain": ({"input": "Hello there"}, {}),
    "instructions": ({"input": [user("Hi")], "instructions": "Be brief.", "temperature": 0.3}, {}),
    "tool": ({"input": "What is the weather in Lisbon?", "tools": [FUNCTION]}, {}),
    "tools-parallel": ({"input": CITIES, "tools": [FUNCTION]}, {}),
    "tool-result": (
        {
            "input": [
                user(CITIES),
                {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": '{"city":"Zürich"}'},
                {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
            ],
            "tools": [FUNCTION],
        },
        {},
    ),
    "image": (
        {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What is in it?"},
                        {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "low"},
                    ],
                }
            ]
        },
        {},
    ),
    "structured": (
        {
            "input": "Describe Ada",
            "text": {"format": {"type": "json_schema", "name": "person", "strict": True, "schema": PERSON}},
        },
        {},
    ),
    "reasoning": ({"model": "gpt-5", "input": "Think", "reasoning": {"effort": "low", "summary": "auto"}}, {}),
    "refusal": ({"input": "Something bad"}, {"x-mock-refuse": "1"}),
    "length": ({"input": "A long question wants a long answer", "max_output_tokens": 3}, {}),
    "previous": ({"input": "And then?", "previous_response_id": "resp_0123456789abcdef"}, {}),
    "gzip": ({"input": "Small"}, {"x-mock-encoding": "gzip"}),
    "error-429": ({"input": "Bad"}, {"x-mock-status": "429"}),
    "cut-fin": ({"input": "Cut"}, {"x-mock-cut": "fin", "x-mock-bytes": "2000"}),
}
RESPONSES_STREAM_ONLY = {
    "stream-error": ({"input": "Err"}, {"x-mock-stream-error": "4"}),
    "cancelled": ({"input": "Stop"}, {"x-mock-chunks": "400", "x-mock-chunk-ms": "5", "x-mock-bytes": "8000"}),
}

# Version 2 of the SDK has no arguments for these; older ones and other clients still send them.
SAMPLING = {"temperature": 0.5, "top_p": 0.8, "top_k": 5}
WEATHER = {"name": "get_weather", "description": "x", "input_schema": CITY}
MESSAGES = {
    "plain": ({"messages": [user("Hello there")]}, {}),
    "system": ({"messages": [user("Hi")], "system": "Be brief.", "extra_body": SAMPLING}, {}),
    "system-blocks": (
        {
            "messages": [user("Hi")],
            "system": [
                {"type": "text", "text": "Be brief."},
                {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
            ],
        },
        {"x-mock-cached": "2", "x-mock-cache-write": "1"},
    ),
    "tough": ({"messages": [user(TOUGH)]}, {}),
    "length": ({"messages": [user("A long question wants a long answer")], "max_tokens": 3}, {}),
    "stop": ({"messages": [user("Say one END two")], "stop_sequences": ["END"]}, {}),
    "tool": ({"messages": [user("What is the weather in Lisbon?")], "tools": [WEATHER]}, {}),
    "tools-parallel": ({"messages": [user(CITIES)], "tools": [WEATHER]}, {}),
    "tool-result": (
        {
            "messages": [
                user(CITIES),
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "I look."},
                        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Zürich"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}],
                },
            ],
            "tools": [WEATHER],
        },
        {},
    ),
    "image": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                        {"type": "text", "text": "What is in it?"},
                    ],
                }
            ]
        },
        {},
    ),
    "thinking": (
        {"messages": [user("Think")], "thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048},
        {},
    ),
    "refusal": ({"messages": [user("Something bad")]}, {"x-mock-refuse": "1"}),
    # The SDK refuses a limit of more without streaming.
    "large": ({"messages": [user("Much")], "max_tokens": 21000}, {"x-mock-bytes": "80000"}),
    "gzip": ({"messages": [user("Small")]}, {"x-mock-encoding": "gzip"}),
    "br": ({"messages": [user("Small")]}, {"x-mock-encoding": "br"}),
    "zstd": ({"messages": [user("Small")]}, {"x-mock-encoding": "zstd"}),
    "bytewise": ({"messages": [user("Drop by drop")]}, {"x-mock-writes": "1"}),
    "retried": ({"messages": [user("Again")]}, {"x-mock-status": "529", "x-mock-fail": "2"}),
    "error-401": ({"messages": [user("Bad")]}, {"x-mock-status": "401"}),
    "error-404": ({"model": "claude-missing", "messages": [user("Bad")]}, {}),
    "error-529": ({"messages": [user("Bad")]}, {"x-mock-status": "529"}),
    "error-500": ({"messages": [user("Bad")]}, {"x-mock-status": "500", "x-mock-error-body": "<h1>oops</h1>"}),
    "cut-fin": ({"messages": [user("Cut")]}, {"x-mock-cut": "fin", "x-mock-bytes": "2000"}),
}
MESSAGES_STREAM_ONLY = {
    "stream-error": ({"messages": [user("Err")]}, {"x-mock-stream-error": "3"}),
    "cancelled": ({"messages": [user("Stop")]}, {"x-mock-chunks": "400", "x-mock-chunk-ms": "5", "x-mock-bytes": "8000"}),
}

# Calls that must end in an exception; a cut stream is one where its framing tells (not where it is closed properly,
# which the SDKs take for the end).
FAILING = ("error-", "cut-", "stream-error")


# --- what was sent: [role, kind, ...] for each part -------------------------------------------------------------


def content_parts(role, content):
    if isinstance(content, str):
        return [[role, "text", content]]
    parts = []
    for part in content or []:
        kind = part["type"]
        if kind in ("text", "input_text", "output_text"):
            parts.append([role, "text", part["text"]])
        elif kind == "tool_use":
            parts.append([role, "tool_call", part["name"], part["input"], part["id"]])
        elif kind == "tool_result":
            parts.append(["tool", "tool_call_response", part["content"], part["tool_use_id"]])
        else:
            parts.append([role, "image"])
    return parts


def sent(request):
    parts = []
    for system in (request.get("instructions"), request.get("system")):
        parts += content_parts("system", system)
    messages = request.get("messages", request.get("input"))
    for message in [user(messages)] if isinstance(messages, str) else messages:
        if message.get("type") == "function_call":
            call = [message["name"], json.loads(message["arguments"]), message["call_id"]]
            parts.append(["assistant", "tool_call", *call])
        elif message.get("type") == "function_call_output":
            parts.append(["tool", "tool_call_response", message["output"], message["call_id"]])
        elif message["role"] == "tool":
            parts.append(["tool", "tool_call_response", message["content"], message["tool_call_id"]])
        else:
            role = "system" if message["role"] == "developer" else message["role"]
            parts += content_parts(role, message["content"])
            for call in message.get("tool_calls", []):
                function = call["function"]
                arguments = json.loads(function["arguments"])
                parts.append([role, "tool_call", function["name"], arguments, call["id"]])
    return parts


# --- what came back ---------------------------------------------------------------------------------------------


def choice(text="", refusal=None, reasoning=None, tool_calls=()):
    return {"text": text or "", "refusal": refusal, "reasoning": reasoning, "tool_calls": list(tool_calls)}


def call(id, name, arguments):
    return {"id": id, "name": name, "arguments": arguments}


def chat_usage(usage):
    if usage is None:
        return {}
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "cached_tokens": usage.prompt_tokens_details.cached_tokens,
        "reasoning_tokens": usage.completion_tokens_details.reasoning_tokens,
    }


def chat_whole(completion):
    return {
        "id": completion.id,
        "model": completion.model,
        "finish_reasons": [c.finish_reason for c in completion.choices],
        "choices": [
            choice(
                c.message.content,
                c.message.refusal,
                getattr(c.message, "reasoning_content", None),
                [call(t.id, t.function.name, t.function.arguments) for t in c.message.tool_calls or []],
            )
            for c in completion.choices
        ],
        **chat_usage(completion.usage),
    }


class ChatStream:
    """Puts chunks together, as a program does that does not use the SDK's own helper."""

    def __init__(self):
        self.seen, self.choices, self.reasons = {}, {}, {}

    def add(self, chunk):
        self.seen |= {"id": chunk.id, "model": chunk.model, **chat_usage(chunk.usage)}
        for c in chunk.choices:
            one = self.choices.setdefault(c.index, choice())
            one["text"] += c.delta.content or ""
            for field in ("refusal", "reasoning"):
                more = getattr(c.delta, "reasoning_content" if field == "reasoning" else field, None)
                if more:
                    one[field] = (one[field] or "") + more
            for t in c.delta.tool_calls or []:
                if t.index == len(one["tool_calls"]):
                    one["tool_calls"].append(call(t.id, t.function.name, ""))
                one["tool_calls"][t.index]["arguments"] += t.function.arguments or ""
            if c.finish_reason:
                self.reasons[c.index] = c.finish_reason

    def result(self):
        order = sorted(self.choices)
        return self.seen | {
            "choices": [self.choices[n] for n in order],
            "finish_reasons": [self.reasons[n] for n in order if n in self.reasons],
        }


def response_whole(response):
    one = choice()
    for item in response.output:
        if item.type == "reasoning":
            one["reasoning"] = "".join(part.text for part in item.summary) or None
        elif item.type == "message":
            for part in item.content:
                if part.type == "refusal":
                    one["refusal"] = part.refusal
                else:
                    one["text"] += part.text
        elif item.type == "function_call":
            one["tool_calls"].append(call(item.call_id, item.name, item.arguments))
    reason = response.incomplete_details.reason if response.incomplete_details else response.status
    return {
        "id": response.id,
        "model": response.model,
        "finish_reasons": [reason],
        "choices": [one],
        "input_tokens": response.usage.input_tokens,
        "output_tokens": response.usage.output_tokens,
        "cached_tokens": response.usage.input_tokens_details.cached_tokens,
        "reasoning_tokens": response.usage.output_tokens_details.reasoning_tokens,
    }


class ResponseStream:
    def __init__(self):
        self.seen, self.text = {}, ""

    def add(self, event):
        if event.type == "response.created":
            self.seen |= {"id": event.response.id, "model": event.response.model}
        elif event.type == "response.output_text.delta":
            self.text += event.delta
        elif event.type in ("response.completed", "response.incomplete"):
            self.seen |= response_whole(event.response)
            assert self.text == self.seen["choices"][0]["text"], "deltas differ from the whole"
        elif event.type == "error":
            raise openai.APIError(event.message, httpx2.Request("POST", "https://stream"), body={"code": event.code})

    def result(self):
        return self.seen if "choices" in self.seen else self.seen | {"choices": [choice(self.text)]}


def message_whole(message):
    one = choice()
    for block in message.content:
        if block.type == "text":
            one["text"] += block.text
        elif block.type == "thinking":
            one["reasoning"] = block.thinking
        elif block.type == "tool_use":
            one["tool_calls"].append(call(block.id, block.name, json.dumps(block.input)))
    usage = message.usage
    cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    return {
        "id": message.id,
        "model": message.model,
        "finish_reasons": [message.stop_reason],
        "choices": [one],
        "input_tokens": usage.input_tokens + cached + written,
        "output_tokens": usage.output_tokens,
        "cached_tokens": cached,
        "cache_write_tokens": written,
    }


class MessageStream:
    """The SDK's accumulated message stands in each event's stream; here the raw events are put together."""

    def __init__(self):
        self.seen, self.one, self.blocks = {}, choice(), {}

    def add(self, event):
        if event.type == "message_start":
            self.seen |= {"id": event.message.id, "model": event.message.model}
        elif event.type == "content_block_start":
            block = event.content_block
            if block.type == "tool_use":
                self.blocks[event.index] = call(block.id, block.name, "")
                self.one["tool_calls"].append(self.blocks[event.index])
        elif event.type == "content_block_delta":
            delta = event.delta
            if delta.type == "text_delta":
                self.one["text"] += delta.text
            elif delta.type == "thinking_delta":
                self.one["reasoning"] = (self.one["reasoning"] or "") + delta.thinking
            elif delta.type == "input_json_delta":
                self.blocks[event.index]["arguments"] += delta.partial_json
        elif event.type == "message_delta":
            usage = event.usage
            cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
            self.seen |= {
                "finish_reasons": [event.delta.stop_reason],
                "input_tokens": usage.input_tokens + cached + written,
                "output_tokens": usage.output_tokens,
                "cached_tokens": cached,
                "cache_write_tokens": written,
            }

    def result(self):
        return self.seen | {"choices": [self.one]}


# --- running ----------------------------------------------------------------------------------------------------

APIS = {
    # api: (cases, cases of streams only, defaults, reader of a whole answer, reader of a stream)
    "openai.chat": (CHAT, CHAT_STREAM_ONLY, {"model": "gpt-4o-mini"}, chat_whole, ChatStream),
    "openai.responses": (RESPONSES, RESPONSES_STREAM_ONLY, {"model": "gpt-4o-mini"}, response_whole, ResponseStream),
    "anthropic.messages": (
        MESSAGES,
        MESSAGES_STREAM_ONLY,
        {"model": "claude-sonnet-5", "max_tokens": 1000},
        message_whole,
        MessageStream,
    ),
}


def trace_id(case):
    return hashlib.sha256(case.encode()).hexdigest()[:32]


def tags(case):
    """Headers by which the server's log and a tracer's spans are found again."""
    return {"x-mock-case": case, "traceparent": f"00-{trace_id(case)}-00f067aa0ba902b7-01"}


class Matrix:
    def __init__(self, options):
        self.options = options
        self.out = open(options.out, "w", encoding="utf-8")
        self.calls = 0
        self.wrong = []
        trust = ssl.create_default_context(cafile=options.ca) if options.ca else True
        key = {"api_key": "sk-test-0123456789"}
        http, http_async = httpx2.Client(verify=trust), httpx2.AsyncClient(verify=trust)
        self.clients = {
            "openai": openai.OpenAI(base_url=options.base + "/v1", http_client=http, **key),
            "openai.async": openai.AsyncOpenAI(base_url=options.base + "/v1", http_client=http_async, **key),
            "anthropic": anthropic.Anthropic(base_url=options.base, http_client=http, **key),
            "anthropic.async": anthropic.AsyncAnthropic(base_url=options.base, http_client=http_async, **key),
        }

    def cases(self):
        """(case, api, name, streamed, request, headers) for each call of one mode."""
        for api, (cases, stream_only, defaults, _, _) in APIS.items():
            for streamed, some in ((False, cases), (True, cases), (True, stream_only)):
                for name, (request, headers) in some.items():
                    yield api, name, streamed, defaults | request, headers

    def create(self, api, mode, name):
        client = self.clients[api.split(".")[0] + mode]
        if name.startswith("cut-"):
            client = client.with_options(max_retries=0)
        return {"chat": lambda: client.chat.completions, "responses": lambda: client.responses}.get(
            api.split(".")[1], lambda: client.messages
        )().create

    def arguments(self, api, name, streamed, request, headers, case):
        arguments = request | {"extra_headers": headers | tags(case)}
        if streamed:
            arguments["stream"] = True
            if api == "openai.chat" and name != "no-usage":
                arguments["stream_options"] = {"include_usage": True}
        return arguments

    def wanted(self, case):
        return not self.options.only or self.options.only in case

    def run_sync(self):
        for api, name, streamed, request, headers in self.cases():
            case = f"{api}.{name}.{'stream' if streamed else 'whole'}.sync"
            if not self.wanted(case):
                continue
            _, _, _, whole, reader = APIS[api]
            seen, error = {}, None
            try:
                got = self.create(api, "", name)(**self.arguments(api, name, streamed, request, headers, case))
                if streamed:
                    stream = reader()
                    try:
                        for number, event in enumerate(got):
                            stream.add(event)
                            if name == "cancelled" and number == 5:
                                got.close()
                                break
                    finally:
                        seen = stream.result()
                else:
                    seen = whole(got)
            except Exception as e:  # each is looked at in `note`
                error = e
            self.note(case, api, name, streamed, request, seen, error)

    async def run_async(self):
        # Several at once: their bytes share a thread and interleave.
        waiting = asyncio.Semaphore(8)

        async def one(api, name, streamed, request, headers, case):
            _, _, _, whole, reader = APIS[api]
            seen, error = {}, None
            async with waiting:
                try:
                    got = await self.create(api, ".async", name)(
                        **self.arguments(api, name, streamed, request, headers, case)
                    )
                    if streamed:
                        stream = reader()
                        number = 0
                        try:
                            async for event in got:
                                stream.add(event)
                                number += 1
                                if name == "cancelled" and number == 6:
                                    await got.close()
                                    break
                        finally:
                            seen = stream.result()
                    else:
                        seen = whole(got)
                except Exception as e:
                    error = e
            self.note(case, api, name, streamed, request, seen, error)

        tasks = []
        for api, name, streamed, request, headers in self.cases():
            case = f"{api}.{name}.{'stream' if streamed else 'whole'}.async"
            if self.wanted(case):
                tasks.append(one(api, name, streamed, request, headers, case))
        await asyncio.gather(*tasks)

    def run_helpers(self):
        """What the SDKs offer above plain calls."""
        openai_client, anthropic_client = self.clients["openai"], self.clients["anthropic"]

        def embeddings(case, **request):
            got = openai_client.embeddings.create(
                model="text-embedding-3-small", extra_headers=tags(case), **request
            )
            return {"model": got.model, "input_tokens": got.usage.prompt_tokens, "vectors": len(got.data)}

        def tag(case):
            return {"extra_headers": tags(case)}

        def chat_helper(case):
            with openai_client.chat.completions.stream(
                model="gpt-4o-mini", messages=[user("Hello")], stream_options={"include_usage": True}, **tag(case)
            ) as stream:
                return chat_whole(stream.get_final_completion())

        def response_helper(case):
            with openai_client.responses.stream(model="gpt-4o-mini", input="Hello", **tag(case)) as stream:
                return response_whole(stream.get_final_response())

        def message_helper(case):
            with anthropic_client.messages.stream(
                model="claude-sonnet-5", max_tokens=100, messages=[user(CITIES)], tools=[WEATHER], **tag(case)
            ) as stream:
                return message_whole(stream.get_final_message())

        def completions(case):
            got = openai_client.completions.create(model="davinci-002", prompt="Once upon", max_tokens=50, **tag(case))
            return {
                "id": got.id,
                "model": got.model,
                "finish_reasons": [c.finish_reason for c in got.choices],
                "choices": [choice(c.text) for c in got.choices],
                "input_tokens": got.usage.prompt_tokens,
                "output_tokens": got.usage.completion_tokens,
            }

        def raw_response(case):
            got = openai_client.chat.completions.with_raw_response.create(
                model="gpt-4o-mini", messages=[user("Raw")], **tag(case)
            )
            return chat_whole(got.parse())

        def count(case):
            got = anthropic_client.messages.count_tokens(
                model="claude-sonnet-5", messages=[user("Count me")], **tag(case)
            )
            return {"input_tokens": got.input_tokens}

        def models(case):
            return {"models": len(openai_client.models.list(**tag(case)).data)}

        hello, compare = [["user", "text", "Hello"]], [["user", "text", CITIES]]
        helpers = {
            "openai.embeddings.one": (lambda c: embeddings(c, input="One text"), []),
            "openai.embeddings.many": (lambda c: embeddings(c, input=["One", "Two", "Three"]), []),
            "openai.embeddings.float": (lambda c: embeddings(c, input="F", encoding_format="float", dimensions=8), []),
            "openai.chat.helper": (chat_helper, hello),
            "openai.responses.helper": (response_helper, hello),
            "anthropic.messages.helper": (message_helper, compare),
            "openai.completions.plain": (completions, [["user", "text", "Once upon"]]),
            "openai.chat.raw-response": (raw_response, [["user", "text", "Raw"]]),
            "anthropic.count_tokens.plain": (count, []),
            "openai.models.list": (models, []),
        }
        for case, (run, said) in helpers.items():
            if self.wanted(case):
                seen, error = {}, None
                try:
                    seen = run(case)
                except Exception as e:
                    error = e
                api = ".".join(case.split(".")[:2])
                self.note(case, api, case, "helper" in case, {"messages": []}, seen, error, said)

    def note(self, case, api, name, streamed, request, seen, error, said=None):
        self.calls += 1
        line = {"case": case, "trace_id": trace_id(case), "api": api, "stream": streamed, **seen}
        line["sent"] = sent(request) if said is None else said
        if error is not None:
            cause = error.__cause__
            line["error"] = {
                "class": type(error).__name__,
                "cause": type(cause).__name__ if cause else None,
                "status": getattr(error, "status_code", None),
                "code": getattr(error, "code", None),
                "type": getattr(error, "type", None),
                "text": str(error)[:300],
            }
        expected = name.startswith(FAILING)
        # Closed properly, an SSE stream without its end looks like one that has ended; so it does where a helper of
        # the SDK does not check for a terminator.
        if expected != (error is not None) and not (streamed and name.startswith("cut-")):
            self.wrong.append(f"{case}: {line.get('error') or 'no error'}")
        self.out.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.out.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--ca")
    parser.add_argument("--out", required=True)
    parser.add_argument("--only")
    matrix = Matrix(parser.parse_args())
    matrix.run_sync()
    asyncio.run(matrix.run_async())
    matrix.run_helpers()
    for line in matrix.wrong:
        print(line, file=sys.stderr)
    print(f"{matrix.calls} calls, {len(matrix.wrong)} not as expected")
    return 1 if matrix.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
