"use strict";

const overview = document.getElementById("overview"), one = document.getElementById("one");
const title = document.title;
let wasAt = 0;

/** What an address names: the page of a head ("#model/component/L3.H2"), of a sample ("#sample/model/dataset/id"), or null. */
function pageAt(hash) {
  const parts = hash.slice(1).split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  if (parts[0] === "sample" && parts.length === 4) {
    const place = placeOf(parts[1], parts[2]), row = place?.rows.find((sample) => sample.id === parts[3]);
    if (row) return { name: row.id, make: () => samplePage(place, row) };
  } else if (parts.length === 3) {
    const study = STUDIES.get(`${parts[0]}/${parts[1]}`), head = study ? study.names.indexOf(parts[2]) : -1;
    if (head >= 0) return { name: `${study.names[head]}, ${study.model}`, make: () => headPage(study, head) };
  }
  if (parts.length < 3) return null;
  return { name: "not in this page", make: () => [element("h1", {}, "Not in this page"), element("p", {}, `Nothing here is called ${parts.join("/")}.`), element("a", { href: "#top" }, "← To the report")] };
}

/** Show what the address names. */
function follow() {
  const page = pageAt(location.hash);
  if (page && one.hidden) wasAt = scrollY;
  dropPlots(one);
  one.replaceChildren(...(page ? page.make() : []));
  one.hidden = !page;
  overview.hidden = Boolean(page);
  document.title = page ? `${page.name} · ${title}` : title;
  if (page) {
    scrollTo(0, 0);
    one.focus({ preventScroll: true });
  } else {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (target) target.scrollIntoView();
    else scrollTo(0, wasAt);
  }
}

function start() {
  theme.start();
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  const wide = matchMedia("(min-width: 70rem)"), menu = document.getElementById("menu");
  const fit = () => { menu.open = wide.matches; };
  wide.addEventListener("change", fit);
  fit();
  showMaps();
  showCurves();
  sampleBrowser();
  addEventListener("hashchange", follow);
  follow();
}

start();
