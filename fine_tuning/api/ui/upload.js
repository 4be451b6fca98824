// A file on its way to the server. Reading, hashing and sending are the worker's: the page stays quick meanwhile.

import { token } from "./api.js";
import { Dataset, find } from "./dataset.js";
import { size } from "./words.js";

export class Upload extends Dataset {
  constructor(changed) {
    super("file", changed);
    this.worker = null;
    this.file = null;
    find("file").onchange = () => this.send(find("file").files[0]);
  }

  get missing() {
    if (this.stored) return "";
    if (!this.file) return "Choose a file.";
    return this.fault ? "Choose another file." : "The file is still on its way.";
  }

  get told() {
    return this.file ? `${this.file.name} (${size(this.file.size)})` : "A file, not chosen yet";
  }

  send(file) {
    this.worker?.terminate();
    this.file = file ?? null;
    this.forget();
    if (file?.size === 0) this.fail("The file is empty.");
    else if (file) {
      this.worker = new Worker("/api/ui/worker.js", { type: "module" });
      this.worker.onmessage = ({ data }) => this.hear(data);
      this.worker.onerror = () => this.fail("The file could not be sent: load the page again.");
      this.worker.postMessage({ file, token });
    }
    this.changed();
  }

  hear({ hashed, sent, waiting, fault, dataset }) {
    if (hashed) this.show(`Reading it: ${size(hashed)} of ${size(this.file.size)}`, hashed);
    if (sent) this.show(`Sending it: ${size(sent)} of ${size(this.file.size)}`, sent);
    if (waiting) this.show("The server did not answer. It is tried again, from where it stopped.");
    if (fault) this.fail(fault);
    else if (dataset) this.take(dataset);
  }

  show(text, done = null) {
    find("file-bar").hidden = done === null;
    find("file-bar").value = done === null ? 0 : done / this.file.size;
    super.show(text);
  }
}
