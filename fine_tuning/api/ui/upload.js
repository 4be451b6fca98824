// A file on its way to the server. Reading, hashing and sending are the worker's: the page stays quick meanwhile.

import { token } from "./api.js";
import { counted, size } from "./words.js";

const find = (id) => document.getElementById(id);

export class Upload {
  /** `changed()` is told whenever there is something new to show. */
  constructor(changed) {
    this.changed = changed;
    this.worker = null;
    this.file = null;
    this.result = null; // what the server says of the whole file
    this.fault = "";
    find("file").onchange = () => this.send(find("file").files[0]);
  }

  get missing() {
    if (this.result) return "";
    if (!this.file) return "Choose a file.";
    return this.fault ? "Choose another file, or the same one again." : "The file is still on its way.";
  }

  get told() {
    return this.file ? `${this.file.name} (${size(this.file.size)})` : "";
  }

  /** The settings by which a training reads the file. */
  get settings() {
    return { "dataset.path": this.result.path, "dataset.format": this.result.format };
  }

  send(file) {
    this.worker?.terminate();
    this.file = file ?? null;
    this.result = null;
    this.fault = "";
    this.show(0, "");
    if (file) {
      this.worker = new Worker("/api/ui/worker.js", { type: "module" });
      this.worker.onmessage = ({ data }) => this.hear(data);
      this.worker.onerror = () => this.hear({ fault: "The file could not be sent: load the page again." });
      this.worker.postMessage({ file, token });
    }
    this.changed();
  }

  hear({ sent, waiting, fault, result }) {
    if (sent !== undefined) this.show(sent / Math.max(this.file.size, 1), `${size(sent)} of ${size(this.file.size)}`);
    if (waiting) this.show(null, "The server did not answer. It is tried again, from where it stopped.");
    if (fault) {
      this.fault = fault;
      this.show(null, fault);
    }
    if (result) {
      this.result = result;
      this.show(null, result.examples == null ? "It is there." : `It is there: ${counted(result.examples, "example")}.`);
    }
    if (fault || result) this.changed();
  }

  show(share, text) {
    find("file-bar").hidden = share === null || !this.file;
    if (share !== null) find("file-bar").value = share;
    find("file-told").textContent = text;
  }
}
