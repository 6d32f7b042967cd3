"use strict";

const SETTINGS = { displaylogo: false, responsive: true, displayModeBar: "hover", modeBarButtons: [["toImage"]] };
const DIVERGING = {
  light: [[0, "#5e2a6e"], [0.25, "#a985b7"], [0.5, "#f7f7f7"], [0.75, "#7dbb80"], [1, "#13612f"]],
  dark: [[0, "#e3b5f2"], [0.25, "#8a5c9c"], [0.5, "#1d2229"], [0.75, "#41875a"], [1, "#9be8ab"]],
};

const RUN_COLOURS = { light: ["#0072b2", "#c4501b", "#7a3a7f", "#00775a", "#6b6b6b"], dark: ["#6db8ec", "#f09a5e", "#d9a6de", "#5fcfa8", "#b5b5b5"] };
const RUN_SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross"];
const RUN_DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];

/** Plots by their element: each is drawn when it comes into view, and again when its choice or the colours change. */
const plots = new Map();
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting)) drawPlot(entry.target);
}, { rootMargin: "300px" });

function drawPlot(place) {
  seen.unobserve(place);
  const { data, layout, click } = plots.get(place)();
  const ink = theme.colour("ink"), line = theme.colour("line");
  const axis = { gridcolor: line, zerolinecolor: theme.colour("soft"), linecolor: line, automargin: true, fixedrange: true };
  Plotly.react(place, data, {
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
    margin: { l: 40, r: 10, t: 34, b: 34 }, modebar: { bgcolor: "rgba(0,0,0,0)", color: theme.colour("soft"), activecolor: ink }, hoverlabel: { font: { family: getComputedStyle(document.body).fontFamily } },
    ...layout, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  }, SETTINGS);
  place.style.minHeight = `${layout.height}px`;
  place.removeAllListeners("plotly_click");
  place.classList.toggle("links", Boolean(click));
  if (click) place.on("plotly_click", (event) => click(event.points[0]));
  place.dataset.drawn = "yes";
}

/** A plot that `make` describes as {data, layout, click}; `label` says what it shows to those who do not see it.
 * It takes its height at once, so that what is below it stays where it is when it is drawn. */
function plot(label, make) {
  const place = element("div", { class: "plot", role: "img", "aria-label": label, style: `min-height: ${make().layout.height}px` });
  plots.set(place, make);
  seen.observe(place);
  return place;
}

/** Draw a plot again where it has been drawn. */
const redraw = (place) => place.dataset.drawn && drawPlot(place);

/** Forget the plots in an element that goes away. */
function dropPlots(parent) {
  for (const place of parent.querySelectorAll(".plot")) {
    seen.unobserve(place);
    if (place.dataset.drawn) Plotly.purge(place);
    plots.delete(place);
  }
}

document.addEventListener("theme", () => plots.forEach((_, place) => redraw(place)));
addEventListener("beforeprint", () => plots.forEach((_, place) => drawPlot(place)));

/** A map of effects [row][column], the first row at the bottom; colours are symmetric around 0.
 * `marks` are {x, y, text} by position, `hover` the text of each cell. */
function heatmap({ values, columns, rows, title, xTitle = "", yTitle = "layer", hover, marks = [], click }) {
  const flat = values.flat().filter((value) => value !== null).map(Math.abs);
  const limit = Math.max(...flat, 0) || 1;
  const dark = theme.isDark();
  const every = (count, most) => Array.from({ length: count }, (_, i) => i).filter((i) => i % Math.ceil(count / most) === 0);
  const long = Math.max(...columns.map((name) => String(name).length)) > 3;
  const cell = Math.min(34, Math.max(13, 440 / rows.length));
  const below = long ? 18 + 5 * Math.min(14, Math.max(...columns.map((name) => String(name).length))) : 36;
  return {
    data: [{
      type: "heatmap", z: values, text: hover, hovertemplate: "%{text}<extra></extra>", hoverongaps: false,
      colorscale: DIVERGING[dark ? "dark" : "light"], zmin: -limit, zmax: limit, xgap: 1, ygap: 1,
      colorbar: { thickness: 10, outlinewidth: 0, len: 1, lenmode: "fraction", nticks: 5, tickfont: { size: 11 } },
    }],
    layout: {
      title: { text: plain(title), font: { size: 13 }, x: 0, xref: "paper", xanchor: "left", y: 1, yref: "container", yanchor: "top", pad: { t: 8 } },
      height: rows.length * cell + 44 + below, margin: { l: 44, r: 8, t: 34, b: below },
      plot_bgcolor: theme.colour("gap"),
      xaxis: { tickvals: every(columns.length, long ? 60 : 16), ticktext: every(columns.length, long ? 60 : 16).map((i) => plain(columns[i])), tickangle: long ? -55 : 0,
        title: { text: xTitle, standoff: 6 }, showgrid: false, zeroline: false, ticks: "", range: [-0.5, columns.length - 0.5] },
      yaxis: { tickvals: every(rows.length, 16), ticktext: every(rows.length, 16).map((i) => rows[i]), title: { text: yTitle, standoff: 4 },
        showgrid: false, zeroline: false, ticks: "", range: [-0.5, rows.length - 0.5] },
      annotations: marks.map(({ x, y, text }) => ({
        x, y, text, showarrow: false, font: { size: Math.min(13, cell * 0.62), color: Math.abs(values[y][x] ?? 0) > 0.55 * limit ? (dark ? "#10131a" : "#fff") : theme.colour("ink") },
        captureevents: false,
      })),
    },
    click,
  };
}

