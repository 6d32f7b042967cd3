"use strict";

/** The page of one head. */
function headPage(study, head) {
  const step = (to, text) => element("button", { type: "button", disabled: !(to in study.names), click: () => { location.hash = headRoute(study, to); } }, text);
  return [
    element("div", { class: "crumbs" },
      element("a", { href: "#heads" }, "← Head maps"), step(head - 1, "Previous head"),
      choice("Head ", study.names.map((name, i) => [i, name]), head, (to) => { location.hash = headRoute(study, Number(to)); }),
      step(head + 1, "Next head")),
    element("h1", {}, study.names[head], element("small", {}, `${study.model}, ${hyphened(study.component)}, patched at the token “${study.token}”`)),
    element("ul", { class: "badges" }, headBadges(study, head).map((text) => element("li", {}, text))),
    headEffects(study, head), headFunctions(study, head), headGallery(study, head), headSamples(study, head),
  ];
}

function headBadges(study, head) {
  const found = [];
  if (study.notice) found.push(study.notice.kind[head] === "none" ? "not universal by NOTICE’s rule" : `${study.notice.kind[head]} head by NOTICE’s rule`);
  found.push(!study.robust ? "whether it holds up: not run" : study.robust.kind[head] === "none" ? "does not hold up as universal" : `holds up: ${study.robust.kind[head]}`);
  found.push(functionOf(study, head));
  if (study.functions?.polysemantic.includes(head)) found.push("different functions in different tasks");
  return found;
}

function headEffects(study, head) {
  const tasks = [...new Set(study.corruptions.flatMap((run) => Object.keys(run.tasks)))].sort();
  const rows = study.corruptions.flatMap((run) => Object.entries(run.tasks).map(([task, of]) => [
    taskName(task), named(run), of.samples, number(of.mean[head], true), `${number(of.low[head], true)} to ${number(of.high[head], true)}`, number(of.absolute[head]),
    study.notice?.important[run.name] ? (study.notice.important[run.name][task]?.includes(head) ? "yes" : "no") : MISSING,
    study.robust?.important[run.name] ? (study.robust.important[run.name][task]?.includes(head) ? "yes" : "no") : MISSING,
  ]));
  const place = plot(`Mean effect of ${study.names[head]} in each task, with 95 % intervals; the table below has the numbers`, () => effectsByTask(study, head, tasks));
  const caption = `Mean effect in ${DATA.metric.units}; lines are 95 % intervals over samples.`;
  return element("section", {}, element("h2", {}, "Effects by task"), element("figure", {}, place, element("figcaption", {}, caption)),
    tableOf(`Effects of ${study.names[head]} by task`, ["task", "corruption", ["samples", true], ["mean effect", true], ["95 % interval", true], ["mean |effect|", true], "important, NOTICE’s rule", "important, holds up"], rows));
}

function effectsByTask(study, head, tasks) {
  const series = study.corruptions.map((run) => ({
    name: named(run),
    points: tasks.map((task) => run.tasks[task]).map((of) => of && { value: of.mean[head], low: of.low[head], high: of.high[head], note: `${of.samples} samples` }),
  }));
  return dotPlot({ rows: tasks.map(taskName), series, xTitle: `mean effect, ${DATA.metric.units}` });
}

function headFunctions(study, head) {
  const found = study.functions, section = element("section", {}, element("h2", {}, "What it looks at"));
  if (!found) {
    section.append(element("p", { class: "note" }, "Head functions of this component: not run. ", element("code", {}, DATA.commands["head functions"]), " makes them."));
    return section;
  }
  const at = found.heads.indexOf(head);
  const score = (name, task) => {
    if (name.startsWith("samples")) return found.scores[name][task][at] ?? MISSING;
    const ends = ["low", "high"].map((end) => found.scores[`${name}_${end}`]?.[task][at]);
    return number(found.scores[name][task][at]) + (ends[0] === undefined ? "" : ` [${ends.map((end) => number(end)).join(", ")}]`);
  };
  const tasks = ["score", ...found.tasks.map((task) => [taskName(task), true])];
  const rowsOf = (names, show) => names.map((name) => [words(name), ...found.tasks.map((_, task) => show(name, task))]);
  const scores = at < 0 ? [] : Object.keys(found.scores).filter((name) => !/_(low|high)$/.test(name));
  const rows = (names) => rowsOf(names, score);
  section.append(tableOf(`Function and main scores of ${study.names[head]}; in brackets 95 % intervals`, tasks,
    [...rowsOf(Object.keys(found.classes), (name, task) => words(found.classes[name][task][head])), ...rows(scores.filter((name) => DATA.main_scores.includes(name)))]));
  const others = scores.filter((name) => !DATA.main_scores.includes(name));
  if (others.length) section.append(element("details", {}, element("summary", {}, "All other scores"), tableOf(`Other scores of ${study.names[head]}`, tasks, rows(others))));
  if (at < 0) section.append(element("p", { class: "soft" }, "The scores of this head are not in this page; they are in head_functions.csv."));
  return section;
}

