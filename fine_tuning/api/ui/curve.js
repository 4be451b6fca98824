// The loss of a training as an SVG: a line over the steps, and dots where held-out chats were measured.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 180;
const EDGE = { left: 44, right: 12, top: 12, bottom: 28 };

/** Draw `steps` (events of the kind Step, in order) into a figure. It stays hidden for fewer than two. */
export function draw(figure, steps) {
  figure.hidden = steps.length < 2;
  if (figure.hidden) return;
  const width = Math.max(figure.clientWidth, 240);
  const measured = steps.filter((step) => step.validation_loss !== null);
  const values = [...steps.map((step) => step.loss), ...measured.map((step) => step.validation_loss)];
  const [low, high] = ends(Math.min(...values), Math.max(...values));
  const last = Math.max(steps.at(-1).steps, 2);
  const x = (step) => EDGE.left + ((step - 1) / (last - 1)) * (width - EDGE.left - EDGE.right);
  const y = (loss) => EDGE.top + ((high - loss) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);

  const drawing = part("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, "aria-hidden": "true" });
  for (const loss of [low, (low + high) / 2, high]) {
    drawing.append(part("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(loss), y2: y(loss) }));
    drawing.append(part("text", { x: EDGE.left - 8, y: y(loss) + 4, "text-anchor": "end" }, short(loss)));
  }
  drawing.append(part("text", { x: EDGE.left, y: HEIGHT - 6 }, "step 1"));
  drawing.append(part("text", { x: width - EDGE.right, y: HEIGHT - 6, "text-anchor": "end" }, `step ${last}`));
  drawing.append(part("polyline", { class: "loss", points: steps.map((step) => `${x(step.step)},${y(step.loss)}`).join(" ") }));
  for (const step of measured) drawing.append(part("circle", { class: "held-out", cx: x(step.step), cy: y(step.validation_loss), r: 4 }));

  figure.querySelector("svg")?.remove();
  figure.prepend(drawing);
  figure.querySelector("figcaption").textContent = told(steps, measured);
}

function told(steps, measured) {
  const now = steps.at(-1);
  const held = measured.length ? ` Dots: chats that were kept apart, now ${short(measured.at(-1).validation_loss)}.` : "";
  return `Error (loss) ${short(now.loss)} at step ${now.step} of ${now.steps}; it began at ${short(steps[0].loss)}. Lower is better.${held}`;
}

function ends(low, high) {
  const air = Math.max((high - low) * 0.08, 0.01);
  return [Math.max(low - air, 0), high + air];
}

const short = (loss) => loss.toFixed(loss < 10 ? 2 : 1);

function part(name, attributes, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}
