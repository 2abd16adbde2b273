"""Calls to models by gRPC: a server, which says what each call's span has to say, and the clients that people use.

    grpc_calls.py serve TRUTH [CERTIFICATES KEY]    says its port, and serves until it is ended
    grpc_calls.py google|xai HOST:PORT [CA]         makes its calls, and says what came of them
    grpc_calls.py unknown HOST:PORT [CA]            calls what is no known format: Triton's, and a health check

GRPC_CALLS_COMPRESSION=gzip|deflate compresses every message, both ways.
"""

import json
import os
import sys
import threading
from concurrent import futures

import grpc

COMPRESSION = {
    None: grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}[os.environ.get("GRPC_CALLS_COMPRESSION")]
LONG = "The quick brown fox jumps over the lazy dog — ünïcödé \U0001f98a. " * 300


# The server.


def serve(truth_file, certificates=None, key=None):
    truth = Truth(truth_file)
    server = grpc.server(futures.ThreadPoolExecutor(8), compression=COMPRESSION)
    server.add_generic_rpc_handlers((gemini(truth), xai(truth), others()))
    if certificates:
        read = lambda path: open(path, "rb").read()
        credentials = grpc.ssl_server_credentials([(read(key), read(certificates))])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


class Truth:
    """A line for each call: the attributes that its span has to have, and null for those that it must not."""

    def __init__(self, path):
        self.lock = threading.Lock()
        self.file = open(path, "w")

    def write(self, attributes):
        with self.lock:
            print(json.dumps(attributes), file=self.file, flush=True)


