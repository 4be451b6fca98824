// The newest jobs, whoever began them, as links.

import { get } from "./api.js";
import { element, kindOf, stateOf, when } from "./words.js";

const PAUSE = 5000; // milliseconds between two looks while the page is seen
const MOST = 8;

/** Keep the list current; `seen(jobs)` is told of each look. Return the function that looks now. */
export function keepCurrent(list, none, seen) {
  let shown = "";
  const look = async () => {
    const jobs = document.hidden ? null : await newest();
    if (!jobs) return; // the next look may reach the server
    if (JSON.stringify(jobs) !== shown) draw(list, jobs);
    shown = JSON.stringify(jobs);
    none.hidden = jobs.length > 0;
    seen(jobs);
  };
  setInterval(look, PAUSE);
  document.addEventListener("visibilitychange", look);
  return look;
}

async function newest() {
  try {
    const { items } = await get(`jobs?limit=${3 * MOST}`);
    return items.filter((job) => job.kind !== "plan").slice(0, MOST); // a form asks for a plan: nothing to look back on
  } catch {
    return null;
  }
}

function draw(list, jobs) {
  const focused = list.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  list.replaceChildren(...jobs.map(entry));
  if (focused) list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
}

function entry(job) {
  const item = element("li");
  const link = element("a", kindOf(job));
  link.href = `#${encodeURIComponent(job.id)}`;
  item.append(link, element("span", stateOf(job), `state ${job.state}`), element("span", when(job.created), "help"));
  return item;
}
