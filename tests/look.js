// What tests/test_browser.py asks of a page that has loaded. Each function returns plain data.
const look = {
  // Resolves once fonts are there and MathJax, where the page has any, has set every formula.
  ready: () => document.fonts.ready.then(() => window.MathJax?.startup?.promise).then(() => true),

  // Resolves once the page has answered a new size or theme, and brings what still moves to its end: Chromium does not
  // tick transitions that nobody can see, so that to wait for one may take for ever.
  async settled() {
    for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
    for (const moving of document.getAnimations())
      if (moving.effect.getComputedTiming().endTime < Infinity) moving.finish();
    if (!document.getElementById("main-content")) return true;
    window.dispatchEvent(new Event("resize")); // a new theme may change sizes too, of which no event tells
    while ([...document.querySelectorAll(SCROLLING)].some(outdated)) await new Promise(requestAnimationFrame);
    return true;
  },

  // The innermost elements that make the page wider than its window; those in a box that scrolls by itself do not.
  wide() {
    const room = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= room) return [];
    const outside = [...document.body.querySelectorAll("*")].filter((element) => {
      const { left, right, width } = element.getBoundingClientRect();
      return width > 0 && Math.max(right, left + element.scrollWidth) > room + 1 && !clipped(element);
    });
    const inner = outside.filter((element) => !outside.some((other) => other !== element && element.contains(other)));
    return [`${document.documentElement.scrollWidth} px wide`, ...inner.map(name)];
  },

  // Boxes whose content is wider than they are, and scrolls there; listings of source code may be.
  boxes: () =>
    [...document.querySelectorAll("main *")]
      .filter((e) => e.scrollWidth > e.clientWidth + 1 && ["auto", "scroll"].includes(style(e).overflowX))
      .filter((e) => !e.querySelector(".viewcode-block"))
      .map((e) => `${name(e)} ${e.scrollWidth} px: ${e.textContent.trim().replace(/\s+/g, " ").slice(0, 60)}`),

  // Formulas that are not typeset, errors in typeset ones, and TeX that stands in the text.
  equations() {
    const bare = [...document.querySelectorAll(".math")].filter((e) => !e.querySelector("mjx-container"));
    const wrong = [...document.querySelectorAll("mjx-merror, [data-mjx-error]")];
    const walk = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
    const left = [];
    while (walk.nextNode()) {
      const { data, parentElement } = walk.currentNode;
      const tex = /\\[([]|\$\$|\\[a-z]{3,}|\$\\/.test(data);
      if (tex && !parentElement.closest("code, pre, script, style, textarea, .math, mjx-container")) left.push(data);
    }
    return [...bare, ...wrong].map((e) => e.textContent).concat(left).map((text) => text.trim().slice(0, 80));
  },

  pictures: () =>
    [...document.querySelectorAll("main img")]
      .filter((e) => !e.alt.trim() || /_images|\.(png|svg)$/.test(e.alt))
      .map((e) => `${e.getAttribute("src").slice(0, 60)}, alt "${e.alt}"`),

  // Addresses that the page leads to or loads, and the places in it that can be led to.
  links: () =>
    [...document.querySelectorAll("[href], [src], object[data]")]
      .filter((e) => e.namespaceURI.endsWith("xhtml"))
      .map((e) => e.href || e.src || e.data),
  places: () => [...document.querySelectorAll("[id], a[name]")].map((e) => e.id || e.name),
  sliders: () => document.querySelectorAll("main input[type=range]").length,

  // Takes away the glyphs of formulas and the shapes of drawings, which axe-core would look at one by one.
  empty() {
    for (const formula of document.querySelectorAll("mjx-container")) formula.replaceChildren();
    for (const shape of document.querySelectorAll("svg :is(path, use, line, rect, circle, polygon, defs)")) shape.remove();
  },

  // Takes away all but one of the texts that are coloured by the same rules.
  thin() {
    const last = new Map();
    for (const e of document.querySelectorAll("body *")) if (ownText(e)) last.set(kind(e), e);
    const kept = new Set();
    for (let e of last.values()) for (; e; e = e.parentElement) kept.add(e);
    for (const e of document.querySelectorAll("body *")) if (!kept.has(e)) e.remove();
  },

  // What stands in the page, but for what says the values of sliders.
  drawn() {
    const copy = document.querySelector("main").cloneNode(true);
    for (const output of copy.querySelectorAll("output")) output.remove();
    return copy.innerHTML;
  },

  // Violations of axe-core's rules that it calls serious or critical.
  async violations(options) {
    const { violations } = await axe.run(document, { resultTypes: ["violations"], ...options });
    return violations
      .filter(({ impact }) => impact === "serious" || impact === "critical")
      .flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.target.join(" ")}: ${reason(node)}`));
  },
};

// The boxes that the theme lets the keyboard reach where they scroll, some time after their size has changed.
const SCROLLING = "pre, .nboutput > .output_area, .cell_output > .output, .jp-RenderedHTMLCommon, .pst-scrollable-table-container";
const scrolls = (e) => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight;
const outdated = (e) => (e.tabIndex === 0) !== scrolls(e);

const style = (element) => getComputedStyle(element);
const name = (e) => [e.tagName.toLowerCase(), e.id && `#${e.id}`, ...e.classList].filter(Boolean).join(".");
const reason = ({ any, all, none }) => [...any, ...all, ...none].map(({ message }) => message).join("; ");

const ownText = (e) => [...e.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
// The tags, classes and styles that lead to an element, by which style sheets colour it.
const kind = (e) => (e ? `${kind(e.parentElement)} ${e.tagName}.${e.className}${e.getAttribute("style")}` : "");

function clipped(element) {
  for (; element && element !== document.body; element = element.parentElement)
    if (style(element).overflowX !== "visible") return true;
  return false;
}
