"use strict";

const DATA = JSON.parse(document.getElementById("report-data").textContent);
const STUDIES = new Map(DATA.studies.map((study) => [study.id, study]));
const MISSING = "–";

/** An element with attributes (functions are listeners) and children (elements or text; null is left out). */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** A labelled select; `options` are values, or [value, text]. */
function choice(label, options, chosen, onChange) {
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  const select = element("select", { change: () => onChange(select.value) },
    pairs.map(([value, text]) => element("option", { value, selected: String(value) === String(chosen) }, text)));
  return element("label", {}, label, select);
}

/** A number to three significant digits, with a proper minus; a dash where it is missing. */
function number(value, sign = false) {
  if (value === null || value === undefined) return MISSING;
  const size = Math.abs(value);
  const text = size === 0 ? "0" : size >= 1e3 && size < 1e6 ? String(Math.round(size)) : size >= 1e-4 && size < 1e3 ? size.toPrecision(3) : size.toExponential(2);
  return (value < 0 ? "−" : sign && value > 0 ? "+" : "") + text;
}

const words = (name) => name.replaceAll("_", " ");
const hyphened = (name) => name.replaceAll("_", "-");
const named = (run) => (run.modality ? `${run.name} (${run.modality})` : run.name);
const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);

/** The values of a packed map; null where there is none. */
function unpack(map) {
  const bytes = Uint8Array.from(atob(map.data), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length / 2 }, (_, i) => {
    const step = view.getInt16(2 * i, true);
    return step === -32768 ? null : step * map.scale;
  });
}

/** Text as plotly shows it: it reads tags. */
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/** A token's text with its blanks made visible. */
const visible = (text) => text.replaceAll(/[▁Ġ ]/g, "␣").replaceAll(/[\nĊ]/g, "⏎") || "␣";

/** A list as rows of equal length. */
const inRows = (list, columns) => Array.from({ length: list.length / columns }, (_, row) => list.slice(row * columns, (row + 1) * columns));

const route = (...parts) => "#" + parts.map(encodeURIComponent).join("/");
const headRoute = (study, head) => route(study.model, study.component, study.names[head]);
const sampleRoute = (place, id) => route("sample", place.model, place.dataset, id);
const placeOf = (model, dataset) => DATA.places.find((place) => place.model === model && place.dataset === dataset);
const dataSets = new Set(DATA.places.map((place) => place.dataset));

/** "dataset/category", without the data set where there is one only. */
const taskName = (task) => (dataSets.size === 1 ? task.slice(task.indexOf("/") + 1) : task);
