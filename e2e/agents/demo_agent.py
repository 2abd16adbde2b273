"""A small real agent: the official OpenAI SDK, streaming, one tool that it runs itself, then the answer.

It knows nothing of AgentSight. OPENAI_BASE_URL, OPENAI_API_KEY and SSL_CERT_FILE say where its model is, as for any
program that uses the SDK.
"""

import json
import sys

from openai import OpenAI

MODEL = "gpt-4o-mini"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city right now",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


def get_weather(city):
    return {"city": city, "sky": "sunny", "temperature": "21 °C"}


def say(who, text="", end="\n"):
    print(f"{who:>6}  {text}", end=end, flush=True)


def ask(client, messages):
    """One model call; prints the text as it streams, and returns the assistant's message."""
    message = {"role": "assistant", "content": "", "tool_calls": []}
    stream = client.chat.completions.create(
        model=MODEL, messages=messages, tools=TOOLS, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        for choice in chunk.choices:
            if choice.delta.content:
                if not message["content"]:
                    say("model", end="")
                print(choice.delta.content, end="", flush=True)
                message["content"] += choice.delta.content
            for call in choice.delta.tool_calls or []:
                if call.index == len(message["tool_calls"]):
                    function = {"name": call.function.name, "arguments": ""}
                    message["tool_calls"].append({"id": call.id, "type": "function", "function": function})
                message["tool_calls"][call.index]["function"]["arguments"] += call.function.arguments or ""
    if message["content"]:
        print()
    if not message["tool_calls"]:
        del message["tool_calls"]
    return message


def main():
    question = " ".join(sys.argv[1:]) or "What is the weather in Lisbon today?"
    client = OpenAI()
    messages = [
        {"role": "system", "content": "You are a helpful assistant. Use your tools."},
        {"role": "user", "content": question},
    ]
    say("user", question)
    while True:
        answer = ask(client, messages)
        messages.append(answer)
        if "tool_calls" not in answer:
            return
        for call in answer["tool_calls"]:
            arguments = json.loads(call["function"]["arguments"])
            result = get_weather(**arguments)
            say("tool", f"get_weather({arguments['city']!r}) = {result['temperature']}, {result['sky']}")
            messages.append(
                {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result, ensure_ascii=False)}
            )


if __name__ == "__main__":
    main()
