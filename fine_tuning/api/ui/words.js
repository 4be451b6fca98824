// What things are called for people.

const KINDS = {
  retrain: "Training on your chats",
  train: "Training on a file",
  sweep: "Search for better settings",
  evaluate: "Test of a version",
  merge: "Merging of versions",
  quantise: "Compression of a version",
  import: "Import",
  prepare: "Preparation of a dataset",
  compare: "Comparison",
  forget: "Forgetting",
  pull: "Download of a model",
  fetch_base: "Download of the base model",
};

const STATES = {
  queued: "waiting",
  running: "running",
  cancelling: "stopping",
  cancelled: "stopped",
  failed: "failed",
  completed: "done",
  interrupted: "interrupted",
};

export const OVER = ["cancelled", "failed", "completed", "interrupted"];
export const TRAININGS = ["retrain", "train"];

export const kindOf = (job) => KINDS[job.kind] ?? job.kind;
export const stateOf = (job) => STATES[job.state] ?? job.state;
export const isOver = (job) => OVER.includes(job.state);

/** Return a time as people say it: the hour for today, else the day, too. `seconds` since 1970. */
export function when(seconds) {
  const time = new Date(seconds * 1000);
  const today = time.toDateString() === new Date().toDateString();
  return time.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(Math.round(seconds), 1)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function size(bytes) {
  const units = ["bytes", "KB", "MB", "GB"];
  let at = 0;
  for (; bytes >= 1000 && at < units.length - 1; at++) bytes /= 1000;
  return `${at ? bytes.toFixed(1) : bytes} ${units[at]}`;
}

export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** Return a new element with a text and classes. All that comes from elsewhere gets into the page through here, as text. */
export function element(name, text = "", classes = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

/** Fill a <dl> with (name, value) pairs. */
export function fill(list, pairs) {
  list.replaceChildren(...pairs.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}
