/* Turn N on a two-dimensional landscape. First the mathematics, which needs no page, then the page's part. */
// ---------------------------------------------------------------- mathematics

// Inner losses with gradients and Hessians by hand; a Hessian is [xx, xy, yy].
const LANDSCAPES = {
  bowl: {
    title: "Narrow bowl",
    view: [-3, 3, -2.5, 2.5],
    start: [-2.2, 0.4],
    target: [0.6, 0.9],
    value: ([x, y]) => 0.75 * x * x + 0.8 * x * y + 0.3 * y * y,
    gradient: ([x, y]) => [1.5 * x + 0.8 * y, 0.8 * x + 0.6 * y],
    hessian: () => [1.5, 0.8, 0.6],
  },
  rosenbrock: {
    title: "Curved valley (Rosenbrock)",
    view: [-1.8, 1.8, -0.8, 2.2],
    start: [-0.9, 1.6],
    target: [0.9, 0.7],
    value: ([x, y]) => 0.05 * (1 - x) ** 2 + 0.5 * (y - x * x) ** 2,
    gradient: ([x, y]) => [-0.1 * (1 - x) - 2 * x * (y - x * x), y - x * x],
    hessian: ([x, y]) => [0.1 - 2 * (y - x * x) + 4 * x * x, -2 * x, 1],
  },
  himmelblau: {
    title: "Four basins (Himmelblau)",
    view: [-5.4, 5.4, -4.5, 4.5],
    start: [-0.4, -2.4],
    target: [3, 2],
    value: ([x, y]) => ((x * x + y - 11) ** 2 + (x + y * y - 7) ** 2) / 50,
    gradient: ([x, y]) => [
      (4 * x * (x * x + y - 11) + 2 * (x + y * y - 7)) / 50,
      (2 * (x * x + y - 11) + 4 * y * (x + y * y - 7)) / 50,
    ],
    hessian: ([x, y]) => [
      (12 * x * x + 4 * y - 42) / 50,
      (4 * x + 4 * y) / 50,
      (12 * y * y + 4 * x - 26) / 50,
    ],
  },
  waves: {
    title: "Waves on a bowl",
    view: [-3.6, 3.6, -3, 3],
    start: [-1.9, 1.1],
    target: [0.3, 0.2],
    value: ([x, y]) => 0.1 * (x * x + y * y) + 0.3 * (2 - Math.cos(2 * x) - Math.cos(2 * y)),
    gradient: ([x, y]) => [0.2 * x + 0.6 * Math.sin(2 * x), 0.2 * y + 0.6 * Math.sin(2 * y)],
    hessian: ([x, y]) => [0.2 + 1.2 * Math.cos(2 * x), 0, 0.2 + 1.2 * Math.cos(2 * y)],
  },
};

const times = ([xx, xy, yy], [x, y]) => [xx * x + xy * y, xy * x + yy * y];
const combine = (a, u, b, v) => [a * u[0] + b * v[0], a * u[1] + b * v[1]];
const length = (u) => Math.hypot(u[0], u[1]);

/** Aⁿ by rows and the sum of Aⁱ b, i < n, as SGD.coefficients in the package (Eq. 13). */
function coefficients(n, lr, momentum, decay) {
  const [a, b, c, d] = [1 - lr * decay, -lr * momentum, decay, momentum];
  let power = [1, 0, 0, 1];
  let column = [-lr, 1];
  let total = [0, 0];
  for (let i = 0; i < n; i++) {
    total = [total[0] + column[0], total[1] + column[1]];
    column = [a * column[0] + b * column[1], c * column[0] + d * column[1]];
    const [p, q, r, s] = power;
    power = [a * p + b * r, a * q + b * s, c * p + d * r, c * q + d * s];
  }
  return { power, total };
}

/** Every point of the steps (Eq. 5) and where each window begins; `n` steps share a gradient (Eq. 11). */
function walk(setting, gradient, n) {
  const { lr, momentum, weight_decay: decay } = setting;
  let phi = setting.start;
  let v = [0, 0];
  const points = [phi];
  const starts = [];
  for (let t = 0; t < setting.steps; t += n) {
    starts.push(phi);
    const g = gradient(phi);
    for (let i = 0; i < n; i++) {
      v = combine(momentum, v, 1, combine(1, g, decay, phi));
      phi = combine(1, phi, -lr, v);
      points.push(phi);
    }
  }
  return { points, starts, end: phi };
}

