(() => {
  const plots = JSON.parse(document.getElementById("payload").textContent);
  document.querySelectorAll("table.sortable").forEach(page.sortable);
  page.keepDrawn(() => plots.forEach((plot, i) => page.draw(document.getElementById(`trend${i}`), page.trend(plot))));
})();
