// A file on its way to the server, and what is in it. Reading, hashing and sending are the worker's: the page stays quick meanwhile.

import { token } from "./api.js";
import { counted, element, fill, size } from "./words.js";

const FORMATS = { jsonl: "jsonl", json: "jsonl", csv: "csv", tsv: "csv", text: "text", parquet: "huggingface" }; // `dataset.format`, by type
const LAYOUTS = ["array", "lines", "table"]; // in which a row is an example
const FAULTS = 3; // that are shown
const LENGTH = 300; // characters of an example that are shown

const find = (id) => document.getElementById(id);

export class Upload {
  /** `changed()` is told whenever there is something new to show. */
  constructor(changed) {
    this.changed = changed;
    this.worker = null;
    this.file = null;
    this.dataset = null; // what the server says of the whole file
    this.fault = "";
    find("file").onchange = () => this.send(find("file").files[0]);
  }

  get missing() {
    if (this.dataset) return "";
    if (!this.file) return "Choose a file.";
    return this.fault ? "Choose another file." : "The file is still on its way.";
  }

  get told() {
    return this.file ? `${this.file.name} (${size(this.file.size)})` : "";
  }

  /** How many examples it holds; null where the server did not look at all of it. */
  get examples() {
    const seen = this.dataset?.preview;
    return seen?.is_whole && LAYOUTS.includes(seen.layout) ? seen.rows.length : null;
  }

  /** The settings by which a training reads the file. */
  get settings() {
    return { "dataset.path": this.dataset.path, "dataset.format": FORMATS[this.dataset.type] };
  }

  send(file) {
    this.worker?.terminate();
    this.file = file ?? null;
    this.dataset = null;
    this.fault = "";
    find("file-seen").hidden = true;
    this.show("");
    if (file?.size === 0) this.hear({ fault: "The file is empty." });
    else if (file) {
      this.worker = new Worker("/api/ui/worker.js", { type: "module" });
      this.worker.onmessage = ({ data }) => this.hear(data);
      this.worker.onerror = () => this.hear({ fault: "The file could not be sent: load the page again." });
      this.worker.postMessage({ file, token });
    }
    this.changed();
  }

  hear({ hashed, sent, waiting, fault, dataset }) {
    if (hashed) this.show(`Reading it: ${size(hashed)} of ${size(this.file.size)}`, hashed);
    if (sent) this.show(`Sending it: ${size(sent)} of ${size(this.file.size)}`, sent);
    if (waiting) this.show("The server did not answer. It is tried again, from where it stopped.");
    if (dataset && !FORMATS[dataset.type]) fault = "An archive cannot be learned from: unpack it, and choose the file with the examples.";
    if (fault) {
      this.fault = fault;
      this.show(fault);
    } else if (dataset) {
      this.dataset = dataset;
      this.look(dataset.preview);
    }
    if (fault || dataset) this.changed();
  }

  /** Show what the file's beginning holds. */
  look({ title, rows, faults }) {
    const count = this.examples === null ? "" : `: ${counted(this.examples, "example")}`;
    this.show(`It is there${count} (${title}).`);
    const first = rows.slice(0, 2).map((row, at) => [`Example ${at + 1}`, shown(row)]);
    fill(find("file-seen").querySelector("dl"), first);
    const told = faults.slice(0, FAULTS).map(({ place, reason }) => `To be mended first: ${[place, reason].filter(Boolean).join(": ")}`);
    find("file-faults").replaceChildren(...told.map((text) => element("li", text)));
    find("file-seen").hidden = first.length + faults.length === 0;
  }

  show(text, done = null) {
    find("file-bar").hidden = done === null;
    find("file-bar").value = done === null ? 0 : done / this.file.size;
    find("file-told").textContent = text;
  }
}

function shown(row) {
  const text = row && typeof row === "object" ? Object.entries(row).map(([name, value]) => `${name}: ${valueOf(value)}`).join("\n") : valueOf(row);
  return text.length > LENGTH ? `${text.slice(0, LENGTH)}…` : text;
}

const valueOf = (value) => (typeof value === "string" ? value : JSON.stringify(value));