def gemini(truth):
    from google.ai import generativelanguage_v1beta as v1beta
    from google.protobuf import json_format

    service = "google.ai.generativelanguage.v1beta.GenerativeService"

    def common(method, request, stream):
        config = request.generation_config
        optional = lambda name: getattr(config, name) if name in config else None
        return {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "gcp.gemini",
            "gen_ai.request.model": request.model.removeprefix("models/"),
            "gen_ai.request.stream": stream or None,
            "gen_ai.request.max_tokens": optional("max_output_tokens"),
            "gen_ai.request.temperature": shortest(optional("temperature")),
            "gen_ai.request.top_k": float(config.top_k) if "top_k" in config else None,
            "gen_ai.request.stop_sequences": list(config.stop_sequences) or None,
            "rpc.system.name": "grpc",
            "rpc.method": f"{service}/{method}",
            "gen_ai.input.messages": [message(content) for content in request.contents],
            "gen_ai.tool.definitions": [
                definition(function) for tool in request.tools for function in tool.function_declarations
            ]
            or None,
        }

    def definition(function):
        parameters = json_format.MessageToDict(type(function).pb(function))["parameters"]
        return {
            "type": "function",
            "name": function.name,
            "description": function.description,
            "parameters": parameters,
        }

    def message(content):
        def part(part):
            if "function_call" in part:
                call = part.function_call
                return {"type": "tool_call", "name": call.name, "arguments": plain(call.args), "id": call.id or None}
            if "function_response" in part:
                answer = part.function_response
                response = plain(answer.response)
                return {"type": "tool_call_response", "response": response, "id": answer.id or None}
            kind = "reasoning" if part.thought else "text"
            return {"type": kind, "content": part.text}

        role = "assistant" if content.role == "model" else content.role or "user"
        return {"role": role, "parts": [without_none(part(p)) for p in content.parts]}

    def said(attributes, response, text=None):
        candidate, usage = response.candidates[0], response.usage_metadata
        output = message(candidate.content)
        if text is not None:
            output["parts"] = [{"type": "text", "content": text}]
        reason = candidate.finish_reason.name.lower()
        return attributes | {
            "gen_ai.response.id": response.response_id,
            "gen_ai.response.model": response.model_version,
            "gen_ai.response.finish_reasons": [reason],
            "gen_ai.usage.input_tokens": usage.prompt_token_count,
            "gen_ai.usage.output_tokens": usage.candidates_token_count + usage.thoughts_token_count,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_content_token_count or None,
            "gen_ai.output.messages": [output | {"finish_reason": reason}],
            "rpc.response.status_code": "OK",
            "error.type": None,
        }

    def answer(request, number):
        last = request.contents[-1].parts[-1]
        if "function_response" in last:
            parts = [{"text": f"It says {plain(last.function_response.response)}."}]
        elif "tool" in last.text:
            parts = [
                {"text": "I have to look.", "thought": True},
                {"function_call": {"name": "look", "args": {"where": "here", "deep": [1, 2.5, None, {"a": True}]}}},
            ]
        else:
            parts = [{"text": LONG}]
        return v1beta.GenerateContentResponse(
            response_id=f"response-{number}",
            model_version="gemini-2.5-flash-001",
            candidates=[{"content": {"role": "model", "parts": parts}, "finish_reason": "STOP", "index": 0}],
            usage_metadata={
                "prompt_token_count": 11 + number,
                "candidates_token_count": 7,
                "thoughts_token_count": 5,
                "total_token_count": 23 + number,
                "cached_content_token_count": 3,
            },
        )

    numbers = iter(range(10**9))

    def fails(attributes, code, request, context):
        truth.write(attributes | {"rpc.response.status_code": code.name, "error.type": code.name})
        context.abort(code, "it is said: 100 % of the quota — über alles")

    def generate(request, context):
        attributes = common("GenerateContent", request, False)
        if "error" in request.contents[-1].parts[-1].text:
            fails(attributes, grpc.StatusCode.RESOURCE_EXHAUSTED, request, context)
        if "deadline" in request.contents[-1].parts[-1].text:
            truth.write(attributes | {"error.type": "DEADLINE_EXCEEDED"})
            until_left(context)
            return v1beta.GenerateContentResponse()
        response = answer(request, next(numbers))
        truth.write(said(attributes, response))
        return response

    def stream(request, context):
        attributes = common("StreamGenerateContent", request, True)
        whole = answer(request, next(numbers))
        text = whole.candidates[0].content.parts[-1].text
        pieces = [text[at : at + 2000] for at in range(0, len(text), 2000)] or [""]
        if "cancel" in request.contents[-1].parts[-1].text:
            left = {"agentsight.response.incomplete": "cancelled", "error.type": None}
            truth.write(attributes | left)
        elif "breaks" not in request.contents[-1].parts[-1].text:
            truth.write(said(attributes, whole, text))
        for at, piece in enumerate(pieces):
            chunk = v1beta.GenerateContentResponse(
                response_id=whole.response_id,
                model_version=whole.model_version,
                candidates=[{"content": {"role": "model", "parts": [{"text": piece}]}, "index": 0}],
            )
            if at + 1 == len(pieces):
                chunk.candidates[0].finish_reason = "STOP"
                chunk.usage_metadata = whole.usage_metadata
            yield chunk
            if "cancel" in request.contents[-1].parts[-1].text:
                return until_left(context)
            if "breaks" in request.contents[-1].parts[-1].text:
                fails(attributes, grpc.StatusCode.UNAVAILABLE, request, context)

    def embed(request, context):
        truth.write(
            {
                "gen_ai.operation.name": "embeddings",
                "gen_ai.provider.name": "gcp.gemini",
                "gen_ai.request.model": request.model.removeprefix("models/"),
                "gen_ai.embeddings.dimension.count": 768,
                "rpc.method": f"{service}/EmbedContent",
                "rpc.response.status_code": "OK",
            }
        )
        return v1beta.EmbedContentResponse(embedding={"values": [0.5] * 768})

    def count(request, context):
        return v1beta.CountTokensResponse(total_tokens=7)

    def method(kind, behaviour, request, response):
        return kind(
            behaviour, request_deserializer=request.deserialize, response_serializer=response.serialize
        )

    one, many = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    ask, said_type = v1beta.GenerateContentRequest, v1beta.GenerateContentResponse
    return grpc.method_handlers_generic_handler(
        service,
        {
            "GenerateContent": method(one, generate, ask, said_type),
            "StreamGenerateContent": method(many, stream, ask, said_type),
            "EmbedContent": method(one, embed, v1beta.EmbedContentRequest, v1beta.EmbedContentResponse),
            "CountTokens": method(one, count, v1beta.CountTokensRequest, v1beta.CountTokensResponse),
        },
    )


