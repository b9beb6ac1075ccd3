/* Turn N on measured data: one setting, method, T and N at a time, of what is stored in results/. Calculates nothing. */

const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  const made = ["svg", "rect"].includes(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const distinct = (values) => [...new Set(values)];
const signed = (text) => text.replace("-", "−");
const percent = (share) => `${(100 * share).toFixed(0)} %`;

/** Windows in words: 4 for equal ones (the last may be shorter), else their lengths. */
function windowName(windows) {
  const [first] = windows;
  const equal = windows.every((n, i) => n === first || (i === windows.length - 1 && n < first));
  return equal ? `N = ${first}` : `(${windows.join(", ")})`;
}


/** Points that the choices so far leave: {setting, method, steps}. */
const choose = (points, wanted) => points.filter((p) => Object.entries(wanted).every(([name, value]) => p[name] === value));

/** The exact method's point with the same setting and T. */
const exactOf = (points, point) =>
  choose(points, { setting: point.setting, steps: point.steps }).find((p) => p.windows.length && p.windows.every((n) => n === 1));

/** Of each card: its title, how to read its value off a point, digits, unit, and what is said below. */
const CARDS = {
  accuracy: {
    title: "Accuracy",
    value: (p) => p.accuracy,
    text: (p) => `${p.accuracy.toFixed(2)} %` + (p.half === null ? "" : ` ±${p.half.toFixed(2)}`),
    note: (p) => {
      const paper = p.paper ? `Paper: ${p.paper.value} %${p.paper.spread === null ? "" : ` ±${p.paper.spread}`}. ` : "";
      if (!p.runs) return `${paper}Not run.`;
      const { seeds, preset, iterations } = p.runs;
      return `${paper}${seeds.length} seed${seeds.length > 1 ? "s" : ""}, preset ${preset}, ${iterations.map((n) => n.toLocaleString("en")).join(", ")} iterations.`;
    },
  },
  seconds: {
    title: "Seconds of an iteration of these runs",
    value: (p) => p.seconds,
    text: (p) => `${p.seconds.toFixed(3)} s`,
    note: () => "Training, alone on one idle core.",
  },
  time: {
    title: "Time of a meta-iteration",
    value: (p) => p.cost && p.cost.seconds,
    text: (p) => `${(1000 * p.cost.seconds).toFixed(0)} ms`,
    note: (p, size) => `With ${size}.`,
  },
  memory: {
    title: "Memory",
    value: (p) => p.cost && p.cost.bytes,
    text: (p) => `${(p.cost.bytes / 1e6).toFixed(0)} MB`,
    note: (p, size) => `By how much the process grew, with ${size}.`,
  },
  cosine: {
    title: "Cosine with the exact meta-gradient",
    value: (p) => p.cosine && p.cosine.value,
    text: (p) => signed(p.cosine.value.toFixed(3)) + (p.cosine.half === null ? "" : ` ±${p.cosine.half.toFixed(3)}`),
    note: (p) => (p.cosine ? `Whatever the setting, of: ${p.cosine.problem}.` : "For this T and N."),
  },
};

/** Draws into `el`. Of `model` it takes `points` and `size`, and gives it `setting`, `method`, `steps` and `windows`. */
function render({ model, el }) {
  const points = model.get("points");
  el.classList.add("turn");
  if (!points.length) {
    el.textContent = "Nothing has been measured yet.";
    return;
  }
  const chosen = { setting: model.get("setting"), method: model.get("method"), steps: model.get("steps"), windows: model.get("windows") };
  const fields = {};
  const controls = element("form", { class: "turn-controls" });
  for (const [name, title, tag] of [["setting", "Setting", "select"], ["method", "Method", "select"], ["steps", "Steps T", "input"], ["windows", "Window N", "input"]]) {
    const id = `${el.id}-${name}`;
    fields[name] = element(tag, tag === "input" ? { id, type: "range", min: 0, step: 1 } : { id });
    const shown = tag === "input" ? [element("output", { for: id })] : [];
    controls.append(element("div", { class: "turn-control" }, element("label", { for: id }, title), ...shown, fields[name]));
  }
  const cards = {};
  const deck = element("div", { class: "turn-cards" });
  for (const [name, { title }] of Object.entries(CARDS)) {
    const bars = ["turn-chosen", "turn-exact"].map((kind, i) => element("rect", { class: kind, x: 0, y: 2 + 13 * i, height: 9, width: 0 }));
    const svg = element("svg", { class: "turn-bar", viewBox: "0 0 100 26", preserveAspectRatio: "none", "aria-hidden": "true" }, ...bars);
    cards[name] = { value: element("div", { class: "turn-value" }), bars, note: element("p", { class: "turn-note" }) };
    deck.append(element("section", { class: "turn-card", "data-card": name }, element("h4", {}, title), cards[name].value, svg, cards[name].note));
  }
  const summary = element("p", { class: "turn-summary", role: "status" });
  el.replaceChildren(controls, summary, deck);

  /** Offers `values` and keeps the choice where it is among them. */
  function offer(name, values, text, same = (a, b) => a === b) {
    const field = fields[name];
    let at = values.findIndex((value) => same(value, chosen[name]));
    if (at < 0) at = name === "steps" ? Math.max(0, values.indexOf(8)) : 0;
    chosen[name] = values[at];
    if (field.tagName === "SELECT") {
      field.replaceChildren(...values.map((value, i) => element("option", { value: i }, text(value))));
    } else {
      field.max = Math.max(values.length - 1, 0);
      field.disabled = values.length < 2;
      field.setAttribute("aria-valuetext", text(values[at]));
      field.previousElementSibling.value = text(values[at]);
    }
    field.value = at;
    field.values = values;
  }

  function draw() {
    offer("setting", distinct(points.map((p) => p.setting)), String);
    const ofSetting = choose(points, { setting: chosen.setting });
    offer("method", distinct(ofSetting.map((p) => p.method)), String);
    const ofMethod = choose(ofSetting, { method: chosen.method });
    offer("steps", distinct(ofMethod.map((p) => p.steps)).sort((a, b) => a - b), String);
    const ofSteps = choose(ofMethod, { steps: chosen.steps });
    const same = (a, b) => b && a.join() === b.join();
    const kept = ofSteps.find((p) => same(p.windows, chosen.windows) || (p.windows.length && chosen.windows?.length && windowName(p.windows) === windowName(chosen.windows)));
    if (kept) chosen.windows = kept.windows;
    offer("windows", ofSteps.map((p) => p.windows), (windows) => (windows.length ? windowName(windows) : "none"), same);
    const point = ofSteps.find((p) => p.windows === chosen.windows);
    const exact = exactOf(points, point);
    for (const [name, card] of Object.entries(CARDS)) show(card, cards[name], point, exact);
    summary.textContent = sentence(point, exact);
    for (const [name, value] of Object.entries(chosen)) model.set(name, value);
    model.save_changes();
  }

  function show(card, place, point, exact) {
    const value = card.value(point) ?? null;
    const base = exact ? (card.value(exact) ?? null) : null;
    place.value.classList.toggle("turn-none", value === null);
    place.value.textContent = value === null ? "not measured" : card.text(point);
    place.value.dataset.value = value === null ? "" : JSON.stringify(value);
    const scale = 100 / Math.max(Math.abs(value ?? 0), Math.abs(base ?? 0), Number.MIN_VALUE);
    [value, base].forEach((own, i) => place.bars[i].setAttribute("width", own === null ? 0 : Math.max(0, own * scale)));
    const against = base === null || exact === point ? "" : ` Exact (grey): ${card.text(exact)}.`;
    place.note.textContent = card.note(point, model.get("size")) + against;
  }

  function sentence(point, exact) {
    const name = point.windows.length ? (point.windows.every((n) => n === 1) ? `${point.exact}, exact` : `Multi-step, ${windowName(point.windows)}`) : point.method;
    const said = [];
    if (exact && exact !== point) {
      if (point.cost && exact.cost) {
        said.push(`takes ${percent(point.cost.seconds / exact.cost.seconds)} of the exact method's time and ${percent(point.cost.bytes / exact.cost.bytes)} of its memory`);
      } else if (point.seconds && exact.seconds) {
        said.push(`takes ${percent(point.seconds / exact.seconds)} of the exact method's time`);
      }
      if (point.accuracy !== null && exact.accuracy !== null) {
        const less = point.accuracy - exact.accuracy;
        said.push(`is ${Math.abs(less).toFixed(2)} points ${less < 0 ? "behind" : "ahead of"} it in these runs`);
      }
    }
    return `${name}, T = ${point.steps}${said.length ? `: ${said.join(", and ")}` : ""}.`;
  }

  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", (event) => {
    const name = Object.keys(fields).find((own) => fields[own] === event.target);
    chosen[name] = fields[name].values[Number(fields[name].value)];
    draw();
  });
  draw();
}

export { choose, exactOf, windowName };
export default { render };
