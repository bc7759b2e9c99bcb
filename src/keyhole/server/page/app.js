// The page: the form, the answer as it streams in, the snippets.
//
// It keeps nothing: no storage, no cookie, no history; leaving the page empties it. Text from
// elsewhere becomes text nodes, never markup.
import { OTHER, readCall } from "./call.js";
import { makeSnippets } from "./snippets.js";
import { Failure, generate, listModels } from "./stream.js";
import { Timing } from "./timing.js";

const $ = (id) => document.getElementById(id);
const url = new URL(".", location.href).href.replace(/\/$/, "");

let running = null;
let language = "curl";

// ---- The call

async function send() {
  if (running) return;
  const stopper = new AbortController();
  const timing = new Timing();
  running = stopper;
  begin();
  let usage = null;
  try {
    for await (const frame of generate(readCall(), { key: key(), signal: stopper.signal })) {
      if (frame.requestId) $("request-id").textContent = frame.requestId;
      if (frame.text) {
        timing.piece();
        write(frame.text);
        showNumbers(timing);
      }
      if (frame.done) {
        usage = frame.usage;
        // An upstream that cannot stream gives everything at the end.
        if (!timing.pieces && frame.generated_text) write(frame.generated_text);
      }
    }
    end("done", "Done");
  } catch (error) {
    if (stopper.signal.aborted) end("stopped", "Stopped");
    else showProblem(error);
  } finally {
    running = null;
    setRunning(false);
    showNumbers(timing, usage);
  }
}

function begin() {
  for (const id of ["spoken", "unspoken", "problem", "request-id"]) $(id).replaceChildren();
  $("answer").dataset.state = "waiting";
  $("status").textContent = "Waiting for the first token";
  for (const id of ["numbers", "copy-answer"]) $(id).hidden = true;
  setRunning(true);
}

function end(state, words) {
  speakUpTo($("unspoken").textContent.length);
  $("answer").dataset.state = state;
  $("status").textContent = words;
  $("copy-answer").hidden = !$("spoken").textContent;
}

// Not `disabled`, which would take the focus away from whoever has just pressed it.
function setRunning(isRunning) {
  $("send").setAttribute("aria-disabled", String(isRunning));
  $("stop").setAttribute("aria-disabled", String(!isRunning));
}

// ---- The answer

/**
 * What is read aloud comes in whole sentences: pieces of words would be spelled out one by one.
 * Both parts look the same.
 */
