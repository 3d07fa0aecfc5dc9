/** The service as the page sees it: its methods, its event streams, and what can go wrong with them. */

const LONGEST_WAIT_S = 15; // between tries to find a lost server
const PATIENCE_S = 300; // of waits for one request; a server that starts may take a minute
const KEY = "trilemma-key"; // in the session's storage

/** An answer that is a problem (RFC 9457). */
export class Problem extends Error {
  constructor(body, retryAfter) {
    super(body.detail ?? body.title);
    Object.assign(this, { title: body.title, status: body.status, errors: body.errors ?? [] });
    this.retryAfterS = /^\d+$/.test(retryAfter ?? "") ? Number(retryAfter) : undefined;
  }
}

/** The connection was lost, before the answer or in it. */
export class Lost extends Error {}

export function key() {
  return sessionStorage.getItem(KEY);
}

export function setKey(value) {
  sessionStorage.setItem(KEY, value);
}

/** What is served. Throws Problem or Lost. */
export async function methods() {
  return (await ask("methods")).json();
}

/** How far along the service is; an answer 503 says it too. */
export async function readiness() {
  return (await fetch("readyz").catch(lost)).json();
}

/** The metrics' text. */
export async function metrics() {
  return (await ask("metrics")).text();
}

/** The answer's file in another form, such as image/png. Throws Problem or Lost. */
export async function file(body, type) {
  return (await post(body, type)).blob();
}

/** The starting noise of an image: the service's JSON. Throws Problem or Lost. */
export async function invert(fields, signal) {
  return (await post(JSON.stringify(fields), "application/json", signal, "invert")).json();
}

/**
 * The events of a request, `{event, data}`: what the service sends, and `waiting` with `{error, seconds}` before it is
 * asked again, which is harmless, as the same request gives the same images. Throws the Problem or Lost that remains.
 */
export async function* events(body, signal) {
  let waitedS = 0;
  for (let tries = 0; ; tries++) {
    try {
      yield* attempt(body, signal);
      return;
    } catch (error) {
      const seconds = pause(error, tries);
      if (signal.aborted || seconds === undefined || waitedS + seconds > PATIENCE_S) throw error;
      waitedS += seconds;
      yield { event: "waiting", data: { error, seconds } };
      await sleep(seconds, signal);
    }
  }
}

/** How long to wait before asking again; undefined where that is of no use. */
function pause(error, tries) {
  if (error instanceof Lost) return Math.min(2 ** tries, LONGEST_WAIT_S);
  return error.retryAfterS && Math.max(1, error.retryAfterS);
}

async function* attempt(body, signal) {
  const answer = await post(body, "text/event-stream", signal);
  for await (const { event, data } of parse(answer.body)) {
    if (event === "error") throw new Problem(data);
    yield { event, data };
    if (event === "completed") return;
  }
  throw new Lost("The stream ended before the images were finished.");
}

/** Server-sent events of a body: https://html.spec.whatwg.org/#parsing-an-event-stream, with JSON as data. */
export async function* parse(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let unread = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(lost);
      if (done) return;
      const blocks = (unread + value).split("\n\n");
      unread = blocks.pop();
      for (const block of blocks) {
        const fields = block
          .split("\n")
          .map((line) => line.match(/^(\w+): ?(.*)$/))
          .filter(Boolean);
        const data = fields.filter(([, name]) => name === "data").map(([, , value]) => value);
        const event = fields.find(([, name]) => name === "event")?.[2] ?? "message";
        if (data.length) yield { event, data: JSON.parse(data.join("\n")) };
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // lets go of the connection, and so of the rows
  }
}

function post(body, accept, signal, path = "generate") {
  const headers = { "Content-Type": "application/json", Accept: accept };
  return ask(path, { method: "POST", headers, body, signal });
}

async function ask(path, { headers = {}, ...options } = {}) {
  const authorization = key() ? { Authorization: `Bearer ${key()}` } : {};
  const answer = await fetch(path, { ...options, headers: { ...headers, ...authorization } }).catch(lost);
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({ title: answer.statusText, status: answer.status }));
  throw new Problem(body, answer.headers.get("Retry-After"));
}

function lost(error) {
  throw error.name === "AbortError" ? error : new Lost("The server does not answer.");
}

function sleep(seconds, signal) {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    const stop = () => (clearTimeout(timer), reject(signal.reason));
    signal.addEventListener("abort", stop, { once: true });
  });
}
