/* Interactive twins of figures: the button under a picture puts Vega's drawing of the same numbers in its place. */
(function () {
  "use strict";
  const here = document.currentScript.src;
  let vega = null;

  /** The library, fetched from beside this script when a reader first asks for it. */
  function library() {
    vega ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = new URL("vega.js", here).href;
      script.onload = () => resolve(window.vegaEmbed);
      script.onerror = reject;
      document.head.append(script);
    });
    return vega;
  }

  /** The specification with the page's colours, and one column where the page is narrow. */
  function specification(plot) {
    const style = getComputedStyle(plot);
    const ink = style.color;
    const text = plot.querySelector(".plot-specification").textContent;
    const light = JSON.parse(plot.querySelector(".plot-palette").textContent);
    const colours = text.replace(/var\((--plot-(\w+))\)/g, (_, name, key) => style.getPropertyValue(name).trim() || light[key]);
    const size = { labelFontSize: 12, titleFontSize: 12 }; // of pixels: more than the 8 points of the pictures
    const axis = { labelColor: ink, titleColor: ink, tickColor: ink, domainColor: ink, gridColor: "#8884", titleFontWeight: "normal", ...size };
    const narrow = plot.clientWidth < 640;
    const legend = { orient: "bottom", columns: narrow ? 2 : 4, labelColor: ink, ...size };
    return {
      ...JSON.parse(colours),
      columns: narrow ? 1 : 2,
      background: null,
      config: { axis, legend, title: { color: ink }, view: { stroke: null }, font: style.fontFamily },
    };
  }

  async function draw(plot) {
    const place = plot.querySelector(".plot-twin");
    const embed = await library();
    plot.view?.finalize();
    plot.view = await embed(place, specification(plot), { actions: false, renderer: "svg", tooltip: { theme: "custom" } });
  }

  function begin(plot) {
    const button = plot.querySelector(".plot-switch");
    if (!button || !here) return;
    const [picture, twin] = [plot.querySelector(".plot-panels"), plot.querySelector(".plot-twin")];
    button.hidden = false;
    button.addEventListener("click", async () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      if (on) {
        twin.hidden = false;
        try {
          await draw(plot);
        } catch {
          twin.textContent = "The interactive figure could not be loaded.";
        }
      }
      twin.hidden = !on;
      picture.classList.toggle("plot-printed", on);
      button.setAttribute("aria-pressed", String(on));
    });
    new MutationObserver(() => twin.hidden || draw(plot)).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".plot").forEach(begin));
})();
