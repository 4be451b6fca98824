// One job as it is seen: how far it is, its curve, its log, Stop and Resume, and how it ended.

import { facts, get, post } from "./api.js";
import { draw } from "./curve.js";
import { Feed } from "./feed.js";
import { duration, element, fill, isOver, kindOf, stateOf, when } from "./words.js";

const GLANCE = 2000; // milliseconds between two questions how far it is
const LINES = 1000; // of the log that are kept
const STEP = 10; // percent after which the progress is said aloud again
const SIGNS = { live: "good", done: "good", registered: "good", refused: "warn", failed: "bad" };

const find = (id) => document.getElementById(id);

export class JobView {
  /** Show a job, and follow it. `notice(text)` shows a line above everything, or none; `changed()` is told when its state changed. */
  constructor(id, notice, changed) {
    this.id = id;
    this.notice = notice;
    this.changed = changed;
    this.job = null;
    this.stage = "";
    this.steps = [];
    this.finished = null;
    this.told = { stage: "", percent: 0 };
    this.dirty = false;
    find("log").replaceChildren();
    find("facts").hidden = true;
    find("job-fault").textContent = "";
    find("whole-log").href = `/api/jobs/${encodeURIComponent(id)}/log`;
    find("stop").onclick = () => find("stopping").showModal();
    find("stopping").onclose = (closed) => this.stop(closed.target.returnValue);
    find("resume").onclick = () => this.resume();
    this.size = new ResizeObserver(() => this.later());
    this.size.observe(find("curve"));
    this.follow(0);
    this.look();
  }

  follow(after) {
    this.feed = new Feed(this.id, after, {
      event: (event) => this.take(event),
      job: (job) => this.learn(job),
      lost: () => this.notice("The connection is lost. The job goes on; this page tries to reach it again."),
      back: () => this.notice(""),
      refused: (why) => this.refuse(why),
    });
  }

  leave() {
    this.feed.end();
    this.size.disconnect();
    clearTimeout(this.timer);
    this.left = true;
  }

  // What comes in

  async look() {
    clearTimeout(this.timer);
    try {
      this.learn(await get(`jobs/${encodeURIComponent(this.id)}`));
    } catch {
      // the feed says what is wrong, and tries again
    }
    if (!this.left && !(this.job && isOver(this.job))) this.timer = setTimeout(() => this.look(), GLANCE);
  }

  learn(job) {
    const before = this.job?.state;
    const { progress, stage } = job.progress == null ? (this.job ?? job) : job; // the feed does not tell how far it is
    this.job = { ...job, progress, stage };
    if (before && before !== job.state) {
      this.changed();
      if (isOver(job)) this.look();
    }
    this.later();
  }

  take(event) {
    if (event.event === "Stage") {
      this.stage = event.title;
      this.step = this.finished = null;
    } else if (event.event === "Step") {
      this.step = event;
      if (event.part === "chats") this.plot(event);
    } else if (event.event === "Planned") {
      fill(find("facts").querySelector("dl"), event.facts);
      find("facts").hidden = false;
    } else if (event.event === "RunOpened") {
      if (!event.resumed) this.steps = [];
    } else if (event.event === "Finished") {
      this.finished = event;
    }
    const line = lineOf(event);
    if (line) this.log(line, event.event === "Stage" ? "stage" : "");
    this.later();
  }

  /** Add a step to the curve. After a resumption, those that are done again replace what they were. */
  plot(step) {
    while (this.steps.at(-1)?.step >= step.step) this.steps.pop();
    this.steps.push(step);
  }

  refuse(why) {
    find("job-title").textContent = "This job cannot be shown";
    find("job-about").textContent = why;
    find("going").hidden = true;
    find("anew").hidden = false;
    this.leave();
  }

  // What people do

  async stop(how) {
    find("stopping").returnValue = "";
    if (!how) return;
    this.say(() => post(`jobs/${encodeURIComponent(this.id)}/cancel`, { discard: how === "discard" }));
    if (how === "discard") sessionStorage.setItem(`discarded ${this.id}`, "yes");
  }

  async resume() {
    sessionStorage.removeItem(`discarded ${this.id}`);
    await this.say(() => post(`jobs/${encodeURIComponent(this.id)}/resume`));
    if (isOver(this.job)) return;
    this.finished = null;
    this.feed.end();
    this.follow(this.feed.last);
    find("job-title").focus();
  }

