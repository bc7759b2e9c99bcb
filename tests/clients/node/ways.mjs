// Runs calls that a test sends as JSON lines, and prints what the client saw: python/loop.py says
// how the lines look. Here with openai and @huggingface/inference, of which two generations are
// about: before 4.13.16 (May 2026) text was asked for as {"inputs"}, since then at /v1/completions.
import readline from "node:readline";
import { InferenceClient } from "@huggingface/inference";
import { InferenceClient as OlderClient } from "@huggingface/inference-before-completions";
import OpenAI from "openai";

const KEY = "client-key"; // as in python/loop.py
const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

class Call {
  constructor(asked) {
    Object.assign(this, asked);
    this.pieces = [];
    this.finish = null;
    this.usage = null;
    this.left = new AbortController();
  }

  get messages() {
    return [{ role: "user", content: this.prompt }];
  }

  get stopping() {
    return this.stop ? { stop: this.stop } : {};
  }

  // Takes a piece of text; whether to leave now.
  heard(text) {
    if (!text) return false;
    this.pieces.push(text);
    if (this.pieces.length === 1 && this.wants_stream) print({ call: this.call, first: true });
    if (this.leaves) this.left.abort();
    return this.leaves;
  }

  counted(usage) {
    if (usage) this.usage = [usage.prompt_tokens, usage.completion_tokens];
  }

  outcome(error) {
    return {
      text: this.pieces.join(""),
      pieces: this.pieces.length,
      finish: this.finish,
      usage: this.usage,
      error: error && {
        kind: error.constructor.name,
        message: String(error.message),
        status: error.status ?? error.httpResponse?.status ?? null,
      },
    };
  }
}

const openai = (call) => new OpenAI({ baseURL: `${call.url}/v1`, apiKey: KEY });
const usageToo = { stream: true, stream_options: { include_usage: true } };

async function openaiChat(call) {
  const asked = { model: call.model, messages: call.messages, max_tokens: call.max_tokens };
  const made = openai(call).chat.completions;
  if (!call.wants_stream) {
    takeChat(call, await made.create({ ...asked, ...call.stopping }));
    return;
  }
  for await (const chunk of await made.create({ ...asked, ...call.stopping, ...usageToo })) {
    if (takeChunk(call, chunk)) return;
  }
}

async function openaiText(call) {
  const asked = { model: call.model, prompt: call.prompt, max_tokens: call.max_tokens };
  const made = openai(call).completions;
  if (!call.wants_stream) {
    takeText(call, await made.create({ ...asked, ...call.stopping }));
    return;
  }
  for await (const chunk of await made.create({ ...asked, ...call.stopping, ...usageToo })) {
    if (takeText(call, chunk)) return;
  }
}

async function openaiModels(call) {
  const { models } = openai(call);
  const listed = (await models.list()).data.map((model) => model.id);
  const found = (await models.retrieve(call.model)).id;
  call.heard(listed.includes(found) ? found : `${found} is not in ${listed}`);
}

class TriedTooOften extends Error {}

// Bounds the resending without end that a 503 starts.
function bounded(call) {
  let tries = 0;
  const fetchBounded = (...asked) => {
    tries += 1;
    if (tries > call.most_tries) throw new TriedTooOften(`${call.most_tries} times`);
    return fetch(...asked);
  };
  return { signal: call.left.signal, fetch: fetchBounded };
}

async function hubChat(call) {
  const asked = {
    endpointUrl: call.url,
    model: call.model,
    messages: call.messages,
    max_tokens: call.max_tokens,
    ...call.stopping,
  };
  const client = new InferenceClient(KEY);
  if (!call.wants_stream) {
    takeChat(call, await client.chatCompletion(asked, bounded(call)));
    return;
  }
  for await (const chunk of client.chatCompletionStream({ ...asked, ...usageToo }, bounded(call))) {
    if (takeChunk(call, chunk)) return;
  }
}

const hubText = (call) => generate(call, new InferenceClient(KEY), call.url);
const hubTextBefore = (call) => generate(call, new OlderClient(KEY), call.url);
const hubTextHosted = (call) =>
  generate(call, new OlderClient(KEY), `${call.url}/models/${call.model}`);

async function generate(call, client, endpointUrl) {
  const parameters = { max_new_tokens: call.max_tokens, ...call.stopping };
  const asked = { endpointUrl, model: call.model, inputs: call.prompt, parameters };
  if (!call.wants_stream) {
    call.heard((await client.textGeneration(asked, bounded(call))).generated_text);
    return;
  }
  for await (const frame of client.textGenerationStream(asked, bounded(call))) {
    if (frame.choices ? takeText(call, frame) : takeToken(call, frame)) return;
  }
}

function takeToken(call, frame) {
  call.finish = frame.details?.finish_reason ?? call.finish;
  return call.heard(frame.token.special ? "" : frame.token.text);
}

function takeChat(call, answer) {
  const [choice] = answer.choices;
  call.heard(choice.message.content);
  call.finish = choice.finish_reason;
  call.counted(answer.usage);
}

function takeChunk(call, chunk) {
  call.counted(chunk.usage);
  for (const choice of chunk.choices) {
    call.finish = choice.finish_reason ?? call.finish;
    if (call.heard(choice.delta.content)) return true;
  }
  return false;
}

function takeText(call, answer) {
  call.counted(answer.usage);
  for (const choice of answer.choices) {
    call.finish = choice.finish_reason ?? call.finish;
    if (call.heard(choice.text)) return true;
  }
  return false;
}

const ways = {
  openai_chat: openaiChat,
  openai_text: openaiText,
  openai_models: openaiModels,
  hub_chat: hubChat,
  hub_text: hubText,
  hub_text_before: hubTextBefore,
  hub_text_hosted: hubTextHosted,
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const call = new Call(JSON.parse(line));
  ways[call.way](call)
    .then(() => null, (error) => error)
    .then((error) => print({ call: call.call, outcome: call.outcome(error) }));
}
