// Two calls to a model, one of them streamed, by one of the ways in which programs in JavaScript make them.
//
//     node clients.mjs CLIENT BASE
//
// CLIENT is a member of `clients`. Says the text of each answer. NODE_EXTRA_CA_CERTS names the certificate.
const [client, base] = process.argv.slice(2);
const [whole, streamed] = ["Whole", "Streamed"];
const weather = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const ask = 'get_weather {"city":"Lisbon"}, please';

const clients = {
  async fetch() {
    for (const [text, stream] of [[whole, false], [streamed, true]]) {
      const answer = await fetch(`${base}/v1/chat/completions`, {
        method: "POST",
        headers: { authorization: "Bearer sk-test-0123456789", "content-type": "application/json" },
        body: JSON.stringify({ model: "gpt-4o-mini", stream, messages: [{ role: "user", content: text }] }),
      });
      console.log((await answer.text()).length);
    }
  },

  async openai() {
    const { default: OpenAI } = await import("openai");
    const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: "sk-test-0123456789" });
    const answer = await openai.responses.create({
      model: "gpt-4o-mini",
      input: ask,
      tools: [{ type: "function", name: "get_weather", parameters: weather, strict: false }],
    });
    console.log(answer.output[0].arguments);
    const stream = await openai.chat.completions.create({
      model: "gpt-4o-mini",
      messages: [{ role: "user", content: streamed }],
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    console.log(text);
  },

  async anthropic() {
    const { default: Anthropic } = await import("@anthropic-ai/sdk");
    const anthropic = new Anthropic({ baseURL: base, apiKey: "sk-ant-test-0123456789" });
    const model = "claude-sonnet-4-5";
    const answer = await anthropic.messages.create({
      model,
      max_tokens: 500,
      messages: [{ role: "user", content: ask }],
      tools: [{ name: "get_weather", description: "x", input_schema: weather }],
    });
    console.log(JSON.stringify(answer.content));
    const stream = anthropic.messages.stream({ model, max_tokens: 500, messages: [{ role: "user", content: streamed }] });
    console.log(await stream.finalText());
  },

  async ai() {
    const { generateText, jsonSchema, stepCountIs, streamText, tool } = await import("ai");
    const { createOpenAI } = await import("@ai-sdk/openai");
    const { createAnthropic } = await import("@ai-sdk/anthropic");
    const openai = createOpenAI({ baseURL: `${base}/v1`, apiKey: "sk-test-0123456789" });
    const anthropic = createAnthropic({ baseURL: `${base}/v1`, apiKey: "sk-ant-test-0123456789" });
    const get_weather = tool({
      description: "Tells the weather of a city",
      inputSchema: jsonSchema(weather),
      execute: async ({ city }) => `sunny in ${city}`,
    });
    const answer = await generateText({
      model: openai("gpt-4o-mini"),
      prompt: ask,
      tools: { get_weather },
      stopWhen: stepCountIs(3),
    });
    if (!answer.text.includes("sunny in Lisbon")) throw new Error(answer.text);
    console.log(answer.text);
    console.log(await streamText({ model: anthropic("claude-sonnet-4-5"), prompt: streamed }).text);
  },

  async "google-genai"() {
    const { GoogleGenAI } = await import("@google/genai");
    const google = new GoogleGenAI({ apiKey: "test-0123456789", httpOptions: { baseUrl: base } });
    const model = "gemini-2.5-flash";
    const answer = await google.models.generateContent({
      model,
      contents: ask,
      config: { tools: [{ functionDeclarations: [{ name: "get_weather", parametersJsonSchema: weather }] }] },
    });
    console.log(JSON.stringify(answer.functionCalls));
    let text = "";
    for await (const chunk of await google.models.generateContentStream({ model, contents: streamed })) text += chunk.text ?? "";
    console.log(text);
  },
};

await clients[client]();
