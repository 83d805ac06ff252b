"use strict";

for (const block of document.querySelectorAll(".filtered")) {
  const form = block.querySelector("form");
  const status = form.querySelector("[role=status]");
  const score = form.elements.namedItem("score");
  const items = [...block.querySelectorAll("tbody tr, .card")];
  const chosen = (name) => form.elements.namedItem(name)?.value ?? "";

  const apply = () => {
    const [wantedClass, wantedKind, least] = [chosen("class"), chosen("kind"), Number(chosen("score"))];
    let shown = 0;
    for (const item of items) {
      const { classes, kind, score } = item.dataset;
      const fits =
        (!wantedClass || (classes !== undefined && JSON.parse(classes).includes(wantedClass))) &&
        (!wantedKind || kind === wantedKind) &&
        (score === undefined || Number(score) >= least);
      item.hidden = !fits;
      shown += fits;
    }
    if (score) score.parentElement.querySelector("output").value = least.toFixed(2);
    const noun = status.dataset.noun;
    status.textContent = shown === items.length ? `${shown} ${noun}` : `${shown} of ${items.length} ${noun}`;
  };

  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply(); // a browser may have kept the choices of an earlier visit
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const column = button.parentElement;
    const body = column.closest("table").tBodies[0];
    const numbers = column.classList.contains("number");
    const was = column.getAttribute("aria-sort");
    const ascending = was ? was === "descending" : !numbers;
    const key = (row) => {
      const cell = row.cells[column.cellIndex];
      return numbers ? Number(cell.dataset.value ?? NaN) : cell.textContent;
    };
    const compare = (a, b) => (numbers ? a - b : a.localeCompare(b, undefined, { numeric: true }));
    const rows = [...body.rows].map((row) => [key(row), row]);
    rows.sort(([a], [b]) => {
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // what is missing comes last
      return ascending ? compare(a, b) : compare(b, a);
    });
    body.append(...rows.map(([, row]) => row));
    for (const other of column.parentElement.cells) other.removeAttribute("aria-sort");
    column.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  });
}

const dialog = document.querySelector("dialog");
for (const button of document.querySelectorAll("button.zoom")) {
  button.addEventListener("click", () => {
    const close = document.createElement("button");
    close.textContent = "Close";
    const pictures = button.closest(".card").querySelectorAll("figure");
    dialog.replaceChildren(close, ...[...pictures].map((picture) => picture.cloneNode(true)));
    dialog.showModal();
  });
}
dialog.addEventListener("click", () => dialog.close());
