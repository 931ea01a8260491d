(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const { css, draw, sortable } = page;

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

  document.querySelectorAll("table.sortable").forEach(sortable);

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
