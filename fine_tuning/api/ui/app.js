// The page: a form for a new training, or one job, and the newest jobs below. The address says which: #<a job's id>, or none.

import { askedBefore, Form } from "./form.js";
import { JobView } from "./job.js";
import { keepCurrent } from "./recent.js";
import { isOver, TRAININGS } from "./words.js";

const find = (id) => document.getElementById(id);
const idInAddress = () => decodeURIComponent(location.hash.slice(1));

let form = null;
let view = null;

function show() {
  const id = idInAddress();
  if (view?.id === id) return;
  view?.leave();
  view = id ? new JobView(id, notice, () => look()) : null;
  if (!id) form ??= new Form(open);
  find("form").hidden = Boolean(id);
  find("job").hidden = !id;
  if (!id) document.title = "byoai · train";
}

function open(id) {
  location.hash = encodeURIComponent(id);
  show();
  find("job-title").focus();
}

function notice(text) {
  if (find("notice").textContent === text) return;
  find("notice").textContent = text;
  find("notice").hidden = !text;
}

function seen(jobs) {
  const running = jobs.find((job) => TRAININGS.includes(job.kind) && !isOver(job)) ?? null;
  if (!started) {
    started = true;
    if (running && !idInAddress()) history.replaceState(null, "", `#${encodeURIComponent(running.id)}`);
    show();
  }
  if (form && form.running?.id !== running?.id) {
    form.running = running;
    form.draw();
  }
}

let started = false;
const look = keepCurrent(find("recent"), find("no-jobs"), seen);
addEventListener("hashchange", show);
const asked = await askedBefore();
if (asked) history.replaceState(null, "", `#${encodeURIComponent(asked)}`);
await look();
if (!started) show(); // the server did not answer: what it says is shown where it is asked next
