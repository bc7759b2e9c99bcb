// The same call for other clients, ready to paste. Pure: a call in, text out.
//
// JSON's strings and numbers are Python's and JavaScript's too; its true, false and null never
// occur in a Python snippet. A key is never written out: code reads it from KEYHOLE_KEY.

const DEFAULT_MODEL = "default";
const EXAMPLE = "Once upon a time";

/** [{id, name, note, code}] for a call {input, model?, parameters?} to the Keyhole at `url`. */
export function makeSnippets(asked, { url, hasKey }) {
  const call = { ...asked, input: asked.input || EXAMPLE };
  const snippet = (id, name, note, write) => ({ id, name, note, code: write(call, url, hasKey) });
  return [
    snippet("curl", "curl", "The answer in one piece", curl),
    snippet("curl-stream", "curl -N", "Piece by piece, as server-sent events", curlStream),
    snippet("openai", "Python · openai", "Piece by piece", openai),
    snippet("hub", "Python · huggingface_hub", "Piece by piece", hub),
    snippet("javascript", "JavaScript", "Piece by piece; Node 18 or a browser", javascript),
    snippet("script", "Flask script", "As clients of the original script call it", script),
  ];
}

function curl(call, url, hasKey, options = "") {
  return [
    `curl ${options}${quoted(`${url}/generate`)} \\`,
    ...(hasKey ? [`  -H "Authorization: Bearer $KEYHOLE_KEY" \\`] : []),
    `  -H 'Content-Type: application/json' \\`,
    `  -d ${quoted(object(call, "  "))}`,
  ].join("\n");
}

function curlStream(call, url, hasKey) {
  return curl({ ...call, stream: true }, url, hasKey, "-N ");
}

function openai(call, url, hasKey) {
  const { max_new_tokens, ...others } = call.parameters ?? {};
  const named = {
    model: call.model ?? DEFAULT_MODEL,
    prompt: call.input,
    ...(max_new_tokens === undefined ? {} : { max_tokens: max_new_tokens }),
    ...others,
  };
  return [
    "# pip install openai",
    ...(hasKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${text(`${url}/v1`)}, api_key=${pythonKey(hasKey)})`,
    "stream = client.completions.create(",
    ...pythonArguments(named),
    "    stream=True,",
    ")",
    "for chunk in stream:",
    "    if chunk.choices:",
    '        print(chunk.choices[0].text, end="", flush=True)',
  ].join("\n");
}

function hub(call, url, hasKey) {
  const path = (call.model ?? DEFAULT_MODEL).split("/").map(encodeURIComponent).join("/");
  return [
    "# pip install huggingface_hub",
    ...(hasKey ? ["import os", ""] : []),
    "from huggingface_hub import InferenceClient",
    "",
    // Without a key of its own the client would send the user's Hugging Face token.
    `client = InferenceClient(${text(`${url}/models/${path}`)}, token=${pythonKey(hasKey)})`,
    "pieces = client.text_generation(",
    `    ${text(call.input)},`,
    ...pythonArguments(call.parameters ?? {}),
    // Without details the client prints the token that ends a text, such as </s>, too.
    "    details=True,",
    "    stream=True,",
    ")",
    "for piece in pieces:",
    "    if not piece.token.special:",
    '        print(piece.token.text, end="", flush=True)',
  ].join("\n");
}

function javascript(call, url, hasKey) {
  const headers = hasKey
    ? [
        "  headers: {",
        '    "Content-Type": "application/json",',
        "    Authorization: `Bearer ${process.env.KEYHOLE_KEY}`,",
        "  },",
      ]
    : ['  headers: { "Content-Type": "application/json" },'];
  return [
    `const response = await fetch(${text(`${url}/generate`)}, {`,
    '  method: "POST",',
    ...headers,
    `  body: JSON.stringify(${object({ ...call, stream: true }, "  ")}),`,
    "});",
    "if (!response.ok) throw new Error((await response.json()).error);",
    "",
    'let rest = "";',
    "for await (const bytes of response.body.pipeThrough(new TextDecoderStream())) {",
    '  const frames = (rest + bytes).split("\\n\\n");',
    "  rest = frames.pop();",
    '  for (const frame of frames.filter((frame) => frame.startsWith("data: "))) {',
    "    const { text, error } = JSON.parse(frame.slice(6));",
    "    if (error) throw new Error(error);",
    "    if (text) console.log(text);",
    "  }",
    "}",
  ].join("\n");
}

function script(call, url, hasKey) {
  return [
    "# pip install requests",
    ...(hasKey ? ["import os", ""] : []),
    "import requests",
    "",
    `url = ${text(url)}`,
    "response = requests.post(",
    '    url + "/generate",',
    ...(hasKey ? ['    headers={"Authorization": "Bearer " + os.environ["KEYHOLE_KEY"]},'] : []),
    `    json=${object(call, "    ", "    ")},`,
    ")",
    "response.raise_for_status()",
    'print(response.json()[0]["generated_text"])',
  ].join("\n");
}

function pythonKey(hasKey) {
  return hasKey ? 'os.environ["KEYHOLE_KEY"]' : '"not-needed"';
}

function pythonArguments(named) {
  return Object.entries(named).map(([name, value]) => `    ${name}=${line(value)},`);
}

/** An object with each field on a line of its own, behind `margin`; a single one stays inline. */
function object(value, margin, step = "  ") {
  const fields = Object.entries(value);
  if (fields.length === 1) return line(value);
  const lines = fields.map(([name, each]) => `${margin}${step}${text(name)}: ${line(each)}`);
  return `{\n${lines.join(",\n")}\n${margin}}`;
}

/** JSON on one line, with a space after each colon and comma. */
function line(value) {
  if (Array.isArray(value)) return `[${value.map(line).join(", ")}]`;
  if (typeof value !== "object") return text(value);
  const fields = Object.entries(value).map(([name, each]) => `${text(name)}: ${line(each)}`);
  return `{${fields.join(", ")}}`;
}

function text(value) {
  return JSON.stringify(value);
}

/** As one word for a POSIX shell. */
function quoted(value) {
  return /^[\w:/.@%+=,-]+$/.test(value) ? value : `'${value.replaceAll("'", `'\\''`)}'`;
}
