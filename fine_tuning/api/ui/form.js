// What a training is asked for: the form, its faults in plain words, the summary, and the request that comes of it.

import { facts, get, newId, postSurely } from "./api.js";
import { Presets } from "./presets.js";
import { Hub } from "./hub.js";
import { Upload } from "./upload.js";
import { counted, element, fill, size } from "./words.js";

const ASKED = "asked"; // in this tab's storage: the id of a training whose reply has not come yet
const find = (id) => document.getElementById(id);

export class Form {
  /** `started(id)` is told of the job that was begun. */
  constructor(started) {
    this.started = started;
    this.form = find("form");
    this.fields = [...this.form.querySelectorAll("[data-setting]")].map((field) => new Field(field));
    this.datasets = { file: new Upload(() => this.draw()), hub: new Hub(() => this.draw()) };
    this.presets = new Presets((values) => this.take(values));
    this.defaults = null;
    this.running = null; // a training that is not over
    this.sending = false;
    find("chats-told").textContent = chatsTold(facts.chats);
    find("method").onchange = () => this.draw();
    find("base").onchange = () => this.draw();
    find("reset").onclick = () => this.reset();
    for (const radio of this.form.elements.source) radio.onchange = () => this.draw();
    for (const field of this.fields) field.input.oninput = () => this.draw();
    this.form.onsubmit = (event) => {
      event.preventDefault();
      this.submit();
    };
    this.offer([]);
    this.draw();
    this.findModels();
  }

  get source() {
    return this.form.elements.source.value;
  }

  /** The chosen dataset; undefined where the chats are learned. */
  get dataset() {
    return this.datasets[this.source];
  }

  /** How many examples there are to learn; null where nobody knows yet. */
  get examples() {
    return this.dataset ? this.dataset.examples : facts.chats.turns;
  }

  /** Whether what is learned is mostly made of documents: the server then takes the profile for them. */
  get handbook() {
    return !this.dataset && facts.chats.handbook;
  }

  get few() {
    return !this.handbook && this.examples !== null && this.examples < facts.enough;
  }

  // What can be chosen

  async findModels() {
    try {
      const { items } = await get("models");
      this.offer(items.filter((model) => model.kind === "base"));
    } catch (error) {
      find("base-help").textContent = `The list of models could not be read: ${error.message}`;
    }
    this.draw();
  }

  /** Let a person choose among these models, and the configuration's, which is fetched when the engine does not have it. */
  offer(models) {
    const chosen = find("base").value || facts.base;
    const options = models.map(({ tag, parameter_size: parameters, size: bytes }) => {
      const told = [parameters && `${parameters} parameters`, size(bytes)].filter(Boolean).join(", ");
      return new Option(`${tag} (${told})`, tag, tag === facts.base, tag === chosen);
    });
    const known = models.some(({ tag }) => tag === facts.base);
    if (!known) options.unshift(new Option(facts.base, facts.base, true, chosen === facts.base));
    find("base").replaceChildren(...options);
  }

  reset() {
    find("method").value = this.defaults["training.method"];
    for (const field of this.fields) field.show(this.defaults[field.key]);
    this.draw();
  }

  /** Take the defaults that fit to how much there is to learn; what a person entered stays. */
  takeDefaults() {
    const defaults = this.handbook ? facts.handbook.values : this.few ? facts.few.values : facts.defaults;
    if (defaults === this.defaults) return;
    for (const field of this.fields) {
      if (!this.defaults || field.value === this.defaults[field.key]) field.show(defaults[field.key]);
    }
    if (this.defaults && find("method").value === this.defaults["training.method"]) find("method").value = defaults["training.method"];
    this.defaults = defaults;
  }

  /** Take the values of a preset. */
  take(values) {
    for (const field of this.fields) if (field.key in values) field.show(values[field.key]);
    this.draw();
  }

  /** What presets depend on; null while something of it is missing. */
  get learned() {
    const base = find("base").value;
    if (!this.dataset) return facts.chats.turns >= facts.few.least ? { base, data: "chats" } : null;
    if (!this.dataset.stored) return null;
    return { base, data: "dataset", path: this.dataset.stored.path, profile: this.few ? facts.few.profile : "" };
  }

  // What is shown

  draw() {
    this.takeDefaults();
    const method = find("method").value;
    for (const field of this.fields) field.belongs(method);
    this.presets.look(this.learned, (key) => this.fields.find((field) => field.key === key)?.value);
    find("method-help").textContent = find("method").selectedOptions[0].dataset.help;
    for (const name of Object.keys(this.datasets)) find(`${name}-part`).hidden = this.source !== name;
    find("few-told").hidden = !this.few && !this.handbook;
    find("few-told").textContent = this.handbook
      ? "Most of it comes from a document: these are the defaults for learning facts by heart."
      : `For fewer than ${facts.enough} examples these are gentler defaults: a smaller addition, more epochs, and an end as soon as it gets worse.`;
    fill(find("summary"), this.summary());
    const missing = this.missing();
    find("train").setAttribute("aria-disabled", missing.length > 0 || this.sending);
    find("missing").replaceChildren(...missing.map(({ text }) => element("span", text)));
  }