  /** Do what changes the job, and show how it stands then, or why not. */
  async say(change) {
    find("job-fault").textContent = "";
    find("stop").disabled = find("resume").disabled = true;
    try {
      this.learn(await change());
    } catch (error) {
      find("job-fault").textContent = error.name === "TypeError" ? "The server cannot be reached: try again." : error.message;
    }
    find("stop").disabled = find("resume").disabled = false;
    this.draw();
    this.look();
  }

  // What is shown

  log(text, classes) {
    const log = find("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 30;
    log.append(element("p", text, classes));
    while (log.childElementCount > LINES) log.firstElementChild.remove();
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  later() {
    if (this.dirty || this.left) return;
    this.dirty = true;
    requestAnimationFrame(() => {
      this.dirty = false;
      if (!this.left) this.draw();
    });
  }

  draw() {
    if (!this.job) return;
    const { job } = this;
    const over = isOver(job);
    find("job-title").textContent = `${kindOf(job)}: ${stateOf(job)}`;
    const by = !job.origin || job.origin === "api" ? "" : ` Begun by ${job.origin}.`;
    find("job-about").textContent = `Since ${when(job.begun ?? job.created)}${job.ended ? `, until ${when(job.ended)}` : ""}.${by}`;
    find("going").hidden = over;
    find("stop").hidden = over || job.state === "cancelling";
    find("resume").hidden = !over || job.state === "completed";
    find("anew").hidden = !over;
    this.drawProgress();
    this.drawVerdict();
    draw(find("curve"), this.steps);
    document.title = over ? `byoai · ${stateOf(job)}` : `${this.percent()} % · byoai`;
  }

  percent() {
    return Math.floor(100 * (this.job.progress ?? 0));
  }

  drawProgress() {
    const { job, step } = this;
    const queued = job.state === "queued";
    find("stage").textContent = queued ? "It waits until the job before it is over" : this.stage || job.stage || "Beginning";
    if (queued) find("bar").removeAttribute("value");
    else find("bar").value = job.progress ?? 0;
    const share = queued ? "" : `${this.percent()} %`;
    const training = step ? `step ${step.step} of ${step.steps}, about ${duration(step.eta)} until the end of the training` : "";
    find("left").textContent = [share, training].filter(Boolean).join(" · ");
    const moved = find("stage").textContent !== this.told.stage || this.percent() >= this.told.percent + STEP;
    if (!moved || isOver(job)) return;
    this.told = { stage: find("stage").textContent, percent: this.percent() };
    find("said").textContent = `${this.told.stage}. ${share}`;
  }

  drawVerdict() {
    const box = find("verdict");
    box.hidden = !isOver(this.job);
    if (box.hidden) return;
    const { title, text, sign } = this.verdict();
    const mark = JSON.stringify([title, text]);
    if (box.dataset.shown === mark) return; // else it would be read aloud again
    box.dataset.shown = mark;
    box.className = `verdict ${sign}`;
    box.querySelector("h3").textContent = title;
    box.querySelector("p").textContent = text;
    find("answers").replaceChildren(...(this.finished?.answers ?? []).slice(0, 3).map(answerOf));
  }

  verdict() {
    const { job, finished } = this;
    const state = finished?.state ?? { cancelled: "stopped", completed: "done" }[job.state] ?? "failed";
    if (job.state === "cancelled" && sessionStorage.getItem(`discarded ${job.id}`)) {
      return { title: "Stopped", text: "What was done is discarded. The model that answered before still does.", sign: "" };
    }
    if (job.state === "interrupted") return { title: "Interrupted", text: job.reason, sign: "warn" };
    return { title: facts.titles[state], text: finished?.text || job.reason, sign: SIGNS[state] ?? "" };
  }
}

function lineOf(event) {
  switch (event.event) {
    case "Stage":
      return event.title;
    case "Note":
    case "Finished":
      return event.text;
    case "Step": {
      const held = event.validation_loss === null ? "" : `, on chats kept apart ${event.validation_loss.toFixed(3)}`;
      return `step ${event.step} of ${event.steps} (${event.part}): loss ${event.loss.toFixed(3)}${held}`;
    }
    case "RunOpened":
      return event.resumed ? "It goes on from where an earlier training stopped." : "";
    default:
      return "";
  }
}

function answerOf([prompt, before, now]) {
  const answer = element("dl", "", "answer");
  fill(answer, [
    ["Asked", prompt],
    ["Before", before],
    ["Now", now],
  ]);
  return answer;
}