/** The multipliers carried back through the windows (Eq. 12), to θ = φ₁. */
function backwards(setting, hessian, path, n) {
  const { power, total } = coefficients(n, setting.lr, setting.momentum, setting.weight_decay);
  const [p, q, r, s] = power;
  let onPhi = combine(1, path.end, -1, setting.target);
  let onVelocity = [0, 0];
  for (const start of [...path.starts].reverse()) {
    const w = combine(total[0], onPhi, total[1], onVelocity);
    const through = times(hessian(start), w);
    [onPhi, onVelocity] = [
      combine(1, combine(p, onPhi, r, onVelocity), 1, through),
      combine(q, onPhi, s, onVelocity),
    ];
  }
  return onPhi;
}

/** (I + H/λ)⁻¹ g, with weight decay as part of H (Eq. 18); null where the matrix is not positive definite. */
function implicit([xx, xy, yy], g, { proximal, weight_decay: decay }) {
  const [a, b, c] = [1 + (xx + decay) / proximal, xy / proximal, 1 + (yy + decay) / proximal];
  const determinant = a * c - b * b;
  if (!(determinant > 0 && a > 0)) return null;
  return [(c * g[0] - b * g[1]) / determinant, (a * g[1] - b * g[0]) / determinant];
}

/**
 * All methods at one setting: {landscape, start, target, steps, window, lr, momentum, weight_decay, proximal}.
 * θ is the start, the outer loss ½|φ - target|². Gives {method: {points, starts, gradient, loss, angle, ratio,
 * gradients, products, problem}}: angle (degrees) and ratio of lengths to exact; problem says why there is none.
 */
function solve(setting) {
  const { gradient, hessian } = LANDSCAPES[setting.landscape];
  const { steps, window, start, target, proximal } = setting;
  const exact = walk(setting, gradient, 1);
  const shared = walk(setting, gradient, window);
  const pulled = walk(setting, (phi) => combine(1, gradient(phi), proximal, combine(1, phi, -1, start)), 1);
  const windows = steps / window;
  const outer = (path) => combine(1, path.end, -1, target);
  const methods = {
    exact: [exact, backwards(setting, hessian, exact, 1), steps, steps],
    multistep: [shared, backwards(setting, hessian, shared, window), windows, windows],
    first_order: [exact, outer(exact), steps, 0],
    reptile: [exact, combine(1, start, -1, exact.end), steps, 0],
    implicit: [pulled, implicit(hessian(pulled.end), outer(pulled), setting), steps + 1, 2],
  };
  const reference = methods.exact[1];
  return Object.fromEntries(
    Object.entries(methods).map(([name, [path, g, gradients, products]]) => {
      const found = { points: path.points, starts: path.starts, gradient: g, gradients, products, problem: "" };
      found.loss = 0.5 * length(outer(path)) ** 2;
      if (!path.points.every((point) => length(point) < 1e3)) found.problem = "the steps diverge";
      else if (g === null) found.problem = "λ is below the loss's negative curvature";
      else {
        const [cross, dot] = [reference[0] * g[1] - reference[1] * g[0], reference[0] * g[0] + reference[1] * g[1]];
        found.angle = (Math.abs(Math.atan2(cross, dot)) * 180) / Math.PI;
        found.ratio = length(g) / length(reference);
        if (!Number.isFinite(found.ratio)) found.problem = "no exact meta-gradient to compare with";
      }
      return [name, found];
    }),
  );
}

const divisors = (steps) => Array.from({ length: steps }, (_, i) => i + 1).filter((n) => steps % n === 0);

// ---------------------------------------------------------------- the page

