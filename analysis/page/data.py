"""What the page's plots, head pages and sample browser are made of: a results folder, file by file -> one dictionary that becomes JSON.

The scripts in `assets/` read it. Files are read one at a time; of each only means and the maps of the samples in the page stay.
"""

from pathlib import Path
from typing import Any

import xarray as xr

from analysis import products
from analysis.functions.registry import scores_tested
from analysis.page import csv as report_csv
from analysis.page import curves as report_curves
from analysis.page import heads as report_heads
from analysis.page import modules as report_modules
from analysis.page import overlays as report_overlays
from analysis.page import pictures as report_pictures
from analysis.page.encoding import Pictures
from analysis.page.heads import HeadEffects
from analysis.page.limits import Limits
from analysis.page.samples import Browser, Listed, Place, choose, facts, per_category, survey
from analysis.store.folder import EffectsFile, attention_files, effects_files, read_effects, read_manifest, read_tree
from interventions.models.sites import SITES
from interventions.results.metrics import METRICS, unit_of


class Gathering:
    """Reads a results folder for the page. After `run`: `data` for the page, `capped` and `counts` (samples of each file) for its text."""

    def __init__(self, results: Path, limits: Limits) -> None:
        self.results, self.limits = Path(results), limits
        self.files, self.attention = effects_files(results), attention_files(results)
        self.universal, self.robust, self.functions = (
            read_tree(self.results / f"{name}.nc") for name in ("universal_heads", "robust_heads", "head_functions")
        )
        self.judged_by = next((str(of.attrs["metric"]) for of in self.universal.values()), "logit_difference")
        self.metric = self.judged_by if self.judged_by in METRICS else "logit_difference"  # of the maps
        self.manifest = read_manifest(self.results)
        self.counts: dict[str, int] = {}
        self.capped: list[str] = []
        self._facts: dict[tuple[str, str, str], tuple[str, dict[str, Any]]] = {}
        self._fingerprints: dict[str, set[str]] = {}

    def run(self) -> dict[str, Any]:
        """Read everything.

        Raises
        ------
        ResultsError
            When a file is damaged, or files of one model and component have different heads.
        """
        listed = self._survey()
        if others := self._others():
            self.capped.append(f"Files of other interventions are not shown: {', '.join(others)}. They open with xarray.")
        of_heads = [self._heads(file) for file in self.files if file.heads]
        pages = [self._study(files) for files in report_heads.studies(of_heads).values()]
        browsers = self._browsers(listed, pages)
        for effects in of_heads:
            self._add_facts(browsers, effects.file)
            browsers[effects.file.model, effects.file.dataset].add_heads(effects)
        modules: list[dict[str, Any]] = []
        for file in (file for file in self.files if not file.heads):
            whole = self._read(file)
            self._add_facts(browsers, file)
            browsers[file.model, file.dataset].add_modules(file, whole, self.metric)
            modules.append(report_modules.content(file, whole, self.metric))
        pictures = Pictures()
        for study, _ in pages:
            study["overlays"] = self._overlays(study, pictures)
        self._pictures(browsers, pictures)
        return {
            "metric": {"name": self.metric.replace("_", " "), "units": unit_of(self.metric)},
            "studies": [study for study, _ in pages],
            "modules": modules,
            "places": [browser.content() for browser in browsers.values()],
            "pictures": pictures.uris,
            "stability": report_curves.stability(self.results / "stability.csv"),
            "power": report_curves.power(self.results / "robust_power.csv"),
            "thirds": report_csv.thirds(self.results / "compare_corruptions.csv"),
            "components": list(SITES),
            "main_scores": ["pointing", *scores_tested()],
            "commands": {name: products.command(self.results, name) for name in ("head functions",)},
        }

    def _survey(self) -> dict[Place, Listed]:
        listed: dict[Place, Listed] = {}
        for file in self.files:
            self.counts[self._name(file.path)] = survey(file.path, listed.setdefault((file.model, file.dataset), Listed()))
        for path in self.attention.values():
            self.counts[self._name(path)] = survey(path, Listed())
        return listed

    def _others(self) -> list[str]:
        """The files of interventions that the page does not show."""
        below = [path for pattern in ("*/*/*.nc", "*/*/*/*.nc") for path in self.results.glob(pattern) if not path.name.startswith(".")]
        return sorted({self._name(path) for path in below} - self.counts.keys())

    def _name(self, path: Path) -> str:
        return "/".join(path.relative_to(self.results).parts)

    def _read(self, file: EffectsFile) -> xr.Dataset:
        effects = read_effects(file)
        if said := effects.attrs.get("dataset_fingerprint"):
            self._fingerprints.setdefault(file.dataset, set()).add(str(said))
        key = (file.model, file.dataset, file.corruption)
        if key not in self._facts:
            self._facts[key] = (str(effects.attrs["modality"]), {})
        known = self._facts[key][1]
        if not set(effects["sample"].values.astype(str)) <= known.keys():
            known |= facts(effects)
        return effects

    def _heads(self, file: EffectsFile) -> HeadEffects:
        effects = self._read(file)
        found = report_heads.head_effects(file, effects, self.metric)
        if effects.sizes["token"] > 1:
            self.capped.append(f"{self._name(file.path)}: heads are shown at “{found.token}” of {effects.sizes['token']} token roles.")
        return found

    def _study(self, files: list[HeadEffects]) -> tuple[dict[str, Any], list[HeadEffects]]:
        study = report_heads.content(files)
        universal, robust, functions = (of.get(study["model"]) for of in (self.universal, self.robust, self.functions))
        detailed = report_heads.telling(study, universal, robust, functions)[: self.limits.heads]
        study["notice"] = report_heads.judged(universal, study, ("p",))
        study["robust"] = report_heads.judged(
            robust, study, ("overall_effect", "overall_low", "overall_high", "universal_q", "universal_frequency")
        )
        study["functions"] = report_heads.functions(functions, study, detailed)
        study["detailed"] = detailed
        study["extremes"] = {head: report_heads.extremes(files, head) for head in detailed}
        if len(detailed) < len(study["names"]):
            self.capped.append(
                f"{study['id']}: attention overlays and function scores of {len(detailed)} of {len(study['names'])} heads, the "
                "universal and the strongest first (--heads). Classes of all heads, and every score, are in head_functions.csv."
            )
        return study, files

    def _browsers(self, listed: dict[Place, Listed], pages: list[tuple[dict[str, Any], list[HeadEffects]]]) -> dict[Place, Browser]:
        count = per_category(listed.values(), self.limits.samples, self.limits.megabytes)
        named: dict[Place, set[str]] = {place: set() for place in listed}
        for study, _ in pages:
            worth = [head for head in study["detailed"] if _is_named(study, head)]
            for head in (worth or study["detailed"])[:8]:
                for ends in study["extremes"][head].values():
                    for dataset, sample, _ in (*ends["strongest"], *ends["weakest"]):
                        named[study["model"], dataset].add(sample)
        found = {}
        for place, of_place in listed.items():
            chosen = choose(of_place, count, named[place])
            if len(chosen) < len(of_place.categories):
                self.capped.append(
                    f"{'/'.join(place)}: {len(chosen)} of {len(of_place.categories)} samples are in the sample browser, the first {count} "
                    "of each category and those in which a telling head is strongest or weakest (--samples, --megabytes). "
                    "Means and intervals are of all."
                )
            found[place] = Browser(*place, of_place, chosen)
        return found

    def _add_facts(self, browsers: dict[Place, Browser], file: EffectsFile) -> None:
        browser = browsers[file.model, file.dataset]
        if file.corruption not in browser.runs:
            browser.add_facts(file.corruption, *self._facts[file.model, file.dataset, file.corruption])

    def _overlays(self, study: dict[str, Any], pictures: Pictures) -> dict[str, Any] | None:
        seen: list[report_overlays.Seen] = []
        gallery: list[str] = []
        for (model, dataset), path in self.attention.items():
            if model == study["model"] and self._component(path) in (None, study["component"]):
                ends = {head: _samples_of(study["extremes"][head], dataset) for head in study["detailed"]}
                found, first = report_overlays.look(path, dataset, study["detailed"], ends)
                seen, gallery = seen + found, gallery + first
        return report_overlays.content(seen, gallery, pictures)

    def _component(self, path: Path) -> str | None:
        with xr.open_dataset(path, engine="netcdf4") as attention:
            return attention.attrs.get("component")

    def _pictures(self, browsers: dict[Place, Browser], pictures: Pictures) -> None:
        for dataset in sorted({dataset for _, dataset in browsers}):
            here = [browser for (_, name), browser in browsers.items() if name == dataset]
            wanted = {sample for browser in here for sample in browser.rows}
            fingerprints = self._fingerprints.get(dataset, set())
            found, problem = report_pictures.of_data_set(self.results, self.manifest, dataset, fingerprints, wanted)
            if problem:
                kept = [report_pictures.kept_pictures(path, wanted) for (_, name), path in self.attention.items() if name == dataset]
                found = {sample: pair for of_file in kept for sample, pair in of_file.items()}
                instead = "; clean ones are those kept with the attention maps" if found else ""
                self.capped.append(f"{problem[0].upper()}{problem[1:]}{instead}.")
            numbers = {sample: [pictures.add(image) for image in pair] for sample, pair in found.items()}
            for browser in here:
                browser.add_pictures(numbers)


def _is_named(study: dict[str, Any], head: int) -> bool:
    return any(study[rule] and study[rule]["kind"][head] != "none" for rule in ("notice", "robust"))


def _samples_of(extremes: dict[str, Any], dataset: str) -> set[str]:
    return {sample for ends in extremes.values() for end in ends.values() for place, sample, _ in end if place == dataset}
