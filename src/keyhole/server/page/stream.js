// One call of POST /generate with "stream": true, frame by frame; it touches nothing on the page.

/** A call that failed, in words. */
export class Failure extends Error {
  constructor(words, { detail = "", code = "", requestId = "", status = 0, retryAfter = "" } = {}) {
    super(words);
    Object.assign(this, { detail, code, requestId, status, retryAfter });
  }
}

/**
 * Sends the call and yields its frames: first {requestId}, then {text} for each piece, then
 * {done, generated_text, usage}. Throws Failure, or an AbortError where `signal` stopped it.
 */
export async function* generate(call, { key, signal }) {
  let response;
  try {
    response = await fetch("generate", {
      method: "POST",
      headers: headers(key, { "content-type": "application/json" }),
      body: JSON.stringify({ ...call, stream: true }),
      cache: "no-store",
      signal,
    });
  } catch (error) {
    throw unlessStopped(error, signal, "Keyhole cannot be reached. Is it still running?");
  }
  const requestId = response.headers.get("x-request-id") ?? "";
  if (!response.ok) throw await refusal(response, requestId);
  yield { requestId };
  let isDone = false;
  try {
    for await (const frame of frames(response.body)) {
      if ("error" in frame) throw told(frame, { requestId });
      yield frame;
      isDone ||= frame.done === true;
    }
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw unlessStopped(error, signal, "The connection broke off before the end.", { requestId });
  }
  if (!isDone) throw new Failure("The stream ended before its last frame.", { requestId });
}

/** The names of the models, or null where they are not told. */
export async function listModels(key) {
  const response = await fetch("v1/models", { headers: headers(key), cache: "no-store" });
  if (!response.ok) throw await refusal(response, response.headers.get("x-request-id") ?? "");
  return (await response.json()).data.map((model) => model.id);
}

/** Each frame's data, as JSON; comments and other fields are passed over. */
async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield parse(lines.map((line) => line.slice(5)).join("\n"));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(data) {
  let frame;
  try {
    frame = JSON.parse(data);
  } catch {
    throw new Failure("The stream held something that is not JSON.");
  }
  if (frame === null || typeof frame !== "object") {
    throw new Failure("The stream held something that is no frame.");
  }
  return frame;
}

async function refusal(response, requestId) {
  const facts = {
    requestId,
    status: response.status,
    retryAfter: response.headers.get("retry-after") ?? "",
  };
  const body = await response.json().catch(() => null);
  if (body?.error) return told(body, facts);
  return new Failure(`The server answered ${response.status} and did not say why.`, facts);
}

function told(body, facts) {
  const error = typeof body.error === "object" ? body.error : { message: body.error };
  return new Failure(String(error.message), {
    ...facts,
    code: body.code ?? error.code ?? "",
    detail: body.detail ?? "",
    requestId: body.request_id ?? facts.requestId,
  });
}

function unlessStopped(error, signal, words, facts) {
  return signal.aborted ? error : new Failure(words, facts);
}

function headers(key, others = {}) {
  return key ? { ...others, authorization: `Bearer ${key}` } : others;
}
