"use strict";

/** The head maps of a study: one for each corruption, of a task or of the mean over tasks. */
function headMaps(study) {
  const tasks = [...new Set(study.corruptions.flatMap((run) => Object.keys(run.tasks)))].sort();
  const state = { task: "", value: "mean" };
  const figures = study.corruptions.map((run) =>
    mapFigure(`Head map of ${study.id}, ${named(run)}; the table below has its numbers`, study.heads.length, () => headMap(study, run, state.task, state.value)));
  const show = () => figures.forEach((figure) => redraw(figure.querySelector(".plot")));
  const section = element("section", {},
    element("h3", {}, `${study.model}, ${hyphened(study.component)}`),
    element("p", { class: "soft" }, `${study.names.length} heads, patched at the token “${study.token}”.`),
    element("div", { class: "controls" },
      choice("task", [["", "mean of all tasks"], ...tasks.map((task) => [task, taskName(task)])], "", (task) => { state.task = task; show(); }),
      choice("value", [["mean", "mean effect"], ["absolute", "mean |effect|"]], "mean", (value) => { state.value = value; show(); })),
    element("div", { class: "plots" }, figures));
  const list = element("details", {}, element("summary", {}, "All heads as a table"));
  list.addEventListener("toggle", () => { if (list.open && list.children.length === 1) list.append(headTable(study)); });
  section.append(list);
  return section;
}

/** A value of every head of a study under a corruption: of one task, or the mean over its tasks. */
function headValues(study, run, task, value) {
  const tasks = (task ? [run.tasks[task]] : Object.values(run.tasks)).filter(Boolean);
  return study.names.map((_, head) => mean(tasks.map((one) => one[value][head]).filter((one) => one !== null)));
}

function headMap(study, run, task, value) {
  const columns = study.heads.length;
  const values = headValues(study, run, task, value);
  const place = (head) => ({ x: head % columns, y: Math.floor(head / columns) });
  return heatmap({
    values: inRows(values, columns), columns: study.heads, rows: study.layers, title: named(run), xTitle: "head",
    hover: inRows(study.names.map((name, head) => `<b>${name}</b><br>${value === "mean" ? "mean effect" : "mean |effect|"} ${number(values[head], value === "mean")} ${DATA.metric.units}` +
      `<br>${importantIn(study, run, head)}<br>${functionOf(study, head)}`), columns),
    marks: study.names.map((_, head) => ({ ...place(head), text: headMark(study, run, head, task) })).filter((mark) => mark.text),
    click: (point) => { location.hash = headRoute(study, point.y * columns + point.x); },
  });
}

/** V, T or M for a universal head, a tick for one that holds up; else in how many tasks it is important ("•" in the one shown). */
function headMark(study, run, head, task) {
  const kind = study.notice?.kind[head] ?? "none", holds = (study.robust?.kind[head] ?? "none") !== "none" ? "✓" : "";
  if (kind !== "none") return kind[0].toUpperCase() + holds;
  const important = study.notice?.important[run.name] ?? {};
  const count = Object.values(important).filter((heads) => heads.includes(head)).length;
  const plain = task ? (important[task]?.includes(head) ? "•" : "") : count ? String(count) : "";
  return holds || plain;
}

function importantIn(study, run, head) {
  const important = study.notice?.important[run.name];
  if (!important) return "universal heads were not looked for here";
  return `important in ${Object.values(important).filter((heads) => heads.includes(head)).length} of ${Object.keys(run.tasks).length} tasks`;
}

/** The function of a head over all tasks, in words. */
function functionOf(study, head) {
  const found = study.functions, overall = found ? Math.max(found.tasks.indexOf("overall"), 0) : 0;
  return found?.classes.function ? `function: ${words(found.classes.function[overall][head])}` : "function: not run";
}

