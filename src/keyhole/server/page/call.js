// What the form says, as the body of POST /generate. What is left empty is not sent.

/** The option for a model that is not in the list; no model's name is a slash. */
export const OTHER = "/";

const NUMBERS = {
  max_new_tokens: "max-new-tokens",
  temperature: "temperature",
  top_p: "top-p",
  seed: "seed",
};

/** The call: {input, model?, parameters?}. */
export function readCall() {
  const call = { input: element("prompt").value };
  const model = readModel();
  if (model) call.model = model;
  const parameters = readParameters();
  if (Object.keys(parameters).length) call.parameters = parameters;
  return call;
}

function readModel() {
  const chosen = element("model").value;
  return chosen === OTHER ? element("other-model").value.trim() : chosen;
}

function readParameters() {
  const parameters = {};
  for (const [name, id] of Object.entries(NUMBERS)) {
    const value = element(id).valueAsNumber;
    if (!Number.isNaN(value)) parameters[name] = value;
  }
  const stop = element("stop-texts").value.split("\n").filter(Boolean).map(unescaped);
  if (stop.length) parameters.stop = stop;
  return parameters;
}

function unescaped(line) {
  const meant = { n: "\n", r: "\r", t: "\t", "\\": "\\" };
  return line.replace(/\\([nrt\\])/g, (_, letter) => meant[letter]);
}

function element(id) {
  return document.getElementById(id);
}
