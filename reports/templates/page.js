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
    Plotly.purge(target);
    target.replaceChildren(p);
  };

  const draw = (target, figure, missing) => {
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
    const body = table.tBodies[0];
    const lines = [...body.rows].map((line, at) => ({ line, at, key: keyOf(line, place) }));
    const numeric = lines.every(({ key }) => key === null || !Number.isNaN(Number(key)));
    lines.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.at - b.at;
      const order = numeric ? Number(a.key) - Number(b.key) : String(a.key).localeCompare(String(b.key), undefined, { numeric: true });
      return direction * order || a.at - b.at;
    });
    body.append(...lines.map(({ line }) => line));
  };
  const sortable = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortBy(table, place, ascending ? 1 : -1);
    }));
  };

  return { css, draw, sortable };
})();
