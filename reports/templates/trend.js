(() => {
  const plots = JSON.parse(document.getElementById("payload").textContent);
  const figure = (plot) => ({
    data: [{
      type: "scatter", mode: "lines+markers", x: plot.time, y: plot.value, text: plot.commit,
      hovertemplate: "%{text}<br>%{y:.4g} " + plot.unit + "<br>%{x}<extra></extra>",
      line: { color: "#3b82c4", width: 1.5 }, marker: { size: 5 },
      error_y: {
        type: "data", symmetric: false, thickness: 1, width: 0,
        array: plot.high.map((v, i) => v - plot.value[i]), arrayminus: plot.low.map((v, i) => plot.value[i] - v),
      },
    }],
    layout: {
      height: 260, template: "none", margin: { l: 64, r: 16, t: 24, b: 40 }, showlegend: false,
      font: { family: "system-ui, sans-serif", size: 12 },
      xaxis: { type: "date" }, yaxis: { title: { text: plot.unit } },
      shapes: plot.changes.map((c) => ({
        type: "line", x0: c.time, x1: c.time, yref: "paper", y0: 0, y1: 1,
        line: { dash: "dot", width: 1.5, color: c.better ? "#2a9d74" : "#c8553d" },
      })),
      annotations: plot.changes.map((c) => ({
        x: c.time, yref: "paper", y: 1.04, yanchor: "bottom", showarrow: false, text: c.short,
        font: { size: 11, color: c.better ? "#2a9d74" : "#c8553d" }, hovertext: c.text,
      })),
    },
  });
  const drawAll = () => plots.forEach((plot, i) => page.draw(document.getElementById(`trend${i}`), figure(plot)));
  document.querySelectorAll("table.sortable").forEach(page.sortable);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);
  drawAll();
})();
