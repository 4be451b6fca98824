// Requests to the API: JSON in, JSON out, and the token that every change needs.

const read = (name) => document.querySelector(`meta[name="byoai-${name}"]`).content;

export const token = read("token");
export const facts = JSON.parse(read("facts"));

/** The server answered, and refused. Its message says what to do. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const get = (path) => request(path);

export const post = (path, body = {}) =>
  request(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

/**
 * Post until the server has answered: the reply can get lost when the network or the server goes.
 * Only for what is the same when it is asked twice.
 */
export async function postSurely(path, body, waiting) {
  for (let pause = 1000; ; pause = Math.min(2 * pause, 15_000)) {
    try {
      return await post(path, body);
    } catch (error) {
      if (error instanceof Refused) throw error;
      waiting();
      await sleep(pause);
    }
  }
}

export const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Return a name that no other job has. crypto.randomUUID is missing where the page comes over plain HTTP. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return "page-" + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function request(path, options = {}) {
  const headers = { ...options.headers, "x-byoai-token": token };
  const answer = await fetch(`/api/${path}`, { ...options, headers });
  const said = await answer.text();
  if (answer.ok) return JSON.parse(said);
  throw new Refused(answer.status, answer.status === 401 ? "This page is out of date: load it again." : messageIn(said, answer));
}

function messageIn(said, answer) {
  try {
    return JSON.parse(said).error.message;
  } catch {
    return `The server answered ${answer.status} ${answer.statusText}.`;
  }
}
