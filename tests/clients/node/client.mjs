// One call of the official Node client: prints what it made of the answer, as JSON, for tests/clients/test_node.py.
// Usage: node client.mjs FOLDER-WITH-NODE-MODULES BASE-URL KEY SCENARIO
import { createRequire } from "node:module";

const [folder, baseURL, apiKey, scenario] = process.argv.slice(2);
const { OpenAI, APIError } = createRequire(`${folder}/package.json`)("openai");
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello." }];
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];
const ask = (fields) => client.chat.completions.create({ model: "small", messages, ...fields });

async function heard(stream) {
  const parts = [];
  for await (const chunk of stream) parts.push(chunk.choices[0]?.delta?.content ?? "");
  return parts.join("");
}

const scenarios = {
  async answer() {
    const { data, response, request_id } = await ask({ model: "auto:best", routing: { explain: true } }).withResponse();
    const expert = response.headers.get("x-pointsman-expert");
    return { model: data.model, text: data.choices[0].message.content, expert, id: request_id };
  },
  async stream() {
    return { text: await heard(await ask({ stream: true })) };
  },
  async tools() {
    const runner = client.chat.completions.stream({ model: "small", messages, tools });
    const answer = await runner.finalChatCompletion();
    return { calls: answer.choices[0].message.tool_calls, usage: answer.usage };
  },
  async leave() {
    const stream = await ask({ stream: true });
    for await (const chunk of stream) if (chunk) break;
    return {};
  },
  async broken() {
    return { text: await heard(await ask({ stream: true })) };
  },
  async unknown() {
    return ask({ model: "gpt-5" });
  },
  async limited() {
    return ask({});
  },
  async responses() {
    const first = await client.responses.create({ model: "small", input: "Say hello." });
    const stream = client.responses.stream({ model: "small", input: "Again.", previous_response_id: first.id });
    const last = await stream.finalResponse();
    const kept = await client.responses.retrieve(last.id);
    await client.responses.delete(first.id);
    const items = [];
    for await (const item of client.responses.inputItems.list(last.id)) items.push(item.content[0].text);
    return { texts: [first.output_text, last.output_text, kept.output_text], previous: kept.previous_response_id === first.id, items };
  },
  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return { ids };
  },
  async embeddings() {
    const answer = await client.embeddings.create({ model: "embed", input: "x" });
    return { vector: answer.data[0].embedding };
  },
};

try {
  console.log(JSON.stringify(await scenarios[scenario]()));
} catch (error) {
  if (!(error instanceof APIError)) throw error;
  console.log(JSON.stringify({ error: error.constructor.name, status: error.status ?? null, code: error.code }));
}
