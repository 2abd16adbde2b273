// Three calls to Gemini by gRPC for JavaScript: one whole, one streamed, one that fails. Says what came of them.
//
//     node calls.mjs HOST:PORT [CA]
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const [target, ca] = process.argv.slice(2);
const { google } = grpc.loadPackageDefinition(loadSync(new URL("gemini.proto", import.meta.url).pathname));
const { GenerativeService } = google.ai.generativelanguage.v1beta;
const credentials = ca ? grpc.credentials.createSsl(readFileSync(ca)) : grpc.credentials.createInsecure();
const client = new GenerativeService(target, credentials);
const ask = (text) => ({
  model: "models/gemini-2.5-flash",
  contents: [{ role: "user", parts: [{ text }] }],
  generationConfig: { maxOutputTokens: 99, temperature: 0.7 },
});
const said = (answer) => [...answer.candidates[0].content.parts[0].text].length;
const whole = (text) =>
  new Promise((resolve, reject) => {
    client.generateContent(ask(text), (error, answer) => (error ? reject(error) : resolve(answer)));
  });

console.log("said", said(await whole("Say it")));
let streamed = 0;
for await (const piece of client.streamGenerateContent(ask("Say it"))) streamed += said(piece);
console.log("streamed", streamed);
await whole("An error").catch((error) => console.log("error", grpc.status[error.code]));
client.close();
