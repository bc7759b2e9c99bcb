// The page at /key: what a key has left, for whoever holds it.
//
// The key is in its field and nowhere else; it is sent in a header, to this Keyhole alone, and
// leaving the page empties it. Text from elsewhere becomes text nodes, never markup.

const $ = (id) => document.getElementById(id);
const url = new URL(".", location.href).href.replace(/\/$/, "");

const NAMES = {
  rpm: "Requests a minute",
  tpm: "Tokens a minute",
  concurrency: "Requests at once",
};
const PERIODS = { hour: "this hour", day: "today (UTC)", month: "this month (UTC)" };

let asking = null;

async function ask() {
  asking?.abort();
  const stopper = new AbortController();
  asking = stopper;
  say("Asking.");
  $("problem").replaceChildren();
  try {
    const told = await fetchKey($("key").value.trim(), stopper.signal);
    show(told);
    say("Shown below.");
  } catch (error) {
    if (stopper.signal.aborted) return;
    $("told").hidden = true;
    say("");
    $("problem").replaceChildren(
      element("p", "words", error.message),
      ...(error.facts ? [element("p", "facts-line", error.facts)] : []),
    );
  }
}

async function fetchKey(key, signal) {
  // A header holds no other characters; the browser's own words for that help nobody.
  if (!/^[\x21-\x7e]+$/.test(key)) throw new Error("That is not a key: it has other characters.");
  let response;
  let text;
  try {
    response = await fetch("v1/key", {
      headers: { authorization: `Bearer ${key}` },
      credentials: "omit",
      cache: "no-store",
      redirect: "error",
      signal,
    });
    text = await response.text();
  } catch (error) {
    throw signal.aborted ? error : new Error("Keyhole cannot be reached.");
  }
  const value = parse(text);
  if (!response.ok || !value) {
    const told = value?.error;
    const error = new Error(told?.message ?? `The answer was ${response.status}.`);
    error.facts = [response.status, told?.code].filter(Boolean).join(" · ");
    throw error;
  }
  return value;
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

// ---- What is told

function show(told) {
  $("name").textContent = told.name;
  $("group").textContent = told.group ? `Group ${told.group}` : "";
  const facts = [
    ["Id", told.id],
    ["Models", told.models.length ? told.models.join(", ") : "all"],
    ["Made", time(told.created_at)],
    ["Ends", told.expires_at ? time(told.expires_at) : "never"],
    ...(told.replaced ? [["Note", "It was replaced: use its successor."]] : []),
  ];
  $("facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]),
  );
  $("limits").replaceChildren(...told.limits.map(limitRow));
  $("no-limits").hidden = told.limits.length > 0;
  $("now").textContent = time(told.now);
  $("told").hidden = false;
}

function limitRow(limit, index) {
  const row = document.createElement("li");
  row.className = limit.remaining > 0 ? "" : "is-over";
  const head = document.createElement("p");
  const name = element("span", "name", limitName(limit));
  name.id = `limit-${index}`;
  const left = `${amount(limit.remaining, limit.unit)} of ${amount(limit.amount, limit.unit)} left`;
  head.append(name, element("span", "left", left));
  const bar = document.createElement("progress");
  bar.max = limit.amount || 1;
  bar.value = limit.amount ? Math.min(limit.used, limit.amount) : 1;
  bar.setAttribute("aria-labelledby", name.id);
  bar.setAttribute("aria-valuetext", left);
  row.append(head, bar, element("p", "small-print", smallPrint(limit)));
  return row;
}

function limitName(limit) {
  if (limit.limit !== "budget") return NAMES[limit.limit] ?? limit.limit;
  return limit.per ? `Budget ${PERIODS[limit.per] ?? limit.per}` : "Budget in total";
}

function smallPrint(limit) {
  const whose = limit.scope === "group" ? "Shared with the whole group. " : "";
  const used = `${amount(limit.used, limit.unit)} used`;
  const again = limit.resets_at ? `, starts anew ${time(limit.resets_at)}` : "";
  return `${whose}${used}${again}.`;
}

function amount(count, unit) {
  if (unit !== "microusd") return count.toLocaleString();
  const dollars = count / 1e6;
  const digits = dollars && Math.abs(dollars) < 0.01 ? 6 : 2;
  return `$${dollars.toLocaleString(undefined, { minimumFractionDigits: 2, maximumFractionDigits: digits })}`;
}

function time(told) {
  const date = new Date(told);
  return Number.isNaN(date.getTime())
    ? "–"
    : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

function element(kind, name, text) {
  const made = document.createElement(kind);
  made.className = name;
  made.textContent = text;
  return made;
}

function say(words) {
  $("status").textContent = words;
}

// ---- The page

/** Neither a page that is left nor one that is come back to holds anything. */
function forget() {
  asking?.abort();
  $("ask").reset();
  for (const id of ["problem", "status", "name", "group", "facts", "limits", "now"]) {
    $(id).replaceChildren();
  }
  $("told").hidden = true;
}

$("address").textContent = url.replace(/^https?:\/\//, "");
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
addEventListener("pagehide", forget);
