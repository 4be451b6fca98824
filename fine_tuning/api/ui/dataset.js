// A dataset besides the chats, and what is in it. The page has a part for each: #file-part, #hub-part.

import { counted, element, fill } from "./words.js";

const FORMATS = { jsonl: "jsonl", json: "jsonl", csv: "csv", tsv: "csv", text: "text", parquet: "huggingface" }; // `dataset.format`, by type
const LAYOUTS = ["array", "lines", "table"]; // in which a row is an example
const FAULTS = 3; // that are shown
const LENGTH = 300; // characters of an example that are shown

export const find = (id) => document.getElementById(id);

export class Dataset {
  /** `name` begins the ids of its part of the page. `changed()` is called whenever there is something new to show. */
  constructor(name, changed) {
    this.name = name;
    this.changed = changed;
    this.stored = null; // what the server says of it
    this.fault = "";
  }

  /** How many examples it holds; null where the server did not look at all of it. */
  get examples() {
    const seen = this.stored?.preview;
    return seen?.is_whole && LAYOUTS.includes(seen.layout) ? seen.rows.length : null;
  }

  /** The settings by which a training reads it. */
  get settings() {
    return { "dataset.path": this.stored.path, "dataset.format": FORMATS[this.stored.type] };
  }

  /** The field that has to be filled in first. */
  get field() {
    return find(this.name);
  }

  forget() {
    this.stored = null;
    this.fault = "";
    find(`${this.name}-seen`).hidden = true;
    this.show("");
  }

  /** Take what the server says of the dataset. An archive cannot be learned from. */
  take(dataset) {
    if (!FORMATS[dataset.type]) return this.fail("An archive cannot be learned from: unpack it, and choose the file with the examples.");
    this.stored = dataset;
    this.look(dataset.preview);
    this.changed();
  }

  fail(fault) {
    this.fault = fault;
    this.show(fault);
    this.changed();
  }

  /** Show what its beginning holds. */
  look({ title, rows, faults }) {
    const count = this.examples === null ? "" : `: ${counted(this.examples, "example")}`;
    this.show(`It is there${count} (${title}).`);
    const first = rows.slice(0, 2).map((row, at) => [`Example ${at + 1}`, shown(row)]);
    fill(find(`${this.name}-seen`).querySelector("dl"), first);
    const told = faults.slice(0, FAULTS).map(({ place, reason }) => `To be mended first: ${[place, reason].filter(Boolean).join(": ")}`);
    find(`${this.name}-faults`).replaceChildren(...told.map((text) => element("li", text)));
    find(`${this.name}-seen`).hidden = first.length + faults.length === 0;
  }

  show(text) {
    find(`${this.name}-told`).textContent = text;
  }
}

function shown(row) {
  const text = row && typeof row === "object" ? Object.entries(row).map(([name, value]) => `${name}: ${valueOf(value)}`).join("\n") : valueOf(row);
  return text.length > LENGTH ? `${text.slice(0, LENGTH)}…` : text;
}

const valueOf = (value) => (typeof value === "string" ? value : JSON.stringify(value));
