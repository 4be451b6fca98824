// How thorough: what each preset sets, and what it takes. The server knows both; it finds out by a job how fast it is.

import { get, post, sleep } from "./api.js";
import { isOver, size } from "./words.js";

const OWN = "own"; // the fields say something else
const GLANCE = 1000; // milliseconds between looks at the job

const find = (id) => document.getElementById(id);

export class Presets {
  /** `chosen(values)` is given what a preset sets, by dotted keys. */
  constructor(chosen) {
    this.chosen = chosen;
    this.asked = ""; // what the presets below are for
    this.items = [];
    this.level = "balanced";
    find("level").onchange = () => this.choose(find("level").value);
  }

  choose(level) {
    this.level = level;
    const preset = this.items.find((item) => item.level === level);
    if (preset) this.chosen(preset.settings);
  }

  /** Show the presets for what is learned, and which of them the fields say; `valueOf(key)` is a field's value. */
  look(learned, valueOf) {
    const asked = learned ? JSON.stringify(learned) : "";
    if (asked !== this.asked) {
      this.asked = asked;
      if (learned) this.find(learned, asked);
      else this.items = [];
    }
    const fits = ({ settings }) => Object.entries(settings).every(([key, value]) => valueOf(key) === undefined || valueOf(key) === value);
    const now = this.items.find((item) => item.level === this.level && fits(item)) ?? this.items.find(fits);
    const options = this.items.map(({ level, label }) => new Option(label, level, false, level === now?.level));
    if (!now) options.push(new Option(this.items.length ? "As set below" : "Balanced", OWN, true, true));
    find("level").replaceChildren(...options);
    find("level").disabled = this.items.length === 0;
    find("level-help").textContent = now ? told(now) : "How many times the model reads everything, and how much the addition can hold.";
  }

  async find(learned, asked) {
    const query = `presets?${new URLSearchParams(learned)}`;
    try {
      this.show(await get(query), asked);
      const { reckoned, job } = await post("presets", learned);
      if (reckoned) return this.show(await get(query), asked);
      while (asked === this.asked && !isOver(await get(`jobs/${job}`))) await sleep(GLANCE);
      this.show(await get(query), asked);
    } catch (error) {
      if (asked === this.asked) find("level-help").textContent = error.message;
    }
  }

  show({ items }, asked) {
    if (asked !== this.asked) return;
    const follows = this.items.length ? find("level").value === this.level : this.level !== "balanced"; // what a person typed stays
    this.items = items;
    const preset = items.find((item) => item.level === this.level); // missing where the data have no such preset
    this.chosen(follows && preset ? preset.settings : {});
  }
}

function told({ times, memory, fits }) {
  if (!times) return "Finding out how long it takes on this machine.";
  const sentence = times.told[0].toUpperCase() + times.told.slice(1);
  return `${sentence}. ${size(memory)} of memory${fits ? "" : ", more than is free: it is lowered until it fits"}.`;
}
