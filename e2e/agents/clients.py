"""Two calls to a model, one of them streamed, by one of the ways in which Python programs make them.

    clients.py CLIENT BASE CA

CLIENT is one of those at the end of this file. Says the text of each answer.
"""

import asyncio
import json
import sys

CHAT = "/v1/chat/completions"
HEADERS = {"authorization": "Bearer sk-test-0123456789", "content-type": "application/json"}
TEXTS = ["Whole", "Streamed"]


def body(text, stream):
    request = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}
    if stream:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(request).encode()


def of_stream(lines):
    """The text of a stream of chat.completion.chunk."""
    text = ""
    for line in lines:
        line = line.decode().strip()
        if line.startswith("data: {"):
            text += "".join(choice["delta"].get("content") or "" for choice in json.loads(line[6:])["choices"])
    return text


def of_whole(text):
    return json.loads(text)["choices"][0]["message"]["content"]


def by_requests(base, ca):
    import requests

    with requests.Session() as session:
        session.verify = ca
        answer = session.post(base + CHAT, data=body(TEXTS[0], False), headers=HEADERS)
        print(of_whole(answer.text))
        answer = session.post(base + CHAT, data=body(TEXTS[1], True), headers=HEADERS, stream=True)
        print(of_stream(answer.iter_lines()))


def by_urllib3(base, ca):
    import urllib3

    pool = urllib3.PoolManager(ca_certs=ca)
    answer = pool.request("POST", base + CHAT, body=body(TEXTS[0], False), headers=HEADERS)
    print(of_whole(answer.data))
    answer = pool.request("POST", base + CHAT, body=body(TEXTS[1], True), headers=HEADERS, preload_content=False)
    print(of_stream(answer))


def by_httpx(base, ca):
    import ssl

    import httpx

    with httpx.Client(verify=ssl.create_default_context(cafile=ca)) as client:
        print(of_whole(client.post(base + CHAT, content=body(TEXTS[0], False), headers=HEADERS).text))
        with client.stream("POST", base + CHAT, content=body(TEXTS[1], True), headers=HEADERS) as answer:
            print(of_stream(line.encode() for line in answer.iter_lines()))


def by_aiohttp(base, ca):
    import ssl

    import aiohttp

    async def calls():
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=ca))
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.post(base + CHAT, data=body(TEXTS[0], False), headers=HEADERS) as answer:
                print(of_whole(await answer.text()))
            async with session.post(base + CHAT, data=body(TEXTS[1], True), headers=HEADERS) as answer:
                print(of_stream([line async for line in answer.content]))

    asyncio.run(calls())


def by_google_genai(base, ca):
    from google import genai

    options = genai.types.HttpOptions(base_url=base, client_args={"verify": ca})
    client = genai.Client(api_key="test-0123456789", http_options=options)

    def get_weather(city: str) -> str:
        """Tells the weather of a city."""
        return f"sunny in {city}"

    # With a function it asks, runs that, and asks again.
    config = genai.types.GenerateContentConfig(system_instruction="Be brief.", temperature=0.5, tools=[get_weather])
    answer = client.models.generate_content(
        model="gemini-2.5-flash", contents='get_weather {"city":"Lisbon"}, please', config=config
    )
    assert "sunny in Lisbon" in answer.text, answer
    print(answer.text)
    stream = client.models.generate_content_stream(model="gemini-2.5-flash", contents=TEXTS[1])
    print("".join(chunk.text or "" for chunk in stream))


def by_dotnet(base, ca):
    """HttpClient of .NET, in this process: PyPI has its run-time, and no compiler."""
    import pathlib
    import tempfile

    import clr_loader
    import dotnetcore2
    import pythonnet

    root = pathlib.Path(dotnetcore2.__file__).parent / "bin"
    framework = {"name": "Microsoft.NETCore.App", "version": next(root.glob("shared/Microsoft.NETCore.App/*")).name}
    options = {"framework": framework, "configProperties": {"System.Globalization.Invariant": True}}
    with tempfile.TemporaryDirectory() as folder:
        configuration = pathlib.Path(folder, "e2e.runtimeconfig.json")
        configuration.write_text(json.dumps({"runtimeOptions": options}))
        pythonnet.load(clr_loader.get_coreclr(runtime_config=configuration, dotnet_root=root))
    import clr

    clr.AddReference("System.Net.Http")
    from System.IO import StreamReader
    from System.Net.Http import HttpClient, HttpCompletionOption, HttpMethod, HttpRequestMessage, StringContent
    from System.Text import Encoding

    client = HttpClient()
    for text, stream in zip(TEXTS, [False, True]):
        request = HttpRequestMessage(HttpMethod.Post, base + CHAT)
        request.Content = StringContent(body(text, stream).decode(), Encoding.UTF8, "application/json")
        answer = client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead).Result.EnsureSuccessStatusCode()
        reader = StreamReader(answer.Content.ReadAsStreamAsync().Result)
        if stream:
            print(of_stream(line.encode() for line in iter(reader.ReadLine, None)))
        else:
            print(of_whole(reader.ReadToEnd()))


