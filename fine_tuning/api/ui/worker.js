// Sends one file in pieces, and hashes it on the way, so that the server can tell that all of it arrived as it was.

import { Sha256 } from "./sha256.js";

const PIECE = 4 << 20; // bytes
const LONGEST_PAUSE = 15_000; // milliseconds

onmessage = async ({ data: { file, token } }) => {
  try {
    postMessage({ result: await send(file, token) });
  } catch (error) {
    postMessage({ fault: error.message });
  }
};

async function send(file, token) {
  const ask = (method, path, type, body) => surely(`/api/uploads${path}`, { method, body, headers: { "content-type": type, "x-byoai-token": token } });
  const upload = await ask("POST", "", "application/json", JSON.stringify({ name: file.name, size: file.size }));
  const hash = new Sha256();
  for (let at = 0; at < file.size; ) {
    const piece = new Uint8Array(await file.slice(at, at + PIECE).arrayBuffer());
    await ask("PUT", `/${upload.id}?offset=${at}`, "application/octet-stream", piece);
    hash.update(piece);
    at += piece.length;
    postMessage({ sent: at });
  }
  return ask("POST", `/${upload.id}/finish`, "application/json", JSON.stringify({ sha256: hash.digest() }));
}

/** Ask until the server has answered. */
async function surely(address, request) {
  for (let pause = 1000; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    let answer;
    try {
      answer = await fetch(address, request);
    } catch {
      postMessage({ waiting: true });
      await new Promise((done) => setTimeout(done, pause));
      continue;
    }
    const said = await answer.json().catch(() => null);
    if (answer.ok) return said;
    throw new Error(said?.error?.message ?? `The server answered ${answer.status} ${answer.statusText}.`);
  }
}
