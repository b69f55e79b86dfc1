function compare(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return sign * (isNaN(a) - isNaN(b) || (isNaN(a) ? a.localeCompare(b) : a - b));
}
for (const button of document.querySelectorAll(".sortable th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const isFalling = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", isFalling ? "descending" : "ascending");
    const key = row => row.cells[head.cellIndex].dataset.sort;
    const sign = isFalling ? -1 : 1;
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b), sign)));
  });
}
