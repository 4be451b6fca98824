// A dataset of Hugging Face, by its name. A job of the server fetches it.

import { get, newId, post, postSurely, sleep } from "./api.js";
import { Dataset, find } from "./dataset.js";
import { isOver } from "./words.js";

const PAUSE = 1000; // milliseconds between two looks at the job

export class Hub extends Dataset {
  constructor(changed) {
    super("hub", changed);
    this.asked = ""; // the name that is fetched, or was
    this.job = "";
    find("hub-fetch").onclick = () => this.fetch(find("hub").value.trim());
  }

  get missing() {
    if (this.stored) return "";
    if (!this.asked || this.fault) return "Name a dataset, and fetch it.";
    return "The dataset is still being fetched.";
  }

  get told() {
    return this.asked ? `${this.asked} of Hugging Face` : "A dataset of Hugging Face, not fetched yet";
  }

  async fetch(name) {
    const before = this.job;
    const id = (this.job = newId());
    this.asked = name;
    this.forget();
    this.show("The dataset is being downloaded.");
    this.changed();
    if (before) post(`jobs/${before}/cancel`).catch(() => {}); // nobody waits for it any more
    try {
      const dataset = await this.fetched(id, name);
      if (id === this.job) this.take(dataset);
    } catch (error) {
      if (id === this.job) this.fail(error.message);
    }
  }

  /** Return the dataset once a job has fetched it. */
  async fetched(id, name) {
    let job = await postSurely("datasets/fetch", { name, id }, () => this.show("The server did not answer. It is asked again."));
    while (!isOver(job)) {
      await sleep(PAUSE);
      job = await get(`jobs/${id}`);
    }
    if (job.state !== "completed") throw new Error(job.reason);
    const { dataset } = await get(`jobs/${id}/result`);
    return get(`datasets/prepared/${dataset}`);
  }
}
