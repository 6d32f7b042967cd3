"use strict";

/** What a cell is sorted by: its data-value, a number in its text ("−0.3", "2 of 4", "1.2e−5"), or the text. */
function sortValue(cell) {
  const text = cell.dataset.value ?? cell.textContent.trim();
  const head = /^L(\d+)\.H(\d+)/.exec(text);
  if (head) return Number(head[1]) * 1e4 + Number(head[2]);
  const found = /^[+−-]?(\d+\.?\d*|\.\d+)(e[+−-]?\d+)?/i.exec(text.replaceAll("−", "-"));
  if (found) return Number(found[0]);
  return text === "" || text === MISSING ? null : text.toLowerCase();
}

/** Sort the rows of a table by one column; missing values stay last, equal ones keep their order. */
function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [sortValue(row.cells[column]), row]);
  const sign = descending ? -1 : 1;
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return sign * (a < b ? -1 : a > b ? 1 : 0);
  });
  body.append(...rows.map(([, row]) => row));
  [...table.tHead.rows[0].cells].forEach((header, i) => {
    if (i === column) header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else header.removeAttribute("aria-sort");
  });
}

/** Give every column of a table a button that sorts by it: numbers from the largest, then from the smallest. */
function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const group = header.querySelector("span");
    const button = element("button", { type: "button", title: "Sort by this column" });
    button.append(...[...header.childNodes].filter((node) => node !== group));
    button.addEventListener("click", () => {
      const order = header.getAttribute("aria-sort");
      sortBy(table, column, order ? order === "ascending" : header.classList.contains("n"));
    });
    header.append(button);
  });
}

/** A table that sorts: `columns` are names, or [name, true] for numbers; `rows` hold text or elements. */
function tableOf(caption, columns, rows) {
  const pairs = columns.map((column) => (Array.isArray(column) ? column : [column, false]));
  const table = element("table", { class: "sortable" },
    element("caption", {}, element("span", {}, caption)),
    element("thead", {}, element("tr", {}, pairs.map(([name, isNumber]) => element("th", { scope: "col", class: isNumber && "n" }, name)))),
    element("tbody", {}, rows.map((row) => element("tr", {}, row.map((cell, i) => element(i ? "td" : "th", { scope: i ? null : "row", class: pairs[i][1] && "n" }, cell))))));
  makeSortable(table);
  return element("div", { class: "table" }, table);
}