def xai(truth):
    from xai_sdk.proto import chat_pb2, sample_pb2

    def text(message):
        return "".join(content.text for content in message.content)

    def attributes(method, request, stream):
        def message(message):
            role = chat_pb2.MessageRole.Name(message.role).removeprefix("ROLE_").lower()
            if role == "tool":
                part = {"type": "tool_call_response", "response": text(message), "id": message.tool_call_id}
                return {"role": role, "parts": [without_none(part)]}
            parts = [{"type": "text", "content": content.text} for content in message.content if content.HasField("text")]
            parts += [
                {"type": "tool_call", "id": c.id, "name": c.function.name, "arguments": json.loads(c.function.arguments)}
                for c in message.tool_calls
            ]
            return {"role": role, "parts": parts}

        return {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "x_ai",
            "gen_ai.request.model": request.model,
            "gen_ai.request.stream": stream or None,
            "gen_ai.request.max_tokens": request.max_tokens or None,
            "gen_ai.request.temperature": shortest(request.temperature) or None,
            "rpc.system.name": "grpc",
            "rpc.method": f"xai_api.Chat/{method}",
            "gen_ai.input.messages": [message(m) for m in request.messages],
            "gen_ai.tool.definitions": [
                {
                    "type": "function",
                    "name": tool.function.name,
                    "description": tool.function.description,
                    "parameters": json.loads(tool.function.parameters),
                }
                for tool in request.tools
            ]
            or None,
        }

    numbers = iter(range(10**9))

    def answer(request, number):
        tool = "tool" in text(request.messages[-1]) and request.messages[-1].role == chat_pb2.ROLE_USER
        response = chat_pb2.GetChatCompletionResponse(
            id=f"xai-{number}", model="grok-4-0709", system_fingerprint="fp_1"
        )
        output = response.outputs.add(index=0)
        output.finish_reason = sample_pb2.REASON_TOOL_CALLS if tool else sample_pb2.REASON_STOP
        output.message.role = chat_pb2.ROLE_ASSISTANT
        if tool:
            call = output.message.tool_calls.add(id="call-1", type=chat_pb2.TOOL_CALL_TYPE_CLIENT_SIDE_TOOL)
            call.function.name, call.function.arguments = "look", '{"where": "here"}'
        else:
            output.message.content = LONG
        usage = response.usage
        usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens = 20 + number, 9, 94
        usage.total_tokens = 20 + number + 9 + 94
        usage.cached_prompt_text_tokens = 4
        return response

    def said(attributes, response):
        output, usage = response.outputs[0], response.usage
        reason = "tool_call" if output.message.tool_calls else "stop"
        parts = [{"type": "text", "content": output.message.content}] if output.message.content else []
        parts += [
            {"type": "tool_call", "id": c.id, "name": c.function.name, "arguments": json.loads(c.function.arguments)}
            for c in output.message.tool_calls
        ]
        return attributes | {
            "gen_ai.response.id": response.id,
            "gen_ai.response.model": response.model,
            "gen_ai.response.finish_reasons": [reason],
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens + usage.reasoning_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_prompt_text_tokens,
            "gen_ai.output.messages": [{"role": "assistant", "parts": parts, "finish_reason": reason}],
            "rpc.response.status_code": "OK",
            "error.type": None,
        }

    def whole(request, context):
        described = attributes("GetCompletion", request, False)
        if "error" in text(request.messages[-1]):
            truth.write(
                described | {"rpc.response.status_code": "INVALID_ARGUMENT", "error.type": "INVALID_ARGUMENT"}
            )
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such thing")
        response = answer(request, next(numbers))
        truth.write(said(described, response))
        return response

    def chunks(request, context):
        response = answer(request, next(numbers))
        truth.write(said(attributes("GetCompletionChunk", request, True), response))
        output = response.outputs[0]
        content = output.message.content
        pieces = [content[at : at + 1000] for at in range(0, len(content), 1000)] or [""]
        for at, piece in enumerate(pieces):
            chunk = chat_pb2.GetChatCompletionChunk(id=response.id, model=response.model)
            chunk.usage.CopyFrom(response.usage)
            part = chunk.outputs.add(index=0)
            part.delta.content, part.delta.role = piece, chat_pb2.ROLE_ASSISTANT
            if at + 1 == len(pieces):
                part.finish_reason = output.finish_reason
                part.delta.tool_calls.extend(output.message.tool_calls)
            yield chunk

    def method(kind, behaviour, response):
        return kind(
            behaviour,
            request_deserializer=chat_pb2.GetCompletionsRequest.FromString,
            response_serializer=response.SerializeToString,
        )

    return grpc.method_handlers_generic_handler(
        "xai_api.Chat",
        {
            "GetCompletion": method(
                grpc.unary_unary_rpc_method_handler, whole, chat_pb2.GetChatCompletionResponse
            ),
            "GetCompletionChunk": method(
                grpc.unary_stream_rpc_method_handler, chunks, chat_pb2.GetChatCompletionChunk
            ),
        },
    )