function write(text) {
  if ($("answer").dataset.state === "waiting") {
    $("answer").dataset.state = "streaming";
    $("status").textContent = "Writing";
  }
  $("unspoken").append(text);
  const unspoken = $("unspoken").textContent;
  const ends = [...unspoken.matchAll(/[.!?…。！？]["'”’)]*\s|\n/g)];
  if (ends.length) speakUpTo(ends.at(-1).index + ends.at(-1)[0].length);
}

function speakUpTo(length) {
  const unspoken = $("unspoken").textContent;
  if (!length) return;
  const sentence = document.createElement("span");
  sentence.textContent = unspoken.slice(0, length);
  $("spoken").append(sentence);
  $("unspoken").textContent = unspoken.slice(length);
}

function showProblem(error) {
  const failure = error instanceof Failure ? error : new Failure(`The page failed: ${error.message}`);
  end("failed", "Failed");
  const facts = [failure.status || "", failure.code].filter(Boolean).join(" · ");
  // Keyhole's own words say when; those of a proxy in between need not.
  const isTimeTold = !failure.retryAfter || /\bTry again (?:in|after)\b/.test(failure.detail);
  $("problem").replaceChildren(
    paragraph(failure.message, "words"),
    ...(failure.detail ? [paragraph(failure.detail)] : []),
    ...(isTimeTold ? [] : [paragraph(`Worth another try: ${when(failure.retryAfter)}.`)]),
    ...(facts ? [paragraph(facts, "facts")] : []),
  );
  $("request-id").textContent = failure.requestId;
}

function when(retryAfter) {
  return /^\d+$/.test(retryAfter) ? `in ${retryAfter} s` : retryAfter;
}

function paragraph(text, name = "") {
  const made = document.createElement("p");
  made.className = name;
  made.textContent = text;
  return made;
}

function showNumbers(timing, usage) {
  const isCounted = Number.isFinite(usage?.completion_tokens);
  const rate = timing.rate(isCounted ? usage.completion_tokens : undefined);
  $("first-token").textContent = timing.firstMs === null ? "–" : duration(timing.firstMs);
  $("rate-name").textContent = isCounted ? "Tokens per second" : "Pieces per second";
  $("rate").textContent = rate === null ? "–" : rate.toFixed(rate < 100 ? 1 : 0);
  $("count-name").textContent = isCounted ? "Tokens" : "Pieces";
  $("count").textContent = isCounted
    ? `${usage.prompt_tokens} in, ${usage.completion_tokens} out`
    : timing.pieces;
  $("duration").textContent = duration(timing.elapsedMs);
  for (const number of $("numbers").querySelectorAll("[data-of-text]")) {
    number.hidden = !timing.pieces && !isCounted;
  }
  $("request-id").closest("div").hidden = !$("request-id").textContent;
  $("numbers").hidden = false;
}

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}

// ---- The models

async function showModels() {
  let names = ["default"];
  let note = "";
  try {
    names = await listModels(key());
  } catch (error) {
    note = `The models could not be listed. ${error.message}`;
  }
  const select = $("model");
  const chosen = select.value;
  const options = names.filter((name) => !name.includes("*")).map(modelOption);
  options.sort((one, other) => Boolean(one.value) - Boolean(other.value));
  select.replaceChildren(...options, select.lastElementChild);
  select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
  $("model-note").textContent = note;
  $("model-note").hidden = !note;
  changed();
}

/** The default is what a call gets that names no model, so it is not named. */
function modelOption(name) {
  return new Option(name, name === "default" ? "" : name);
}

// ---- The snippets

function snippets() {
  return makeSnippets(readCall(), { url, hasKey: Boolean(key()) });
}

function makeTabs() {
  for (const { id, name } of snippets()) {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.id = `tab-${id}`;
    tab.textContent = name;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "code");
    tab.addEventListener("click", () => showLanguage(id));
    $("languages").append(tab);
  }
  $("languages").addEventListener("keydown", moveAlongTabs);
}

// https://www.w3.org/WAI/ARIA/apg/patterns/tabs/, read 2026-11: arrows move, Tab leaves.
function moveAlongTabs(event) {
  const tabs = [...$("languages").children];
  const at = tabs.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const tab = tabs[(to + tabs.length) % tabs.length];
  tab.focus();
  tab.click();
}

function showLanguage(id) {
  language = id;
  for (const tab of $("languages").children) {
    const isChosen = tab.id === `tab-${id}`;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
  }
  $("code").setAttribute("aria-labelledby", `tab-${id}`);
  $("code-text").parentElement.scrollLeft = 0;
  showCode();
}

function showCode() {
  const { code, note } = snippets().find(({ id }) => id === language);
  $("code-text").textContent = code;
  $("code-note").textContent = note;
  $("key-code-note").hidden = !key();
}

// ---- Copying

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP, other than on this machine, browsers have no clipboard object.
    if (!copyByCommand(text, button)) {
      $("copied").textContent = "The browser did not allow copying.";
      return;
    }
  }
  const words = button.firstChild;
  words.textContent = "Copied";
  $("copied").textContent = "Copied.";
  setTimeout(() => {
    words.textContent = "Copy";
    $("copied").textContent = "";
  }, 1500);
}

function copyByCommand(text, button) {
  const area = document.createElement("textarea");
  area.className = "unseen";
  area.value = text;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  button.focus();
  return isCopied;
}

// ---- The form

function key() {
  return $("key").value.trim();
}

function changed() {
  const isOther = $("model").value === OTHER;
  $("other-model").hidden = !isOther;
  $("other-model").required = isOther;
  showCode();
}

function listen() {
  $("call").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("stop").addEventListener("click", () => running?.abort());
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") running?.abort();
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    $("call").requestSubmit();
  });
  for (const control of $("call").elements) {
    control.addEventListener("input", changed);
    // A field that is folded away could not show what is wrong with it.
    control.addEventListener("invalid", () => {
      if ($("settings").contains(control)) $("settings").open = true;
    });
  }
  $("model").addEventListener("change", () => {
    if (!$("other-model").hidden) $("other-model").focus();
  });
  $("key").addEventListener("change", showModels);
  $("copy-answer").addEventListener("click", () => copy($("spoken").textContent, $("copy-answer")));
  $("copy-code").addEventListener("click", () => copy($("code-text").textContent, $("copy-code")));
  addEventListener("pagehide", forget);
}

/** Neither a page that is left nor one that is come back to holds anything. */
function forget() {
  running?.abort();
  $("call").reset();
  for (const id of ["spoken", "unspoken", "problem", "request-id", "status"]) $(id).replaceChildren();
  for (const id of ["numbers", "copy-answer"]) $(id).hidden = true;
  $("answer").dataset.state = "empty";
  changed();
}

function start() {
  $("address").textContent = url.replace(/^https?:\/\//, "");
  if (/Mac|iPhone|iPad/.test(navigator.platform)) $("send-keys").textContent = "⌘ ↵";
  $("settings").open = matchMedia("(min-width: 56rem)").matches;
  listen();
  makeTabs();
  showLanguage(language);
  showModels();
}

start();