  summary() {
    const used = this.fields.filter((field) => field.used && !field.fault());
    const data = this.dataset ? this.dataset.told : chatsTold(facts.chats);
    return [
      ["Model", find("base").value],
      ["Learns from", data],
      ["Method", find("method").selectedOptions[0].text],
      ["Settings", used.map((field) => `${field.label}: ${field.value}`).join(", ")],
    ];
  }

  /** What must be done before it can begin: sentences, each with the field that it speaks of. */
  missing() {
    const found = [];
    if (this.running) found.push({ text: "A training is not over yet: wait for it, or stop it (see Recent jobs).", at: find("recent") });
    if (this.dataset) {
      if (this.dataset.missing) found.push({ text: this.dataset.missing, at: this.dataset.field });
    } else {
      const { trouble, turns } = facts.chats;
      const least = facts.few.least;
      if (trouble) found.push({ text: trouble, at: this.form.elements.source[0] });
      else if (turns < least) {
        const text = `There are ${counted(turns, "question")} with answers in your chats, and ${least} are needed: chat more, or choose a file.`;
        found.push({ text, at: this.form.elements.source[0] });
      }
    }
    for (const field of this.fields) {
      const fault = field.used && field.fault();
      if (fault) found.push({ text: `${field.label}: ${fault}`, at: field.input });
    }
    return found;
  }

  // What is asked

  request() {
    const settings = {};
    if (find("base").value !== facts.base) settings["training.base_model"] = find("base").value;
    if (find("method").value !== this.defaults["training.method"]) settings["training.method"] = find("method").value;
    for (const field of this.fields) {
      if (field.used && field.value !== this.defaults[field.key]) settings[field.key] = field.value;
    }
    const kind = this.dataset ? "train" : "retrain";
    if (this.dataset) Object.assign(settings, this.dataset.settings);
    const profile = this.few ? { profile: facts.few.profile } : {};
    return { kind, id: newId(), request: { auto: true }, settings, ...profile };
  }

  async submit() {
    const [first] = this.missing();
    if (this.sending) return;
    if (first) {
      first.at.closest("details")?.setAttribute("open", "");
      first.at.focus();
      return;
    }
    const request = this.request();
    this.sending = true;
    sessionStorage.setItem(ASKED, request.id);
    find("refused").textContent = "";
    this.draw();
    try {
      const waiting = () => (find("refused").textContent = "The server did not answer. It is asked again; this never starts two trainings.");
      this.started((await postSurely("jobs", request, waiting)).id);
    } catch (error) {
      find("refused").textContent = error.message;
    }
    sessionStorage.removeItem(ASKED);
    this.sending = false;
    this.draw();
  }
}

/** Return the id of a training that this tab asked for before it was loaded again, if it was begun. */
export async function askedBefore() {
  const id = sessionStorage.getItem(ASKED);
  if (!id) return null;
  try {
    return (await get(`jobs/${id}`)).id;
  } catch {
    return null;
  } finally {
    sessionStorage.removeItem(ASKED);
  }
}

class Field {
  constructor(part) {
    this.part = part;
    this.key = part.dataset.setting;
    this.methods = part.dataset.methods.split(" ").filter(Boolean);
    this.input = part.querySelector("input");
    this.label = part.querySelector("label").textContent;
    this.used = true;
  }

  get value() {
    return this.input.value.trim() === "" ? NaN : Number(this.input.value);
  }

  show(value) {
    this.input.value = value;
  }

  belongs(method) {
    this.used = this.methods.length === 0 || this.methods.includes(method);
    this.part.hidden = !this.used;
    const fault = this.used ? this.fault() : "";
    this.part.querySelector(".fault").textContent = fault && fault[0].toUpperCase() + fault.slice(1);
    this.input.setAttribute("aria-invalid", fault !== "");
  }

  /** What is wrong with the value; "" if nothing is. */
  fault() {
    const { whole, least, above, most, below } = this.input.dataset;
    const { value } = this;
    const isWhole = whole !== undefined;
    const bounds = [
      least !== undefined && `${least} or more`,
      above !== undefined && `above ${above}`,
      most !== undefined && value > most && `at most ${most}`,
      below !== undefined && `below ${below}`,
    ];
    const right =
      Number.isFinite(value) &&
      (!isWhole || Number.isInteger(value)) &&
      !(value < least || value <= above || value > most || value >= below);
    if (right) return "";
    return `enter a ${isWhole ? "whole number" : "number"}, ${bounds.filter(Boolean).join(" and ")}.`;
  }
}

function chatsTold({ turns, new: fresh, trouble }) {
  if (trouble) return "They cannot be read.";
  if (!turns) return "Nothing is recorded yet.";
  const known = fresh === turns ? "nothing of it is learned yet" : fresh ? `${fresh} of them new since the last version` : "nothing new since the last version";
  return `${counted(turns, "question")} with ${turns === 1 ? "its answer" : "their answers"}, ${known}.`;
}
