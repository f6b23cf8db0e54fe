// Plots get a role and a name for screen readers; plotly gives them neither.
(() => {
  if (globalThis.vidbenchPlots) return;
  globalThis.vidbenchPlots = true;
  let waits = 0;
  const label = () => {
    waits = 0;
    for (const plot of document.querySelectorAll(".js-plotly-plot")) {
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
