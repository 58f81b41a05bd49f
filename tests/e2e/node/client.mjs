// Does everything that a client does, and prints what came of it as one JSON object.
// node client.mjs BASE_URL KEY

import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const prompt = "The function returns";
const messages = [{ role: "user", content: "What is a trait?" }];

/** What the client makes of an error: its own class, and the fields that it reads from the envelope. */
async function refusal(request) {
  try {
    await request();
  } catch (error) {
    return { class: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
  return null;
}

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const models = [];
for await (const model of client.models.list()) models.push(model.id);

const sampled = { model: "demo", prompt, max_tokens: 40, seed: 3 };
const completion = await client.completions.create({ ...sampled, logprobs: 2 });
const completionChunks = await collect(
  await client.completions.create({ ...sampled, stream: true, stream_options: { include_usage: true } }),
);

const asked = { model: "demo", messages, max_completion_tokens: 40, seed: 3 };
const chat = await client.chat.completions.create({ ...asked, logprobs: true, top_logprobs: 2 });
const chatChunks = await collect(await client.chat.completions.create({ ...asked, stream: true }));

const greedy = { model: "demo", prompt, max_tokens: 40, temperature: 0 };
const free = (await client.completions.create(greedy)).choices[0].text;
const stop = free.slice(free.length / 2, free.length / 2 + 3);
const stopped = (await client.completions.create({ ...greedy, stop })).choices[0];

const errors = {
  model: await refusal(() => client.completions.create({ model: "gpt-4o", prompt })),
  context: await refusal(() => client.completions.create({ model: "demo", prompt: "word ".repeat(5000) })),
  key: await refusal(() => new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 }).models.list()),
};

let partsBeforeLeaving = 0;
const long = await client.completions.create({ model: "demo", prompt, max_tokens: 1900, stream: true, ignore_eos: true });
for await (const _ of long) {
  partsBeforeLeaving += 1;
  break; // closes the connection
}

console.log(
  JSON.stringify({
    models, completion, completionChunks, chat, chatChunks, free, stop, stopped, errors, partsBeforeLeaving,
  }),
);