def others():
    """What is no known format: Triton's service, and one that is no model's at all."""
    echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)

    class Others(grpc.GenericRpcHandler):
        def service(self, details):
            known = ("/inference.GRPCInferenceService/ModelInfer", "/grpc.health.v1.Health/Check")
            return echo if details.method in known else None

    return Others()


def until_left(context):
    """Waits until the client has given up."""
    left = threading.Event()
    if context.add_callback(left.set):
        left.wait()


def plain(value):
    """A `google.protobuf.Struct` as proto-plus shows it, as JSON."""
    if hasattr(value, "items"):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) or hasattr(value, "append"):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def shortest(number):
    """A number of 32 bits as it was meant: 0.7, not 0.699999988."""
    return None if number is None else float(f"{number:.7g}")


def without_none(values):
    return {key: value for key, value in values.items() if value is not None}


# The clients.


def channel(target, ca):
    if ca is None:
        return grpc.insecure_channel(target, compression=COMPRESSION)
    credentials = grpc.ssl_channel_credentials(open(ca, "rb").read())
    return grpc.secure_channel(target, credentials, compression=COMPRESSION)


def google(target, ca=None):
    from google.ai import generativelanguage_v1beta as v1beta
    from google.api_core import exceptions
    from google.ai.generativelanguage_v1beta.services.generative_service.transports import (
        GenerativeServiceGrpcTransport,
    )

    transport = GenerativeServiceGrpcTransport(channel=channel(target, ca))
    client = v1beta.GenerativeServiceClient(transport=transport)
    model = "models/gemini-2.5-flash"
    user = lambda text: {"role": "user", "parts": [{"text": text}]}
    config = {"max_output_tokens": 99, "temperature": 0.7, "top_k": 40, "stop_sequences": ["END", "STOP"]}

    answer = client.generate_content(
        request={"model": model, "contents": [user("Say it")], "generation_config": config}
    )
    print("said", len(answer.candidates[0].content.parts[0].text))
    pieces = client.stream_generate_content(
        request={"model": model, "contents": [user("Say it " + LONG)], "generation_config": config}
    )
    print("streamed", sum(len(piece.candidates[0].content.parts[0].text) for piece in pieces))

    tools = [
        {
            "function_declarations": [
                {
                    "name": "look",
                    "description": "Looks at a thing.",
                    "parameters": {
                        "type_": "OBJECT",
                        "properties": {"where": {"type_": "STRING", "description": "The place."}},
                        "required": ["where"],
                    },
                }
            ]
        }
    ]
    history = [user("Use a tool")]
    answer = client.generate_content(request={"model": model, "contents": history, "tools": tools})
    call = answer.candidates[0].content.parts[1].function_call
    print("asked for", call.name, json.dumps(plain(call.args), sort_keys=True))
    result = {"function_response": {"name": call.name, "response": {"seen": 3}}}
    history += [answer.candidates[0].content, {"role": "user", "parts": [result]}]
    answer = client.generate_content(request={"model": model, "contents": history, "tools": tools})
    print("said", answer.candidates[0].content.parts[0].text)

    for name, ask in [
        ("error", lambda: client.generate_content(request={"model": model, "contents": [user("An error")]})),
        (
            "deadline",
            lambda: client.generate_content(
                request={"model": model, "contents": [user("The deadline")]}, timeout=0.3, retry=None
            ),
        ),
        (
            "breaks",
            lambda: list(
                client.stream_generate_content(
                    request={"model": model, "contents": [user("It breaks")]}, retry=None
                )
            ),
        ),
    ]:
        try:
            ask()
            print(name, "went well?")
        except exceptions.GoogleAPICallError as error:
            print(name, error.grpc_status_code.name)
    stream = client.stream_generate_content(request={"model": model, "contents": [user("I will cancel")]})
    next(iter(stream))
    stream.cancel()

    embedded = client.embed_content(
        request={"model": "models/text-embedding-004", "content": {"parts": [{"text": "Hello"}]}}
    )
    print("embedded", len(embedded.embedding.values))
    counted = client.count_tokens(request={"model": model, "contents": [user("Count")]})
    print("counted", counted.total_tokens)


