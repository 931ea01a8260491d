"use strict";
// What every page shares: plotly in the page's own colours, tables that sort.
const page = (() => {
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Plotly's own colours, from the page's: light or dark.
  const themed = (layout) => {
    const axis = { gridcolor: css("--grid"), zerolinecolor: css("--line"), linecolor: css("--line"), tickcolor: css("--line"), showline: true };
    const made = {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { ...layout.font, color: css("--ink") },
      hoverlabel: { bgcolor: css("--surface"), bordercolor: css("--line"), font: { color: css("--ink") } },
    };
    for (const name of new Set(["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))])) {
      made[name] = { ...layout[name], ...axis };
    }
    return made;
  };

  const say = (target, words) => {
    const p = document.createElement("p");
    p.className = "none";
    p.textContent = words;
    window.Plotly?.purge(target);
    target.replaceChildren(p);
  };

  // Plotly is most of the page: it comes last and is read when the first plot comes near, so that the tables are there at once.
  const load = () => {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  };
  const waiting = new Map();
  const now = (target) => {
    const figure = waiting.get(target);
    waiting.delete(target);
    watcher.unobserve(target);
    if (figure[0]) load();
    paint(target, ...figure);
  };
  // Each in a task of its own: a plot of 500 bars takes a second.
  const soon = (target) => {
    if (document.readyState === "loading") addEventListener("DOMContentLoaded", () => soon(target), { once: true });
    else setTimeout(() => waiting.has(target) && now(target));
  };
  const watcher = new IntersectionObserver(
    (seen) => seen.forEach(({ target, isIntersecting }) => isIntersecting && soon(target)),
    { rootMargin: "400px" },
  );
  const draw = (target, figure, missing) => {
    waiting.set(target, [figure, missing]);
    watcher.observe(target);
  };
  const drawWaiting = () => [...waiting.keys()].forEach(now);
  addEventListener("beforeprint", drawWaiting);

  // `drawAll` draws every plot of a page; again when the colours change.
  const keepDrawn = (drawAll) => {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    matchMedia("print").addEventListener("change", (change) => {
      drawAll();
      if (change.matches) drawWaiting();
    });
    drawAll();
  };

  const paint = (target, figure, missing) => {
    if (!figure) return say(target, `No value: ${missing || "not recorded"}.`);
    if (target.querySelector(".none")) target.replaceChildren();
    // Fewer ticks and shorter labels where the page is narrow.
    const layout = structuredClone(figure.layout);
    const narrow = target.clientWidth < 480;
    if (narrow) {
      layout.font = { ...layout.font, size: 10 };
      layout.margin = { ...layout.margin, l: 40, r: 8 };
    }
    const traces = figure.data.map((trace) => (narrow && trace.mode === "markers+text" ? { ...trace, mode: "markers" } : trace));
    return Plotly.react(target, traces, themed(layout), config);
  };

  // Missing values stay last in both directions.
  const keyOf = (line, place) => {
    const field = line.children[place];
    const raw = field.dataset.order ?? field.textContent;
    return raw === "" ? null : raw;
  };
  const sortBy = (table, place, direction) => {
    const bodies = [...table.tBodies].map((body) => [body, [...body.rows].filter((line) => !line.classList.contains("group"))]);
    const numeric = bodies.every(([, lines]) => lines.every((line) => !Number.isNaN(Number(keyOf(line, place) ?? 0))));
    for (const [body, rows] of bodies) {
      const lines = rows.map((line, at) => ({ line, at, key: keyOf(line, place) }));
      lines.sort((a, b) => {
        if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.at - b.at;
        const order = numeric ? Number(a.key) - Number(b.key) : String(a.key).localeCompare(String(b.key), undefined, { numeric: true });
        return direction * order || a.at - b.at;
      });
      body.append(...lines.map(({ line }) => line));
    }
  };
  const sortable = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortBy(table, place, ascending ? 1 : -1);
      table.dispatchEvent(new Event("sorted"));
    }));
  };

  // A series of the history, its changes dotted.
  const trend = (plot) => ({
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

  // A list of terms; text that stays text.
  const facts = (list, pairs) => list.replaceChildren(...pairs.map(([name, value]) => {
    const line = document.createElement("div");
    for (const [tag, words] of [["dt", name], ["dd", value]]) {
      const part = document.createElement(tag);
      part.textContent = words;
      line.append(part);
    }
    return line;
  }));

  return { css, draw, facts, keepDrawn, sortable, trend };
})();