def by_langchain(chat):
    """An agent's loop: asks with a tool, runs it, and asks again; then streams."""
    from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
    from langchain_core.tools import tool

    @tool
    def get_weather(city: str) -> str:
        """Tells the weather of a city."""
        return f"sunny in {city}"

    messages = [SystemMessage("Be brief."), HumanMessage('get_weather {"city":"Lisbon"}, please')]
    bound = chat.bind_tools([get_weather])
    answer = bound.invoke(messages)
    messages.append(answer)
    for call in answer.tool_calls:
        messages.append(ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]))
    answer = bound.invoke(messages)
    assert "sunny in Lisbon" in answer.text, answer
    print(answer.text)
    print("".join(chunk.text for chunk in chat.stream(TEXTS[1])))


def by_langchain_openai(base, ca):
    from langchain_openai import ChatOpenAI

    by_langchain(ChatOpenAI(model="gpt-4o-mini", api_key="sk-test-0123456789", base_url=base + "/v1"))


def by_langchain_anthropic(base, ca):
    from langchain_anthropic import ChatAnthropic

    by_langchain(ChatAnthropic(model="claude-sonnet-4-5", api_key="sk-ant-test-0123456789", base_url=base))


def by_litellm(base, ca):
    import litellm

    litellm.telemetry = False
    common = {"messages": [{"role": "user", "content": TEXTS[0]}], "api_key": "sk-test-0123456789"}
    answer = litellm.completion(model="openai/gpt-4o-mini", api_base=base + "/v1", **common)
    print(answer.choices[0].message.content)
    answer = litellm.completion(model="anthropic/claude-sonnet-4-5", api_base=base, stream=True, **common)
    print("".join(chunk.choices[0].delta.content or "" for chunk in answer))


def by_libcurl_gnutls(base, ca):
    """The build of libcurl that Debian links git with; Python has no package of it."""
    import ctypes

    curl = ctypes.CDLL("libcurl-gnutls.so.4")
    curl.curl_easy_init.restype = ctypes.c_void_p
    answer = bytearray()

    @ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
    def take(data, size, number, _):
        answer.extend(ctypes.string_at(data, size * number))
        return size * number

    headers = None
    curl.curl_slist_append.restype = ctypes.c_void_p
    for name, value in HEADERS.items():
        headers = ctypes.c_void_p(curl.curl_slist_append(headers, f"{name}: {value}".encode()))
    handle = ctypes.c_void_p(curl.curl_easy_init())
    # CURLOPT_URL, _CAINFO, _HTTPHEADER, _WRITEFUNCTION and _POSTFIELDS of curl.h.
    for option, value in [(10002, (base + CHAT).encode()), (10065, ca.encode()), (10023, headers), (20011, take)]:
        assert curl.curl_easy_setopt(handle, option, value) == 0
    for text, stream in zip(TEXTS, [False, True]):
        answer.clear()
        asked = body(text, stream)
        assert curl.curl_easy_setopt(handle, 10015, asked) == 0
        assert curl.curl_easy_perform(handle) == 0
        print(of_stream(answer.splitlines()) if stream else of_whole(answer))
    curl.curl_easy_cleanup(handle)


if __name__ == "__main__":
    client, base, ca = sys.argv[1:]
    {
        "requests": by_requests,
        "urllib3": by_urllib3,
        "httpx": by_httpx,
        "aiohttp": by_aiohttp,
        "dotnet": by_dotnet,
        "google-genai": by_google_genai,
        "langchain-openai": by_langchain_openai,
        "langchain-anthropic": by_langchain_anthropic,
        "libcurl-gnutls": by_libcurl_gnutls,
        "litellm": by_litellm,
    }[client](base, ca)
