"use strict";

const PAGE_OF_SAMPLES = 24;
const ORDERS = [["listed", "as listed"], ["fall", "P(correct) falls most"], ["stay", "P(correct) falls least"]];
const percent = (p) => (p === null ? MISSING : `${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`);

/** The words of a corrupt prompt, those that differ from the clean one's marked. */
function marked(corrupt, clean) {
  const before = clean.split(/(\s+)/);
  return corrupt.split(/(\s+)/).map((word, i) => (word.trim() && word !== before[i] ? element("mark", {}, word) : word));
}

/** Without the image's placeholder and the words of the template around it. */
const shortPrompt = (prompt) => prompt.replace(/^.*<image>\s*/s, "").replace(/\s*(ASSISTANT:|Answer with one word\.)\s*/g, " ").trim();

const thumbnail = (number, text) => (number === undefined ? null : element("img", { src: DATA.pictures[number], alt: text, loading: "lazy" }));

/** A sample in short: its pictures, what was asked, and P(correct) in the clean and the corrupt run. */
function sampleCard(place, id, corruption) {
  const row = place?.rows.find((one) => one.id === id);
  if (!row) return element("div", { class: "sample" }, id);
  const run = row.runs[corruption] ?? {};
  return element("a", { class: "sample", href: sampleRoute(place, id) },
    element("div", { class: "pair" }, thumbnail(row.picture, "clean image"), thumbnail(run.picture, "corrupt image")),
    element("div", {}, element("strong", {}, row.category), element("div", { class: "clamp" }, shortPrompt(row.prompt)),
      element("div", { class: "soft" }, `${row.correct_answer}: ${run.p ? `${percent(run.p[0])} → ${percent(run.p[2])}` : "not run"}`)));
}

/** The sample browser: choose, search, sort. */
function sampleBrowser() {
  const box = document.getElementById("browser");
  const places = DATA.places.filter((place) => place.rows.length);
  if (!places.length) {
    box.append(element("p", { class: "note" }, "No samples: no effects were measured."));
    return;
  }
  const state = { place: 0, category: "", corruption: Object.keys(places[0].runs)[0], order: "listed", search: "", many: PAGE_OF_SAMPLES };
  const controls = element("div", { class: "controls" }), said = element("p", { class: "soft", "aria-live": "polite" });
  const list = element("div", { class: "samples" });
  const more = element("button", { type: "button", click: () => { state.many += PAGE_OF_SAMPLES; show(); } }, "Show more");
  const search = element("input", { type: "search", placeholder: "id, question or answer", input: () => set({ search: search.value.toLowerCase() }) });
  const set = (change) => { Object.assign(state, { many: PAGE_OF_SAMPLES }, change); show(); };
  const setPlace = (place) => {
    const runs = Object.keys(places[place].runs);
    set({ place: Number(place), category: "", corruption: runs.includes(state.corruption) ? state.corruption : runs[0] });
    showControls();
  };
  const showControls = () => {
    const place = places[state.place];
    controls.replaceChildren(
      choice("model and data set", places.map((one, i) => [i, `${one.model}, ${one.dataset}`]), state.place, setPlace),
      choice("category", [["", "all"], ...Object.keys(place.categories)], state.category, (category) => set({ category })),
      choice("corruption", Object.entries(place.runs).map(([name, run]) => [name, named({ name, modality: run.modality })]), state.corruption, (corruption) => set({ corruption })),
      choice("order", ORDERS, state.order, (order) => set({ order })),
      element("label", {}, "search", search));
  };
  const show = () => {
    const place = places[state.place], found = chosenRows(place, state);
    const here = Object.values(place.categories).reduce(([shown, all], [a, b]) => [shown + a, all + b], [0, 0]);
    said.textContent = `${found.length} of the ${here[0]} samples in this page${here[0] < here[1] ? ` (the results have ${here[1]})` : ""}. Percentages: P(correct) in the clean, then in the corrupt run.`;
    list.replaceChildren(...found.slice(0, state.many).map((row) => sampleCard(place, row.id, state.corruption)));
    more.hidden = found.length <= state.many;
  };
  showControls();
  box.append(controls, said, list, more);
  show();
}

