// Sends one file in pieces. It is hashed first: so the server can tell that all of it arrived as it is, and this page whether it is there.

import { Sha256 } from "./sha256.js";

const PIECE = 4 << 20; // bytes
const LONGEST_PAUSE = 15_000; // milliseconds

onmessage = async ({ data: { file, token } }) => {
  try {
    postMessage({ dataset: await send(file, (path, how) => surely(path, how, token)) });
  } catch (error) {
    postMessage({ fault: error.message });
  }
};

/** Send what the server does not have yet, and return what it says of the whole file. */
async function send(file, ask) {
  const sha256 = await digest(file);
  const known = (await ask("uploads?limit=500")).items.find((each) => each.sha256 === sha256 && each.bytes === file.size);
  const name = file.name.replace(/[\p{Cc}/\\]/gu, "_").slice(-200);
  let upload = known ?? (await ask("uploads", { method: "POST", json: { name, bytes: file.size, sha256 } }));
  while (upload.size < file.size) {
    const piece = file.slice(upload.size, upload.size + PIECE);
    const path = `uploads/${upload.id}`;
    // null: it begins where nothing is awaited, as after a reply that was lost
    upload = (await ask(`${path}?offset=${upload.size}`, { method: "PUT", bytes: piece })) ?? (await ask(path));
    postMessage({ sent: upload.size });
  }
  if (upload.finished === null) await ask(`uploads/${upload.id}/finish`, { method: "POST", json: {} });
  return ask(`datasets/upload/${upload.id}`);
}

async function digest(file) {
  const hash = new Sha256();
  for (let at = 0; at < file.size; at += PIECE) {
    hash.update(new Uint8Array(await file.slice(at, at + PIECE).arrayBuffer()));
    postMessage({ hashed: Math.min(at + PIECE, file.size) });
  }
  return hash.digest();
}

/** Ask until the server has answered. Return null where it says that a piece belongs elsewhere. */
async function surely(path, { method = "GET", json, bytes } = {}, token) {
  const type = bytes ? "application/octet-stream" : "application/json";
  const request = { method, body: bytes ?? (json && JSON.stringify(json)), headers: { "content-type": type, "x-byoai-token": token } };
  for (let pause = 1000; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    let answer;
    try {
      answer = await fetch(`/api/${path}`, request);
    } catch {
      postMessage({ waiting: true });
      await new Promise((done) => setTimeout(done, pause));
      continue;
    }
    const said = await answer.json().catch(() => null);
    if (answer.ok) return said;
    if (answer.status === 409 && answer.headers.has("x-upload-size")) return null;
    throw new Error(said?.error?.message ?? `The server answered ${answer.status} ${answer.statusText}.`);
  }
}
