(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const { css, draw, facts, keepDrawn, sortable, trend } = page;

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

  // --- the filter: words, limits on columns, places, the front

  const heads = [...document.querySelectorAll("#tradeoff thead th")];
  const table = document.getElementById("tradeoff");
  const lines = [...table.querySelectorAll("tbody tr:not(.group)")];
  const filter = document.getElementById("filter");
  const selects = [...document.querySelectorAll("[data-filter]")];
  const frontOnly = document.getElementById("front-only");
  const words = new Map(lines.map((line) => [line, line.textContent.toLowerCase()]));
  const tests = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };

  // A word of the filter as a question to a line.
  const asked = (word) => {
    const [, name, sign, bound] = /^([\w-]+)(<=|>=|<|>|=)(-?\d+\.?\d*)$/.exec(word) ?? [];
    const places = heads.flatMap((head, place) => (head.dataset.name === name ? [place] : []));
    if (!name || !places.length) return (line) => words.get(line).includes(word);
    return (line) => places.some((place) => {
      const { order } = line.children[place].dataset;
      return order !== "" && tests[sign](Number(order) * Number(heads[place].dataset.scale), Number(bound));
    });
  };

  let most = Math.max(1, lines.filter((line) => !line.classList.contains("later")).length);
  const narrow = () => {
    const questions = filter.value.toLowerCase().split(/\s+/).filter(Boolean).map(asked);
    for (const select of selects) if (select.value) questions.push((line) => line.getAttribute(`data-${select.dataset.filter}`) === select.value);
    if (frontOnly.checked) questions.push((line) => line.classList.contains("front"));
    let shown = 0;
    for (const line of table.querySelectorAll("tbody tr:not(.group)")) {
      line.hidden = !questions.every((question) => question(line));
      line.classList.toggle("later", !line.hidden && shown >= most);
      shown += !line.hidden;
    }
    for (const group of document.querySelectorAll("#tradeoff tr.group")) {
      group.hidden = [...group.parentElement.rows].every((line) => line === group || line.hidden);
    }
    document.getElementById("count").textContent = shown === lines.length ? `${shown} lines` : `${shown} of ${lines.length} lines`;
  };
  for (const control of [filter, frontOnly, ...selects]) control.addEventListener("input", narrow);
  table.addEventListener("sorted", narrow);
  new IntersectionObserver(([end]) => {
    if (!end.isIntersecting || !table.querySelector(".later")) return;
    most += 100;
    narrow();
  }, { root: table.parentElement, rootMargin: "800px" }).observe(document.getElementById("more"));
  narrow();

  // --- what is behind a number: #cell-PLACE/COLUMN

  const dialog = document.getElementById("detail");
  const colours = ["#3b82c4", "#d9822b", "#2a9d74", "#b85c9e", "#8a6fd1", "#c9a227", "#5aa9c9", "#c8553d"];
  const timed = ["latency", "faster", "p90", "p95", "p99", "throughput"];
  const ofClasses = ["accuracy", "change", "val-accuracy", "val-change", "top5"];
  const layout = (x, y) => ({
    height: 300, template: "none", margin: { l: 56, r: 16, t: 16, b: 44 }, hovermode: "closest",
    legend: { orientation: "h", yanchor: "bottom", y: 1.02, x: 0 }, font: { family: "system-ui, sans-serif", size: 12 },
    xaxis: { title: { text: x }, automargin: true }, yaxis: { title: { text: y }, automargin: true },
  });

  const callsOf = (calls) => ({
    data: calls.ms.map((values, i) => ({
      type: "scatter", mode: "markers", name: `process ${i + 1}`, x: values.map((_, at) => at * calls.step + 1), y: values,
      marker: { size: 4, color: colours[i % colours.length] }, hovertemplate: "call %{x}: %{y} ms<extra></extra>",
    })),
    layout: layout("call of the steady state", "ms"),
  });
  const processesOf = (values, unit) => ({
    data: [{ type: "scatter", mode: "markers", x: values.map((_, i) => i + 1), y: values, marker: { size: 9, color: colours[0] }, hovertemplate: "process %{x}: %{y:.4g}<extra></extra>" }],
    layout: { ...layout("process", unit), showlegend: false },
  });

  const ordinal = (n) => (n === 2 ? "second" : `${n}${(n % 100 < 11 || n % 100 > 13) && [, "st", "nd", "rd"][n % 10] || "th"}`);

  const figureOf = (cell, name) => {
    if (timed.includes(name)) {
      const { calls } = cell;
      if (!calls.ms) return [null, calls.reason];
      return [callsOf(calls), "", calls.step > 1 ? `Every ${ordinal(calls.step)} call is shown; the number is of all of them.` : "Every call is shown."];
    }
    const values = cell.processes[name];
    if (values) return [processesOf(values, data.details.columns[name].unit), "", "One value of each process."];
    return [null, ofClasses.includes(name) ? "it is counted over images; see the confusion matrix" : "it is of the file, measured once"];
  };

  const describe = (cell, name) => {
    const { columns, words: methods, same } = data.details;
    const [shown, n, how, method] = cell.numbers[name];
    const column = columns[name];
    document.getElementById("detail-title").textContent = cell.title;
    document.getElementById("detail-value").textContent = `${column.title} ${shown}`;
    facts(document.getElementById("detail-facts"), [
      ...(column.about ? [["what", column.about]] : []),
      ["how", how], ["n", n ?? "not recorded"], ["method", methods[method]],
      ...cell.notes.map((note) => ["note", note]),
    ]);
    const others = Object.entries(cell.numbers).filter(([other]) => other !== name);
    facts(document.getElementById("detail-others"), others.map(([other, [value, , way]]) => [columns[other].title, `${value} (${way})`]));
    facts(document.getElementById("detail-environment"), [...cell.environment, ...same]);
    const [figure, why, note] = figureOf(cell, name);
    document.getElementById("detail-note").textContent = note ?? "";
    draw(document.getElementById("detail-plot"), figure, why);
  };

  const classesOf = (place) => data.classified.findIndex(({ cells }) => cells.includes(place));
  const follow = () => {
    const [, place, name] = /^#cell-(\d+)\/([\w-]+)$/.exec(location.hash) ?? [];
    const cell = data.details.cells[place];
    if (!cell || !cell.numbers[name]) return dialog.open && dialog.close();
    describe(cell, name);
    const classes = classesOf(Number(place));
    const link = document.getElementById("detail-classes");
    link.hidden = classes < 0;
    link.querySelector("a").onclick = () => {
      document.getElementById("classified").value = classes;
      drawClasses();
    };
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };
  dialog.addEventListener("close", () => {
    if (location.hash.startsWith("#cell-")) history.replaceState(null, "", "#table");
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  addEventListener("hashchange", follow);

  document.getElementById("setting")?.addEventListener("change", drawSetting);
  document.getElementById("classified")?.addEventListener("change", drawClasses);
  keepDrawn(() => {
    drawSetting();
    drawCurves();
    drawClasses();
    data.trends.forEach((plot, i) => draw(document.getElementById(`trend${i}`), trend(plot)));
  });
  follow();
  performance.mark("usable");
})();
