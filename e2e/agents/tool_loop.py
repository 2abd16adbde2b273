"""A small real agent: an official SDK, and a shell that really runs what the model asks for.

    tool_loop.py --base https://localhost:PORT --ca ca.pem --fifo FILE --expected tree.json
                 [--api anthropic] [--stream] [--together] [--sidecar]

What the model is asked for tells what it will ask for (see e2e/src/answer.rs). A tracer that watched this program must
have seen the tree that goes to --expected: a node is [name, children]; a program's name is followed by why it hangs
where it hangs. With --together two conversations go on at once, in two threads; with --sidecar another program of the
agent's pod passes on what it says, over TLS.
"""

import argparse
import contextlib
import json
import os
import platform
import ssl
import subprocess
import threading

import anthropic
import httpx2
import openai
import sidecar

SHELL = "A command for the shell, which waits for its end"
COMMAND = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
ZONE = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}


def program(name, *children, cause="lineage"):
    return [f"{name} ({cause})", list(children)]


def shell(*children, cause="command"):
    return program("sh", *children, cause=cause)


# A shell does not become its last command where that is built in, as `true` is.
LIST = ("ls /proc/self/status --password=hunter2 && true", shell(program("ls")))
NEST = ("sh -c 'cat /dev/null && true' && date && true", shell(program("sh", program("cat")), program("date")))
FAIL = ("ls /no/such/file || true", shell(program("ls")))
KILL = ("sh -c 'kill -9 $$' || true", shell(program("sh")))
TWIN = ("id && true", shell(program("id"), cause="ambiguous"))


def script(folder):
    """The program that runs a script is its interpreter."""
    path = os.path.join(folder, "task")
    with open(path, "w") as file:
        file.write("#!/bin/sh\ndate\ntrue\n")
    os.chmod(path, 0o755)
    return (f"{path} && true", shell(program("sh", program("date"))))


def background(fifo):
    return (f"cat {fifo} >/dev/null 2>&1 & true", shell(program("cat")))


def run(name, arguments):
    if name == "get_time":
        return f"noon in {arguments['zone']}"
    done = subprocess.run(["/bin/sh", "-c", arguments["command"]], capture_output=True, text=True)
    return done.stdout + done.stderr