const METHODS = {
  exact: { title: "Exact (N = 1)", dash: "", marker: "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z" },
  multistep: { title: "Multi-step", dash: "9 4", marker: "M-4 -4h8v8h-8z" },
  first_order: { title: "First-order", dash: "2 4", marker: "M0 -5L5 4H-5z" },
  reptile: { title: "Reptile", dash: "7 3 2 3", marker: "M0 -5.5L5 0L0 5.5L-5 0z" },
  implicit: { title: "Implicit", dash: "14 5", marker: "M0 5L5 -4H-5z" },
};
const SLIDERS = [
  ["steps", "Steps T", 1, 16, 1, 8],
  ["window", "Window N", 0, 3, 1, 0],
  ["lr", "Rate η", 0.01, 0.6, 0.01, 0.1],
  ["momentum", "Momentum μ", 0, 0.95, 0.05, 0.8],
  ["weight_decay", "Weight decay ω", 0, 0.3, 0.01, 0],
  ["proximal", "Proximal λ", 0.1, 5, 0.1, 1],
];
const [WIDTH, HEIGHT] = [600, 500];
const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "circle", "line", "text", "title", "clipPath", "rect"].includes(tag);
  const made = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function scale([x0, x1, y0, y1]) {
  return {
    to: ([x, y]) => [((x - x0) / (x1 - x0)) * WIDTH, ((y1 - y) / (y1 - y0)) * HEIGHT],
    from: ([i, j]) => [x0 + (i / WIDTH) * (x1 - x0), y1 - (j / HEIGHT) * (y1 - y0)],
    unit: WIDTH / (x1 - x0),
  };
}

const line = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

/** Level lines by marching squares; levels are quantiles, so that flat and steep landscapes show equally many. */
function contours(landscape, at, columns = 90, rows = 75) {
  const point = (i, j) => at.from([(i / columns) * WIDTH, (j / rows) * HEIGHT]);
  const grid = Array.from({ length: rows + 1 }, (_, j) =>
    Array.from({ length: columns + 1 }, (_, i) => landscape.value(point(i, j))),
  );
  const sorted = grid.flat().sort((a, b) => a - b);
  const [w, h] = [WIDTH / columns, HEIGHT / rows];
  return Array.from({ length: 14 }, (_, k) => {
    const level = sorted[Math.floor(sorted.length * ((k + 0.4) / 14) ** 1.3)];
    let path = "";
    for (let j = 0; j < rows; j++) {
      for (let i = 0; i < columns; i++) {
        const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
        const cuts = [];
        corners.forEach(([a, b], side) => {
          const [c, d] = corners[(side + 1) % 4];
          const [one, other] = [grid[b][a] - level, grid[d][c] - level];
          if (one < 0 === other < 0) return;
          const share = one / (one - other);
          cuts.push([(a + share * (c - a)) * w, (b + share * (d - b)) * h]);
        });
        for (let c = 0; c + 1 < cuts.length; c += 2) path += line([cuts[c], cuts[c + 1]]);
      }
    }
    return path;
  });
}

