"use strict";
(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Plotly's own colours, from the page's: light or dark.
  const themed = (layout) => {
    const axis = { gridcolor: css("--grid"), zerolinecolor: css("--line"), linecolor: css("--line"), tickcolor: css("--line"), showline: true };
    return {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { ...layout.font, color: css("--ink") },
      hoverlabel: { bgcolor: css("--surface"), bordercolor: css("--line"), font: { color: css("--ink") } },
      xaxis: { ...layout.xaxis, ...axis },
      yaxis: { ...layout.yaxis, ...axis },
    };
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

  const drawSetting = () => {
    const select = document.getElementById("setting");
    const chosen = data.settings[select ? Number(select.value) : 0];
    for (const target of document.querySelectorAll("[data-setting]")) {
      const name = target.dataset.setting;
      draw(target, chosen && chosen.figures[name], chosen && chosen.missing[name]);
    }
  };

  const drawCurves = () => {
    for (const target of document.querySelectorAll("[data-curve]")) draw(target, data.curves[target.dataset.curve]);
  };

  const percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(1));

  const escaped = (value) => String(value).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  const drawConfusion = (cell) => {
    const shares = cell.confusion.map((line) => {
      const sum = line.reduce((a, b) => a + b, 0);
      return line.map((count) => (sum ? count / sum : 0));
    });
    // Two classes may have the same name once it is shortened: number the axis, name the ticks.
    const places = cell.labels.map((_, i) => i);
    const names = cell.labels.map((label) => escaped(label.length > 14 ? label.slice(0, 13) + "…" : label));
    const figure = structuredClone(data.confusion);
    const trace = figure.data[0];
    Object.assign(trace, { z: shares, x: places, y: places, colorscale: [[0, css("--surface")], [1, css("--heat")]] });
    trace.hovertext = cell.confusion.map((line, i) =>
      line.map((count, j) => `true ${escaped(cell.labels[i])}, predicted ${escaped(cell.labels[j])}: ${count} (${percent(shares[i][j])}%)`));
    if (places.length <= 20) {
      trace.text = cell.confusion.map((line) => line.map((count) => (count ? String(count) : "")));
      trace.texttemplate = "%{text}";
    }
    const some = places.filter((i) => i % Math.ceil(places.length / 50) === 0);
    for (const axis of [figure.layout.xaxis, figure.layout.yaxis]) {
      Object.assign(axis, { type: "linear", tickmode: "array", tickvals: some, ticktext: some.map((i) => names[i]), showgrid: false, zeroline: false });
    }
    figure.layout.xaxis.range = [-0.5, places.length - 0.5];
    figure.layout.yaxis.range = [places.length - 0.5, -0.5];
    delete figure.layout.yaxis.autorange;
    return draw(document.getElementById("confusion"), figure);
  };

  const fillClasses = (cell) => {
    const body = document.querySelector("#per-class tbody");
    body.replaceChildren(...cell.per_class.map((row) => {
      const line = document.createElement("tr");
      const interval = row.recall_low == null ? "" : ` [${percent(row.recall_low)}, ${percent(row.recall_high)}]`;
      const shown = [[row.label, row.label], [row.n, row.n], [percent(row.precision), row.precision], [percent(row.recall) + interval, row.recall], [percent(row.f1), row.f1]];
      shown.forEach(([value, order], place) => {
        const field = document.createElement(place ? "td" : "th");
        field.textContent = value;
        field.dataset.order = order == null ? "" : order;
        if (place) field.className = "number"; else field.scope = "row";
        line.append(field);
      });
      return line;
    }));
    const facts = [`accuracy ${cell.accuracy} % of ${cell.n} images`];
    for (const [key, name] of [["balanced_accuracy", "balanced accuracy"], ["macro_f1", "macro F1"], ["top5", "top-5"], ["auc_roc", "AUC-ROC"]]) {
      if (typeof cell[key] === "number") facts.push(`${name} ${key === "auc_roc" ? cell[key].toFixed(4) : percent(cell[key]) + " %"}`);
    }
    document.getElementById("class-summary").textContent = facts.join(" · ");
  };

  const drawClasses = () => {
    const select = document.getElementById("classified");
    if (!select) return;
    const cell = data.classified[Number(select.value)];
    fillClasses(cell);
    drawConfusion(cell);
    for (const head of document.querySelectorAll("#per-class thead th")) head.setAttribute("aria-sort", "none");
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
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortBy(table, place, ascending ? 1 : -1);
    }));
  }

  const filter = document.getElementById("filter");
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const line of document.querySelectorAll("#tradeoff tbody tr")) {
      const inside = line.textContent.toLowerCase();
      line.hidden = !words.every((word) => inside.includes(word));
    }
  });

  const drawAll = () => { drawSetting(); drawCurves(); drawClasses(); };
  document.getElementById("setting")?.addEventListener("change", drawSetting);
  document.getElementById("classified")?.addEventListener("change", drawClasses);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);
  drawAll();
})();