function headTable(study) {
  const runs = study.corruptions;
  const means = runs.map((run) => headValues(study, run, "", "mean"));
  return tableOf(`Mean over tasks of each head’s mean effect, ${DATA.metric.units}`,
    ["head", "kind", ...runs.flatMap((run) => [[`${run.name}: mean effect`, true], [`${run.name}: important in`, true]]), "function"],
    study.names.map((name, head) => [
      element("a", { href: headRoute(study, head) }, name), study.notice ? study.notice.kind[head] : MISSING,
      ...runs.flatMap((run, i) => [number(means[i][head], true), study.notice?.important[run.name] ? importantIn(study, run, head).replace("important in ", "") : MISSING]),
      functionOf(study, head).replace("function: ", ""),
    ]));
}

/** The place of a component among others: the sites in their order, then others. */
const rank = (component) => (DATA.components.includes(component) ? DATA.components.indexOf(component) : DATA.components.length);

/** The module maps of a model and data set: one component, a map for each corruption. */
function moduleMaps(model, dataset) {
  const here = DATA.modules.filter((one) => one.model === model && one.dataset === dataset);
  const components = [...new Set(here.map((one) => one.component))].sort((a, b) => rank(a) - rank(b));
  const splits = [...new Set(here.flatMap((one) => Object.keys(one.maps)))];
  const state = { component: components[0], split: "all" };
  const place = element("div", { class: "plots" });
  const show = () => {
    dropPlots(place);
    place.replaceChildren(...here.filter((one) => one.component === state.component && one.maps[state.split]).map((one) =>
      mapFigure(`Module map of ${model}, ${dataset}, ${one.component}, ${one.corruption}`, one.roles.length, () => moduleMap(one, state.split))));
  };
  show();
  return element("section", {},
    element("h3", {}, dataSets.size > 1 ? `${model}, ${dataset}` : model),
    element("div", { class: "controls" },
      choice("component", components.map((name) => [name, hyphened(name)]), state.component, (component) => { state.component = component; show(); }),
      choice("order of the options", splits, "all", (split) => { state.split = split; show(); })),
    place);
}

function moduleMap(one, split) {
  const values = inRows(one.maps[split], one.roles.length);
  return heatmap({
    values, columns: one.roles, rows: one.layers, title: `${named({ name: one.corruption, modality: one.modality })}, ${one.samples[split]} samples`,
    hover: values.map((row, layer) => row.map((value, role) => `layer ${one.layers[layer]}, ${plain(one.roles[role])}<br>mean effect ${number(value, true)} ${DATA.metric.units}`)),
  });
}

/** The shares of mean |effect| in the thirds of the layers, a plot for each component, its corruptions side by side. */
function showThirds() {
  for (const of of new Set(DATA.thirds.map((one) => one.of))) {
    const here = DATA.thirds.filter((one) => one.of === of), components = [...new Set(here.map((one) => one.component))];
    document.getElementById("thirds").append(element("h3", {}, of), element("div", { class: "plots" }, components.map((component) => {
      const series = here.filter((one) => one.component === component).map((one) => ({ name: one.corruption, points: one.thirds.map(([value, low, high]) => ({ value, low, high, note: `${one.samples} samples` })) }));
      const place = plot(`Share of mean |effect| in each third of the layers, ${of}, ${component}; the table below has the numbers`,
        () => dotPlot({ rows: ["early", "middle", "late"], series, xTitle: "share of mean |effect|", range: [-0.04, 1.02] }));
      return element("figure", { style: "flex: 0 1 15.2rem" }, element("figcaption", {}, component), place);
    })));
  }
}

function showMaps() {
  if (DATA.thirds.length) showThirds();
  document.getElementById("head-maps")?.append(...DATA.studies.map(headMaps));
  const places = new Map(DATA.modules.map((one) => [`${one.model}/${one.dataset}`, one]));
  document.getElementById("module-maps")?.append(...[...places.values()].map((one) => moduleMaps(one.model, one.dataset)));
}