/** Draws into `el`; of `model` it takes and to it gives the values of the controls, as of anywidget. */
function render({ model, el }) {
  const setting = { landscape: model.get("landscape") ?? "himmelblau" };
  const inputs = {};
  const outputs = {};

  // Controls.
  const controls = element("form", { class: "explore-controls" });
  const select = element("select", { id: "explore-landscape" });
  for (const [name, { title }] of Object.entries(LANDSCAPES)) select.append(element("option", { value: name }, title));
  select.value = setting.landscape;
  controls.append(element("div", { class: "explore-control" },
    element("label", { for: "explore-landscape" }, "Inner loss"), select));
  for (const [name, title, min, max, step, usual] of SLIDERS) {
    const value = name === "window" ? 0 : (model.get(name) ?? usual);
    const id = `explore-${name}`;
    inputs[name] = element("input", { type: "range", id, min, max, step, value });
    outputs[name] = element("output", { for: id });
    controls.append(element("div", { class: "explore-control" },
      element("label", { for: id }, title), outputs[name], inputs[name]));
  }
  const reset = element("button", { type: "button", class: "explore-reset" }, "Reset");
  controls.append(reset);

  // Drawing.
  const svg = element("svg", { class: "explore-plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group",
    "aria-label": "Landscape of the inner loss with the paths of all methods" });
  const levels = element("g", { class: "explore-levels" });
  const paths = element("g");
  const arrows = element("g");
  const layer = {};
  for (const name of Object.keys(METHODS)) {
    layer[name] = {
      path: element("path", { class: `explore-path explore-${name}`, "stroke-dasharray": METHODS[name].dash }),
      dots: element("path", { class: `explore-dots explore-${name}` }),
      arrow: element("path", { class: `explore-arrow explore-${name}` }),
    };
    arrows.append(layer[name].arrow);
  }
  // First-order and Reptile walk the exact path, so only three paths are drawn; the exact one lies below.
  for (const name of ["exact", "implicit", "multistep"]) paths.append(layer[name].path, layer[name].dots);
  const handles = {
    target: element("g", { class: "explore-handle", tabindex: 0, role: "button", "aria-roledescription": "handle" },
      element("circle", { r: 15, class: "explore-grip" }),
      element("path", { d: "M-7 -7L7 7M-7 7L7 -7", class: "explore-target" })),
    start: element("g", { class: "explore-handle", tabindex: 0, role: "button", "aria-roledescription": "handle" },
      element("circle", { r: 15, class: "explore-grip" }),
      element("circle", { r: 6.5, class: "explore-start" })),
  };
  svg.append(levels, paths, arrows, handles.target, handles.start);

  // Table; its first column is the legend.
  const head = ["Method", "Loss", "Meta-gradient", "Angle", "Length", "Gradients", "Products"];
  const body = element("tbody");
  const cells = {};
  for (const [name, { title, dash, marker }] of Object.entries(METHODS)) {
    const sample = element("svg", { viewBox: "0 0 40 14", class: "explore-sample", "aria-hidden": "true" },
      element("path", { d: "M1 7H39", class: `explore-path explore-${name}`, "stroke-dasharray": dash }),
      element("path", { d: marker, class: `explore-dots explore-${name}`, transform: "translate(20 7)" }));
    const label = element("span", {}, title);
    cells[name] = { label, row: head.slice(1).map(() => element("td")) };
    const row = element("tr", { "data-method": name });
    row.append(element("th", { scope: "row" }, sample, label), ...cells[name].row);
    body.append(row);
  }
  const titles = element("tr");
  titles.append(...head.map((text) => element("th", { scope: "col" }, text)));
  const table = element("table", { class: "explore-table" }, element("thead", {}, titles), body);
  const summary = element("p", { class: "explore-summary", role: "status" });
  el.classList.add("explore");
  el.replaceChildren(
    element("div", { class: "explore-top" }, svg, controls),
    summary,
    element("div", { class: "explore-scroll", tabindex: 0, role: "region", "aria-label": "Numbers of all methods" }, table),
  );

  const fixed = (value, digits) => (Math.abs(value) < 1e4 ? value.toFixed(digits) : value.toExponential(1)).replace("-", "−");
  const where = ([x, y]) => `x ${fixed(x, 2)}, y ${fixed(y, 2)}`;
  let at;

  function newLandscape() {
    const landscape = LANDSCAPES[setting.landscape];
    at = scale(landscape.view);
    levels.replaceChildren(...contours(landscape, at).map((d) => element("path", { d })));
    setting.start = landscape.start;
    setting.target = landscape.target;
    draw();
  }

  /** The slider has the number of the divisor, not the window itself. */
  function setWindow(steps, window) {
    const choices = divisors(steps);
    inputs.window.max = choices.length - 1;
    inputs.window.value = choices.filter((n) => n <= window).length - 1;
  }

  function tell() {
    for (const name of ["landscape", ...SLIDERS.map(([slider]) => slider)]) {
      if (model.get(name) !== setting[name]) model.set(name, setting[name]);
    }
    model.save_changes();
  }

  function readControls() {
    for (const name of ["steps", "lr", "momentum", "weight_decay", "proximal"]) setting[name] = Number(inputs[name].value);
    const choices = divisors(setting.steps);
    inputs.window.max = choices.length - 1;
    inputs.window.disabled = choices.length === 1;
    setting.window = choices[Number(inputs.window.value)];
    inputs.window.setAttribute("aria-valuetext", `${setting.window} of ${setting.steps} steps`);
    for (const [name, , , , step] of SLIDERS) outputs[name].value = fixed(setting[name], step < 0.1 ? 2 : step < 1 ? 1 : 0);
  }

  function draw() {
    readControls();
    tell();
    const found = solve(setting);
    const reference = length(found.exact.gradient);
    for (const [name, method] of Object.entries(found)) {
      const shown = !method.problem;
      layer[name].path.setAttribute("d", shown ? line(method.points.map(at.to)) : "");
      layer[name].dots.setAttribute("d", shown ? method.starts.map(at.to).map(([x, y]) => dot(METHODS[name].marker, x, y)).join("") : "");
      layer[name].arrow.setAttribute("d", shown ? arrow(at.to(setting.start), method.gradient, reference) : "");
      const numbers = [
        [method.loss, 3], [method.gradient, 3], [method.angle, 1], [method.ratio, 2],
        [method.gradients, 0], [method.products, 0],
      ];
      cells[name].row.forEach((cell, i) => {
        const [value, digits] = numbers[i];
        const words = i < 4 && !shown ? (i === 0 ? method.problem : "–") : null;
        cell.dataset.value = words === null ? JSON.stringify(value) : "";
        cell.textContent = words ?? (Array.isArray(value) ? value.map((v) => fixed(v, digits)).join(", ") : fixed(value, digits) + (i === 2 ? "°" : i === 3 ? "×" : ""));
      });
    }
    cells.multistep.label.textContent = `Multi-step (N = ${setting.window})`;
    for (const [name, handle] of Object.entries(handles)) {
      handle.setAttribute("transform", `translate(${at.to(setting[name]).join(" ")})`);
      const noun = name === "start" ? "Start θ" : "Target of the outer loss";
      handle.setAttribute("aria-label", `${noun}, ${where(setting[name])}; drag, or move with the arrow keys`);
    }
    const ours = found.multistep;
    summary.textContent = ours.problem
      ? `N = ${setting.window}: ${ours.problem}.`
      : `N = ${setting.window}: ${ours.products} of ${setting.steps} second-order products; meta-gradient ${fixed(ours.angle, 1)}° from the exact one, ${fixed(ours.ratio, 2)} times as long.`;
  }

  // The markers are drawn with relative commands after their first, so moving that moves all of it.
  const dot = (marker, x, y) => marker.replace(/([ML])(-?[\d.]+) (-?[\d.]+)/g, (_, c, a, b) => `${c}${(x + Number(a)).toFixed(1)} ${(y + Number(b)).toFixed(1)}`).replace(/H(-?[\d.]+)/, (_, a) => `H${(x + Number(a)).toFixed(1)}`);

  /** Where a meta-step would go, -∂L/∂θ: as long as it is relative to the exact one, within bounds. */
  function arrow([x, y], g, reference) {
    const size = Math.min(150, Math.max(28, (80 * length(g)) / reference));
    const [dx, dy] = [-g[0] / length(g), g[1] / length(g)];
    const tip = [x + size * dx, y + size * dy];
    const wing = (side) => [tip[0] - 9 * dx + side * 5 * dy, tip[1] - 9 * dy - side * 5 * dx];
    return line([[x, y], tip]) + line([wing(1), tip, wing(-1)]);
  }

  function move(name, point) {
    const [x0, x1, y0, y1] = LANDSCAPES[setting.landscape].view;
    setting[name] = [Math.min(x1, Math.max(x0, point[0])), Math.min(y1, Math.max(y0, point[1]))];
    draw();
  }

  for (const [name, handle] of Object.entries(handles)) {
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      handle.focus();
      event.preventDefault();
    });
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const box = svg.getBoundingClientRect();
      move(name, at.from([((event.clientX - box.left) / box.width) * WIDTH, ((event.clientY - box.top) / box.height) * HEIGHT]));
    });
    handle.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!way) return;
      event.preventDefault();
      move(name, combine(1, setting[name], (event.shiftKey ? 30 : 6) / at.unit, way));
    });
  }
  inputs.steps.addEventListener("input", () => {
    // Keep the window if it still divides the steps, else the next smaller one that does.
    setWindow(Number(inputs.steps.value), setting.window);
  });
  controls.addEventListener("input", (event) => {
    if (event.target !== select) draw();
  });
  controls.addEventListener("submit", (event) => event.preventDefault());
  select.addEventListener("change", () => {
    setting.landscape = select.value;
    newLandscape();
  });
  reset.addEventListener("click", () => {
    for (const [name, , , , , value] of SLIDERS) inputs[name].value = value;
    setWindow(8, 4);
    newLandscape();
  });
  setWindow(Number(inputs.steps.value), model.get("window") ?? 4);
  newLandscape();
}

export { LANDSCAPES, coefficients, divisors, solve };
export default { render };
