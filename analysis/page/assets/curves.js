"use strict";

/** Plots side by side, one for each of `curves` of a model: {model, x, lines}, called as `caption` says. */
function curvesOf(place, curves, { caption, label, xTitle, log }) {
  for (const model of new Set(curves.map((one) => one.model))) {
    place.append(element("h4", {}, model), element("div", { class: "plots" }, curves.filter((one) => one.model === model).map((one) =>
      element("figure", { style: "flex: 0 1 18.5rem" }, element("figcaption", {}, caption(one)),
        plot(`${label}, ${model}: ${caption(one)}; the table below has the numbers`, () => linePlot({ ...one, xTitle, log }))))));
  }
}

/** How findings hold up: agreement of subsamples as samples grow, and power of the rules by the size of a planted effect. */
function showCurves() {
  const stability = document.getElementById("stability-curves"), power = document.getElementById("power-curves");
  if (stability) curvesOf(stability, DATA.stability, { caption: (one) => one.measure, label: "Stability as samples grow", xTitle: "samples of the subsample", log: true });
  if (power) curvesOf(power, DATA.power, { caption: (one) => `${one.rule}, ${one.runs} studies a point`, label: "Power", xTitle: "planted effect, SD of a head", log: false });
}