/** The figure around a plot, as wide as its columns need. */
function mapFigure(label, columns, make) {
  const width = Math.min(860, Math.max(260, columns * (columns > 24 ? 12 : columns > 12 ? 18 : 34) + 130)), least = Math.min(width, columns * (columns > 24 ? 9 : 14) + 110);
  const place = plot(label, make);
  place.style.minWidth = `${least}px`;
  return element("figure", { style: `flex: 0 1 ${width}px` }, element("div", { class: "scroll" }, place));
}

/** Values with intervals, a row each, and beside each other the series: {name, points: [{value, low, high, note} or nothing]}. */
function dotPlot({ rows, series, xTitle, range }) {
  const colours = RUN_COLOURS[theme.isDark() ? "dark" : "light"], count = series.length;
  const data = series.map(({ name, points }, i) => {
    const there = points.map((point, row) => ({ ...point, row })).filter((point) => point.value !== undefined && point.value !== null);
    return {
      type: "scatter", mode: "markers", name: plain(name), x: there.map((point) => point.value),
      y: there.map((point) => point.row + (i - (count - 1) / 2) * Math.min(0.24, 0.7 / count)),
      error_x: { type: "data", symmetric: false, array: there.map(({ value, high }) => high - value), arrayminus: there.map(({ value, low }) => value - low),
        thickness: 2, width: 0, color: colours[i % colours.length] },
      marker: { size: 9, color: colours[i % colours.length], symbol: RUN_SYMBOLS[i % RUN_SYMBOLS.length] },
      text: there.map(({ value, low, high, note, row }) => `${plain(rows[row])}, ${plain(name)}<br>${number(value, true)} (${number(low, true)} to ${number(high, true)})<br>${plain(note)}`),
      hovertemplate: "%{text}<extra></extra>",
    };
  });
  return { data, layout: {
    height: 86 + rows.length * (30 + 14 * count), margin: { l: 60, r: 16, t: 40, b: 44 }, showlegend: true,
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
    xaxis: { title: { text: plain(xTitle) }, zeroline: true, zerolinewidth: 1.5, rangemode: "tozero", ...(range && { range, dtick: 0.25 }) },
    yaxis: { tickvals: rows.map((_, i) => i), ticktext: rows.map(plain), range: [rows.length - 0.5, -0.5], zeroline: false, showgrid: false },
  } };
}

/** Lines over the same x, one for each of `lines`: {name, y}. With `log`, x is drawn on a logarithmic scale and its values are the ticks. */
function linePlot({ x, lines, xTitle, log = false }) {
  const colours = RUN_COLOURS[theme.isDark() ? "dark" : "light"];
  const data = lines.map(({ name, y }, i) => ({
    type: "scatter", mode: "lines+markers", name: plain(name), x, y, connectgaps: true,
    line: { color: colours[i % colours.length], dash: RUN_DASHES[i % RUN_DASHES.length], width: 2 },
    marker: { size: 7, symbol: RUN_SYMBOLS[i % RUN_SYMBOLS.length] },
    text: y.map((value, at) => `${plain(name)}<br>${plain(xTitle)}: ${x[at]}<br>${number(value)}`), hovertemplate: "%{text}<extra></extra>",
  }));
  const least = Math.min(0, ...lines.flatMap(({ y }) => y.filter((value) => value !== null)));
  return { data, layout: {
    height: 236 + 19 * lines.length, margin: { l: 44, r: 12, t: 8, b: 40 }, showlegend: true,
    legend: { orientation: "h", x: 0, y: -0.24, yanchor: "top", entrywidth: 1, entrywidthmode: "fraction" },
    xaxis: { title: { text: plain(xTitle), standoff: 4 }, zeroline: false, ...(log ? { type: "log", tickvals: x, ticktext: x.map(String), range: [Math.log10(x[0]) - 0.05, Math.log10(x.at(-1)) + 0.05] } : { rangemode: "tozero" }) },
    yaxis: { range: [least - 0.04, 1.04], zeroline: true, zerolinewidth: 1 },
  } };
}
