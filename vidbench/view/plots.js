// Plots get a role and a name for screen readers; plotly gives them neither. They are as wide as their
// place, up to 760 pixels: plotly draws them again only when the window changes, so this says that it has.
// Printed sentences break between words; JupyterLab breaks them anywhere.
// A lasso that begins inside the last one starts a new one: plotly would move the last one instead.
(() => {
  if (globalThis.vidbenchPlots) return;
  globalThis.vidbenchPlots = true;
  const style = document.createElement("style");
  style.textContent = `.js-plotly-plot, .jp-RenderedPlotly { max-width: 760px; }
    .js-plotly-plot :is(.selectionlayer, .outline-controllers) * { pointer-events: none !important; }
    .jp-OutputArea-output > pre { word-break: normal !important; overflow-wrap: anywhere; }`;
  document.head.append(style);
  const redraw = () => window.dispatchEvent(new Event("resize"));
  const drawn = plot => plot.querySelector(".main-svg")?.clientWidth;
  const follow = new ResizeObserver(seen => {
    if (seen.some(({ target, contentRect: { width } }) => width && Math.abs(width - drawn(target)) > 1)) redraw();
  });
  let waits = 0;
  const label = () => {
    waits = 0;
    for (const plot of document.querySelectorAll(".js-plotly-plot")) {
      // plotly forgets the height of a figure that follows its place, and its place has no height
      const height = plot.layout?.height ?? plot._fullLayout?.height;
      if (height) plot.style.height = `${height}px`;
      follow.observe(plot);
      const title = plot.querySelector(".gtitle"), lines = [...(title?.querySelectorAll("tspan.line") ?? [])];
      const words = (lines.length ? lines : [title]).map(one => one?.textContent ?? "").join(" ") || "plot";
      if (plot.getAttribute("aria-label") === words) continue;
      plot.setAttribute("role", plot.closest(".vidbench-plot") ? "group" : "img");  // one clicks in a group
      plot.setAttribute("aria-label", words);
    }
  };
  const later = () => { waits ||= setTimeout(label, 500); };
  new MutationObserver(later).observe(document.documentElement, { childList: true, subtree: true });
  later();
})();