class OpenAI:
    def __init__(self, options, http):
        self.client = openai.OpenAI(base_url=f"{options.base}/v1", api_key="sk-test", http_client=http)
        self.stream = options.stream
        self.messages = []
        describe = lambda name, schema: {"name": name, "description": SHELL, "parameters": schema}
        self.tools = [
            {"type": "function", "function": describe("run_shell", COMMAND)},
            {"type": "function", "function": describe("get_time", ZONE)},
        ]

    def user(self, text):
        self.messages.append({"role": "user", "content": text})

    def ask(self):
        """Calls of tools as (id, name, arguments)."""
        request = {"model": "gpt-4o-mini", "messages": self.messages, "tools": self.tools}
        if self.stream:
            with self.client.chat.completions.stream(**request) as stream:
                message = stream.get_final_completion().choices[0].message
        else:
            message = self.client.chat.completions.create(**request).choices[0].message
        calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or []]
        answer = {"role": "assistant", "content": message.content}
        if calls:
            answer["tool_calls"] = [
                {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
                for id, name, arguments in calls
            ]
        self.messages.append(answer)
        return [(id, name, json.loads(arguments)) for id, name, arguments in calls]

    def results(self, results):
        for id, text in results:
            self.messages.append({"role": "tool", "tool_call_id": id, "content": text})


class Anthropic:
    def __init__(self, options, http):
        self.client = anthropic.Anthropic(base_url=options.base, api_key="sk-test", http_client=http)
        self.stream = options.stream
        self.messages = []
        describe = lambda name, schema: {"name": name, "description": SHELL, "input_schema": schema}
        self.tools = [describe("run_shell", COMMAND), describe("get_time", ZONE)]

    def user(self, text):
        self.messages.append({"role": "user", "content": text})

    def ask(self):
        request = {"model": "claude-sonnet-4-5", "max_tokens": 1000, "messages": self.messages, "tools": self.tools}
        if self.stream:
            with self.client.messages.stream(**request) as stream:
                message = stream.get_final_message()
        else:
            message = self.client.messages.create(**request)
        content = [block.model_dump(exclude_none=True) for block in message.content]
        self.messages.append({"role": "assistant", "content": content})
        return [(block.id, block.name, block.input) for block in message.content if block.type == "tool_use"]

    def results(self, results):
        blocks = [{"type": "tool_result", "tool_use_id": id, "content": text} for id, text in results]
        self.messages.append({"role": "user", "content": blocks})


def turn(conversation, wanted, meet):
    """One turn: all tools at once, each in a thread, as agents run them; then the answer. Its tree."""
    words = [
        f"run_shell {json.dumps({'command': task[0]})}" if isinstance(task, tuple) else f"get_time {json.dumps(task)}"
        for task in wanted
    ]
    conversation.user("Please do: " + " and ".join(words))
    meet()
    calls = conversation.ask()
    assert len(calls) == len(wanted), (calls, wanted)
    meet()
    results = {}

    def work(id, name, arguments):
        meet()
        results[id] = run(name, arguments)

    threads = [threading.Thread(target=work, args=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    conversation.results([(id, results[id]) for id, _, _ in calls])
    assert conversation.ask() == []
    children, tools = [["chat", []], ["chat", []]], []
    for (id, name, _), task in zip(calls, wanted):
        below = [task[1]] if isinstance(task, tuple) else []
        # Of twins nobody can tell which tool ran which: they hang on the turn.
        twins = [tree for tree in below if "ambiguous" in tree[0]]
        children += twins
        tools.append([f"execute_tool {name} {id}", [tree for tree in below if tree not in twins]])
    return ["invoke_agent", children + tools]


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--base", required=True)
    options.add_argument("--ca", required=True)
    options.add_argument("--fifo", required=True)
    options.add_argument("--expected", required=True)
    options.add_argument("--api", default="openai")
    options.add_argument("--stream", action="store_true")
    options.add_argument("--together", action="store_true")
    options.add_argument("--sidecar", action="store_true")
    options = options.parse_args()
    with contextlib.ExitStack() as stack:
        expected = []
        if options.sidecar:
            options.base = stack.enter_context(sidecar.before(options.base, options.ca))
            expected.append(program("stunnel"))
        converse_all(options, expected)
    with open(options.expected, "w") as file:
        json.dump(expected, file)


def converse_all(options, expected):
    # The SDKs ask for it when they make their first request, and Python asks `uname`.
    platform.uname().processor
    expected.append(program("uname"))

    def begin():
        http = httpx2.Client(verify=ssl.create_default_context(cafile=options.ca))
        return (Anthropic if options.api == "anthropic" else OpenAI)(options, http)

    if options.together:
        # Every step of the one is taken together with the same step of the other.
        barrier = threading.Barrier(2)
        trees = [None, None]

        def converse(n, tasks):
            conversation = begin()
            trees[n] = [turn(conversation, [task], barrier.wait) for task in tasks]

        threads = [
            threading.Thread(target=converse, args=(0, [LIST, NEST])),
            threading.Thread(target=converse, args=(1, [FAIL, {"zone": "Oslo"}])),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected += trees[0] + trees[1]
    else:
        conversation = begin()
        for wanted in [
            [LIST, NEST, {"zone": "Oslo"}],
            [FAIL, KILL, script(os.path.dirname(options.fifo))],
            [background(options.fifo)],
            [TWIN, TWIN],
        ]:
            expected.append(turn(conversation, wanted, lambda: None))


if __name__ == "__main__":
    main()
