(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  document.querySelectorAll("table.sortable").forEach(page.sortable);
  page.keepDrawn(() => page.draw(document.getElementById("layers"), data.figure));
})();