function chosenRows(place, { category, corruption, order, search }) {
  const found = place.rows.filter((row) => (!category || row.category === category) &&
    (!search || [row.id, row.prompt, row.correct_answer, row.incorrect_answer].some((text) => text.toLowerCase().includes(search))));
  if (order === "listed") return found;
  const fall = (row) => (row.runs[corruption] ? row.runs[corruption].p[0] - row.runs[corruption].p[2] : -Infinity);
  return found.sort((a, b) => (order === "fall" ? fall(b) - fall(a) : fall(a) - fall(b)));
}

/** The page of one sample. */
function samplePage(place, row) {
  const i = place.rows.indexOf(row);
  const step = (to, text) => element("button", { type: "button", disabled: !place.rows[to], click: () => { location.hash = sampleRoute(place, place.rows[to].id); } }, text);
  const pictures = [[row.picture, "clean image"], ...Object.entries(row.runs).map(([name, run]) => [run.picture, `corrupt image, ${name}`])].filter(([number]) => number !== undefined);
  return [
    element("div", { class: "crumbs" }, element("a", { href: "#samples" }, "← Samples"), step(i - 1, "Previous sample"), step(i + 1, "Next sample")),
    element("h1", {}, row.id, element("small", {}, `${place.model}, ${place.dataset}, ${row.category}; the correct option stands ${row.correct_first ? "first" : "second"}`)),
    pictures.length
      ? element("div", { class: "pictures" }, pictures.map(([number, text]) => element("figure", {}, thumbnail(number, text), element("figcaption", {}, text))))
      : element("p", { class: "note" }, "The pictures of this sample are not in this page; “Not in this page” says why."),
    element("dl", { class: "prompts" },
      element("dt", {}, "Clean prompt"), element("dd", {}, row.prompt),
      Object.entries(row.runs).flatMap(([name, run]) => (run.prompt ? [element("dt", {}, `Corrupt prompt, ${name}`), element("dd", {}, marked(run.prompt, row.prompt))] : []))),
    answersTable(place, row),
    ...Object.entries(row.runs).map(([name, run]) => sampleMaps(place, row, name, run)),
  ];
}

function answersTable(place, row) {
  const rows = Object.entries(row.runs).flatMap(([name, run]) => ["clean", "corrupt"].map((which, i) =>
    [named({ name, modality: place.runs[name].modality }), which, number(run.p[2 * i]), number(run.p[2 * i + 1]), number(run.ld[i], true)]));
  return tableOf("Probabilities over the whole vocabulary, and the logit difference", ["corruption", "run",
    [`P(${row.correct_answer}), correct`, true], [`P(${row.incorrect_answer}), incorrect`, true], ["logit difference", true]], rows);
}

function sampleMaps(place, row, name, run) {
  const about = place.runs[name];
  const tokens = (run.tokens ?? row.tokens ?? []);
  const heads = Object.entries(run.heads).map(([component, map]) => {
    const { layers, heads: columns, token } = about.heads[component], study = STUDIES.get(`${place.model}/${component}`);
    return mapFigure(`Effect of each ${component} head in this sample, ${name}`, columns.length, () => {
      const values = inRows(unpack(map), columns.length);
      return heatmap({ values, columns, rows: layers, title: `${hyphened(component)} heads at “${token}”`, xTitle: "head",
        hover: values.map((of, y) => of.map((value, x) => `L${layers[y]}.H${columns[x]}<br>effect ${number(value, true)} ${DATA.metric.units}`)),
        click: (point) => { location.hash = headRoute(study, point.y * columns.length + point.x); } });
    });
  });
  const modules = Object.entries(run.modules).map(([component, map]) => {
    const { layers } = about.modules[component], columns = tokens.map(([text]) => visible(text));
    return mapFigure(`Effect of ${component} at each layer and token in this sample, ${name}`, columns.length, () => {
      const values = inRows(unpack(map), columns.length);
      return heatmap({ values, columns, rows: layers, title: hyphened(component),
        hover: values.map((of, y) => of.map((value, x) => `layer ${layers[y]}, ${plain(columns[x])} (${plain(tokens[x][1])})<br>effect ${number(value, true)} ${DATA.metric.units}`)) });
    });
  });
  return element("section", {}, element("h2", {}, `Effects under ${named({ name, modality: about.modality })}`), element("div", { class: "plots" }, heads, modules));
}