/** The picture with a map over it and the object's outline. */
function overlay(about, map, label) {
  const picture = [element("img", { src: DATA.pictures[about.picture], alt: "" })];
  if (map) picture.push(element("img", { class: "map", src: `data:image/png;base64,${map}`, alt: "" }));
  const over = element("div", { class: map ? "over mapped" : "over", role: "img", "aria-label": label }, picture);
  if (about.outline) over.insertAdjacentHTML("beforeend", `<svg viewBox="0 0 ${about.size[0]} ${about.size[1]}" preserveAspectRatio="none" aria-hidden="true"><path d="${about.outline}"/><path d="${about.outline}"/></svg>`);
  return over;
}

/** The picture, the head's attention and the mean of all heads', of the sample "<dataset>/<sample>". */
function trio(study, head, key) {
  const about = study.overlays.samples[key], map = study.overlays.maps[head]?.[key];
  const show = (of, text) => element("figure", {}, overlay(about, of, `${text}, sample ${key}`), element("figcaption", {}, text));
  return element("div", { class: "trio" }, show(null, "image"), show(map, study.names[head]), show(about.mean, "all heads"));
}

function headGallery(study, head) {
  const section = element("section", {}, element("h2", {}, "Attention on the image"));
  const found = study.overlays;
  if (!found || !found.maps[head]) {
    const why = found ? "The attention of this head is not in this page: only of the heads that tell most." : "Attention maps of this component: not run.";
    section.append(element("p", { class: "note" }, why));
    return section;
  }
  section.append(
    element("p", {}, "The first samples of each task: the image as the model saw it, this head’s attention, and the mean of all heads of the model. Outlined: the object asked about."),
    scaleBar(found),
    element("div", { class: "gallery" }, found.gallery.map((key) => element("div", {}, trio(study, head, key), sampleLine(study, key)))));
  return section;
}

function scaleBar(found) {
  return element("p", { class: "scale" }, "0", element("i", { style: `background: linear-gradient(to right, ${found.colours.join(",")})` }), `${found.limit} or more times an even share`);
}

/** A link to a sample, "<dataset>/<sample>", where it is in the page. */
function sampleLine(study, key) {
  const dataset = key.slice(0, key.indexOf("/")), id = key.slice(dataset.length + 1), place = placeOf(study.model, dataset);
  const row = place?.rows.find((one) => one.id === id);
  return element("p", { class: "soft" }, row ? element("a", { href: sampleRoute(place, id) }, id) : id, row ? `, ${row.category}: ${row.correct_answer}` : "");
}

function headSamples(study, head) {
  const section = element("section", {}, element("h2", {}, "Strongest and weakest samples"));
  const places = DATA.places.filter((place) => place.model === study.model);
  for (const run of study.corruptions) {
    const known = study.extremes[head]?.[run.name];
    const found = known ?? extremesHere(study, head, run, places);
    section.append(element("h3", {}, named(run)));
    if (!known) section.append(element("p", { class: "soft" }, "Among the samples in this page."));
    for (const [name, text] of [["strongest", "Largest effects"], ["weakest", `Smallest effects; below 0, ${run.name.endsWith("-noising") ? "its corrupt state takes the answer away" : "its clean state works against the answer"}`]]) {
      section.append(element("p", { class: "soft" }, text), element("div", { class: "gallery" }, found[name].map(([dataset, id, effect]) => {
        const key = `${dataset}/${id}`;
        return element("div", {},
          study.overlays?.samples[key] && study.overlays.maps[head]?.[key] ? trio(study, head, key) : sampleCard(placeOf(study.model, dataset), id, run.name),
          element("p", { class: "soft" }, element("strong", {}, `${number(effect, true)} ${DATA.metric.units}`)), sampleLine(study, key));
      })));
    }
  }
  return section;
}

/** The strongest and weakest samples of a head among those in the page. */
function extremesHere(study, head, run, places) {
  const found = places.flatMap((place) => place.rows.filter((row) => row.runs[run.name]?.heads[study.component])
    .map((row) => [place.dataset, row.id, unpack(row.runs[run.name].heads[study.component])[head]])).filter(([, , effect]) => effect !== null);
  found.sort(([, , a], [, , b]) => b - a);
  const many = Math.min(3, Math.floor(found.length / 2));
  return { strongest: found.slice(0, many), weakest: many ? found.slice(-many).reverse() : [] };
}