def xai_client(target, ca=None):
    from xai_sdk import Client
    from xai_sdk.chat import assistant, system, tool, tool_result, user

    if ca:
        os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = ca
    client = Client(
        api_key="not-a-key",
        api_host=target,
        use_insecure_channel=ca is None,
        channel_options=[("grpc.default_compression_algorithm", COMPRESSION.value)],
    )
    chat = client.chat.create(model="grok-4", max_tokens=77, temperature=0.3)
    chat.append(system("Be brief."))
    chat.append(user("Say it"))
    response = chat.sample()
    print("said", len(response.content))
    chat.append(assistant("Said."))
    chat.append(user("Say it again " + LONG))
    for response, _ in chat.stream():
        pass
    print("streamed", len(response.content))

    look = tool(
        name="look",
        description="Looks at a thing.",
        parameters={"type": "object", "properties": {"where": {"type": "string"}}},
    )
    chat = client.chat.create(model="grok-4", tools=[look])
    chat.append(user("Use a tool"))
    for response, _ in chat.stream():
        pass
    print("asked for", response.tool_calls[0].function.name, response.tool_calls[0].function.arguments)
    chat.append(response)
    chat.append(tool_result("seen", tool_call_id=response.tool_calls[0].id))
    print("said", len(chat.sample().content))
    chat = client.chat.create(model="grok-4")
    chat.append(user("An error"))
    try:
        chat.sample()
        print("error", "went well?")
    except grpc.RpcError as error:
        print("error", error.code().name)


def unknown(target, ca=None):
    with channel(target, ca) as to:
        for method in ["/inference.GRPCInferenceService/ModelInfer", "/grpc.health.v1.Health/Check"]:
            print(method, to.unary_unary(method)(b"\x0a\x03abc"))


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    {"serve": serve, "google": google, "xai": xai_client, "unknown": unknown}[role](*arguments)
