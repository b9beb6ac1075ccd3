// Symbols in prose say what they mean: on hover, on focus by the keyboard, or on a tap. The table is notation.md's.
// Of each symbol the first place in a section is marked, so that pages stay readable and few stops are added.
(() => {
  let formulas, words;

  function mark(element, [noun, code]) {
    element.classList.add("symbol");
    element.tabIndex = 0;
    element.dataset.meaning = code ? `${noun} (in code: ${code})` : noun;
  }

  function markSection(section) {
    const seen = new Set();
    const inside = (node) => node.parentElement?.closest("section") === section;
    for (const span of section.querySelectorAll("span.math")) {
      const formula = span.dataset.formula ?? span.textContent.replace(/^\\\(|\\\)$/g, "").trim();
      if (inside(span) && Object.hasOwn(formulas, formula) && !seen.has(formula) && span.closest("p, li, dd")) {
        seen.add(formula);
        mark(span, formulas[formula]);
      }
    }
    const pattern = new RegExp(`(?<![\\p{L}\\d_.])(${Object.keys(words).join("|")})(?![\\p{L}\\d_'’-])`, "u");
    const walker = document.createTreeWalker(section, NodeFilter.SHOW_TEXT);
    const texts = [];
    while (walker.nextNode()) texts.push(walker.currentNode);
    for (let text of texts) {
      const parent = text.parentElement;
      if (!inside(text) || !parent.closest("p, li, dd") || parent.closest("a, code, pre, .math, table, svg, .symbol, script")) continue;
      for (let found; (found = pattern.exec(text.data)); ) {
        const after = text.splitText(found.index);
        text = after.splitText(found[1].length);
        if (seen.has(found[1])) continue;
        seen.add(found[1]);
        const symbol = document.createElement("span");
        mark(symbol, words[found[1]]);
        after.replaceWith(symbol);
        symbol.append(after);
      }
    }
  }

  function cards() {
    const card = Object.assign(document.createElement("div"), { id: "symbol-card", hidden: true });
    card.setAttribute("role", "tooltip");
    document.body.append(card);
    const hide = () => {
      card.hidden = true;
      document.querySelector("[aria-describedby=symbol-card]")?.removeAttribute("aria-describedby");
    };
    const show = ({ target }) => {
      const symbol = target.closest?.(".symbol");
      if (!symbol) return;
      hide();
      card.textContent = symbol.dataset.meaning;
      card.hidden = false;
      symbol.setAttribute("aria-describedby", card.id);
      const { left, bottom } = symbol.getBoundingClientRect();
      const widest = document.documentElement.clientWidth - card.offsetWidth - 8;
      card.style.left = `${Math.max(8, Math.min(left, widest)) + scrollX}px`;
      card.style.top = `${bottom + scrollY + 4}px`;
    };
    for (const event of ["mouseover", "focusin", "click"]) document.addEventListener(event, show);
    for (const event of ["mouseout", "focusout"]) document.addEventListener(event, hide);
    document.addEventListener("keydown", ({ key }) => key === "Escape" && hide());
  }

  document.addEventListener("DOMContentLoaded", () => {
    if (!window.notation || document.title.startsWith("Notation")) return;
    ({ formulas, words } = window.notation);
    for (const section of document.querySelectorAll("article section")) markSection(section);
    cards();
  });
})();
