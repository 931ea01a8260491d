(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const drawAll = () => page.draw(document.getElementById("layers"), data.figure);
  document.querySelectorAll("table.sortable").forEach(page.sortable);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);
  drawAll();
})();
