"""The page's sample browser: which samples are in it, and of each what was asked, both answers' probabilities and its maps of effects.

A place is a (model, data set).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from analysis.page.encoding import packed, rounded
from analysis.page.heads import HeadEffects
from analysis.page.pictures import PAIRED
from analysis.store.folder import DAMAGED, EffectsFile, damaged

Place = tuple[str, str]
BYTES_OF_A_CELL = 8 / 3  # 16 bits in base64
BYTES_OF_TEXT = 900
BYTES_OF_PICTURES = 5000


@dataclass
class Listed:
    """The samples of a place, with the bytes that each takes in the page."""

    categories: dict[str, str] = field(default_factory=dict)
    """The category of each sample, in the order of the files."""
    size: float = BYTES_OF_PICTURES


def survey(path: Path, listed: Listed) -> int:
    """Add a file of effects or attention to the list of its place; returns its number of samples. Measurements are not read.

    Raises
    ------
    ResultsError
        When the file is damaged.
    """
    try:
        with xr.open_dataset(path, engine="netcdf4") as dataset:
            if "logit_correct" in dataset and "category" in dataset.coords:
                listed.categories |= dict(zip(_texts(dataset["sample"]), _texts(dataset["category"]), strict=True))
                last = dataset.sizes["head"] if "head" in dataset.dims else dataset.sizes["token"]
                listed.size += BYTES_OF_A_CELL * dataset.sizes["layer"] * last + BYTES_OF_TEXT / 2
            return dataset.sizes.get("sample", 0)
    except DAMAGED as error:
        raise damaged(path) from error


def per_category(places: Iterable[Listed], most: int, megabytes: float) -> int:
    """How many samples of each category fit into so many megabytes, all places together: at most `most`, at least 1."""
    sizes = [(listed.size, np.unique(list(listed.categories.values()), return_counts=True)[1]) for listed in places if listed.categories]
    fits = (n for n in range(most, 0, -1) if sum(size * np.minimum(counts, n).sum() for size, counts in sizes) <= megabytes * 1e6)
    return next(fits, 1)


def choose(listed: Listed, count: int, more: Iterable[str] = ()) -> list[str]:
    """The first `count` samples of each category, and `more` of the list."""
    wanted, taken, chosen = set(more), dict.fromkeys(listed.categories.values(), 0), []
    for sample, category in listed.categories.items():
        taken[category] += 1
        if taken[category] <= count or sample in wanted:
            chosen.append(sample)
    return chosen


def facts(effects: xr.Dataset) -> dict[str, dict[str, Any]]:
    """What was asked in each sample of a file, and what the clean and the corrupt run gave; means over draws where corruption is noise.

    `p` holds the probabilities of the correct and the incorrect answer in the clean run, then in the corrupt run; `ld` the logit
    difference of the clean and of the corrupt run.
    """
    p, differences = [], []
    for run in ("clean", "corrupt"):
        correct, incorrect, normalizer = (
            effects[f"{run}_logit_{name}" if name != "log_normalizer" else f"{run}_{name}"].astype("float64")
            for name in ("correct", "incorrect", "log_normalizer")
        )
        p += [_of_sample(xr.apply_ufunc(np.exp, logit - normalizer)) for logit in (correct, incorrect)]
        differences.append(_of_sample(correct - incorrect))
    columns = {name: _texts(effects[name]) for name in ("category", "correct_answer", "incorrect_answer", "clean_prompt", "corrupt_prompt")}
    return {
        sample: {name: of[i] for name, of in columns.items()}
        | {"correct_first": bool(effects["correct_first"].values[i])}
        | {"p": rounded([of[i] for of in p]), "ld": rounded([of[i] for of in differences])}
        for i, sample in enumerate(_texts(effects["sample"]))
    }


def _of_sample(values: xr.DataArray) -> np.ndarray:
    return (values.mean("draw") if "draw" in values.dims else values).values


def _texts(values: xr.DataArray) -> list[str]:
    return values.values.astype(str).tolist()


class Browser:
    """The samples of one place that are in the page."""

    def __init__(self, model: str, dataset: str, listed: Listed, chosen: list[str]) -> None:
        self.model, self.dataset, self.listed = model, dataset, listed
        self.rows: dict[str, dict[str, Any]] = {sample: {"id": sample, "runs": {}} for sample in chosen}
        self.runs: dict[str, dict[str, Any]] = {}

    def add_facts(self, corruption: str, modality: str, of_samples: Mapping[str, dict[str, Any]]) -> None:
        """What `facts` says of one corruption."""
        self.runs.setdefault(corruption, {"modality": modality, "heads": {}, "modules": {}})
        for sample, row in self.rows.items():
            if sample in of_samples:
                said = dict(of_samples[sample])
                clean, corrupt = (_prompt(said.pop(name)) for name in ("clean_prompt", "corrupt_prompt"))
                run = row["runs"].setdefault(corruption, {"heads": {}, "modules": {}})
                run |= {"p": said.pop("p"), "ld": said.pop("ld")} | ({"prompt": corrupt} if corrupt != clean else {})
                row |= said | {"prompt": clean}

    def add_heads(self, effects: HeadEffects) -> None:
        """The map [layer, head] of each sample."""
        about = {"layers": list(effects.layers), "heads": list(effects.heads), "token": effects.token}
        self.runs[effects.file.corruption]["heads"][effects.file.component] = about
        for i, sample in enumerate(effects.samples):
            if sample in self.rows:
                self.rows[sample]["runs"][effects.file.corruption]["heads"][effects.file.component] = packed(effects.values[i])

    def add_modules(self, file: EffectsFile, effects: xr.Dataset, metric: str) -> None:
        """The map [layer, token] of each sample, without the places past its end; and its tokens with their roles."""
        values = getattr(effects.effects, metric)().transpose("sample", "layer", "token").values
        texts, roles = (effects[name].transpose("sample", "token").values.astype(str) for name in ("token_text", "token_role"))
        self.runs[file.corruption]["modules"][file.component] = {"layers": effects["layer"].values.tolist()}
        for i, sample in enumerate(_texts(effects["sample"])):
            if sample in self.rows:
                there = np.flatnonzero(np.isfinite(values[i]).any(axis=0) | (roles[i] != ""))
                tokens, row = [[texts[i, t], roles[i, t]] for t in there], self.rows[sample]
                run = row["runs"][file.corruption]
                run["modules"][file.component] = packed(values[i][:, there])
                if row.setdefault("tokens", tokens) != tokens:
                    run["tokens"] = tokens

    def add_pictures(self, numbers: Mapping[str, Sequence[int]]) -> None:
        """The numbers of the clean and, where it is known, the corrupt picture, by sample; a corruption of text leaves the clean one."""
        for sample, row in self.rows.items():
            if sample in numbers:
                row["picture"] = numbers[sample][0]
                for corruption, run in row["runs"].items():
                    if corruption.removesuffix("-noising") == PAIRED and len(numbers[sample]) > 1:
                        run["picture"] = numbers[sample][1]

    def content(self) -> dict[str, Any]:
        """For the page: the runs, how many samples each category has and how many of them are here, and the samples."""
        every, here = list(self.listed.categories.values()), [self.listed.categories[sample] for sample in self.rows]
        counts = {category: [here.count(category), every.count(category)] for category in dict.fromkeys(every)}
        return {
            "model": self.model,
            "dataset": self.dataset,
            "runs": self.runs,
            "categories": counts,
            "rows": [row for row in self.rows.values() if row["runs"]],
        }


def _prompt(text: str) -> str:
    """A prompt with its many image placeholders as one."""
    return re.sub(r"(<image>\s*)+", "<image> ", text).strip()
