"""Where claims are tested: a results folder, one of its models, and one of its data sets; reads files, or says what makes them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from analysis.claims.claim import ANY, BLIP, ENCODER, NOTICE_DATA, Claim, Estimate, NotRun, Undecidable, estimate
from analysis.claims.folder import Folder, attributes, read
from analysis.corruptions.comparable import Like
from analysis.corruptions.statistics import THIRDS, weighted_means
from analysis.module_effects.of_file import by_order
from analysis.products import is_stale
from analysis.stats.resampling import bootstrap_weights, stream
from analysis.store.folder import EffectsFile, read_effects

PAPERS_SAMPLES = 500
RULE = {"metric": "logit_difference", "deviations": 2.0, "at_least": 0}  # NOTICE's
USUAL = {"samples": 100, "seed": 0, "dtype": "float32"}  # options whose value is not the default are said in commands


@dataclass(frozen=True)
class Place:
    """A model in a results folder, and one of its data sets, or "" for all."""

    folder: Folder
    model: str
    dataset: str = ""

    @property
    def head_component(self) -> str:
        """The component whose heads NOTICE patches in a model of this kind."""
        return "cross_attention" if self.folder.models.get(self.model) == ENCODER or self.model in BLIP else "self_attention"

    def effects(self, corruption: str, component: str, *, heads: bool = False, window: int = 1, part: str = "") -> tuple[xr.Dataset, Path]:
        """A file of effects and its path; raises `NotRun` with the command that makes it."""
        name = component + ("-heads" if heads else "") + (f"-window{window}" if window > 1 else "")
        model = f"{self.model}-{part}" if part else self.model
        path = self.folder.path / model / self.dataset / corruption / f"{name}.nc"
        if not path.is_file():
            direction = "noising" if corruption.endswith("-noising") else "denoising"
            like = Like(self.model, self.dataset, component, heads, direction, window, "ours")
            command = like.command(corruption.removesuffix("-noising"), self.folder.path)
            command += (f" --part {part}" if part else "") + self._as_before()
            raise NotRun(f"no {path.relative_to(self.folder.path)}", command)
        return read_effects(EffectsFile(model, self.dataset, corruption, component, heads, path)), path

    def heads(self, corruption: str, *tokens: str) -> tuple[list[xr.DataArray], Path]:
        """LD effects of the heads that NOTICE patches [sample, layer, head], at some tokens or at the main one, and their file."""
        effects, path = self.effects(corruption, self.head_component, heads=True)
        wanted = tokens or (str(effects.attrs["main_token"]),)
        if missing := [token for token in wanted if token not in effects.indexes["token"]]:
            options = f"--corruption {corruption.removesuffix('-noising')} --tokens {' '.join(wanted)} --overwrite"
            options += " --direction noising" if corruption.endswith("-noising") else ""
            raise NotRun(f"{path.name} has no token {missing[0]!r}", self.command("head_patching", options))
        values = effects.effects.logit_difference().transpose("sample", "layer", "head", "token")
        values = values.drop_vars([str(name) for name in values.coords if name not in values.dims])
        return [values.sel(token=token, drop=True) for token in wanted], path

    def file(self, name: str, script: str, variables: tuple[str, ...], options: str = "") -> tuple[xr.Dataset, Path]:
        """Another intervention's file below the data set's folder, the first that a pattern finds, and its path."""
        found = sorted(path for path in (self.folder.path / self.model / self.dataset).glob(name) if not path.name.startswith("."))
        if not found:
            raise NotRun(f"no {self.model}/{self.dataset}/{name}", self.command(script, options))
        return read(found[0], variables), found[0]

    def command(self, script: str, options: str = "") -> str:
        """What makes a file of this model and data set."""
        words = f"python -m interventions.{script} --model {self.model} --data {_data(self.dataset)} --out {self.folder.path}"
        return words + self._as_before() + (f" {options}" if options else "")

    def whole_study(self) -> str:
        """What runs the study of this model: on its data sets in the folder, or on NOTICE's where it has none."""
        there = self.folder.datasets(self.model) if (self.folder.path / self.model).is_dir() else []
        datasets = [self.dataset] if self.dataset else there or list(NOTICE_DATA)
        samples = self._as_before() if there else f" --samples {PAPERS_SAMPLES}"
        return f"python run_all.py --models {self.model} --datasets {' '.join(map(_data, datasets))} --out {self.folder.path}{samples}"

    def _as_before(self) -> str:
        """The options of the runs that are there of this model, where they are not the usual: so that files are of the same samples."""
        if ("configuration", self.model) not in self.folder.computed:
            paths = (path for path in sorted((self.folder.path / self.model).rglob("*.nc")) if not path.name.startswith("."))
            found = (json.loads(attributes(path).get("configuration", "{}")) for path in paths)
            self.folder.computed["configuration", self.model] = next(filter(None, found), {})
        configuration = self.folder.computed["configuration", self.model]
        words = [f"--{name} {configuration[name]}" for name, usual in USUAL.items() if configuration.get(name, usual) != usual]
        return "".join(f" {word}" for word in words) + (" --keep-wrong" if configuration.get("keep_wrong") else "")

    def tree(self, found: dict[str, xr.Dataset], name: str) -> tuple[xr.Dataset, Path]:
        """This model's group of a file that an analysis writes, and the file; raises `NotRun` where it lacks the model, or is stale."""
        path = self.folder.path / f"{name}.nc"
        if self.model not in found:
            needs = "attention.nc" if name == "head_functions" else "*/*-heads.nc"
            there = any((self.folder.path / self.model).glob(f"*/{needs}"))
            command = f"python -m analysis.{name} --results {self.folder.path}" if there else self.whole_study()
            raise NotRun(f"{name}.nc has no {self.model}", command)
        if is_stale(path, self.folder.path):
            raise NotRun(f"{name}.nc is older than what it is made of", f"python -m analysis.{name} --results {self.folder.path}")
        return found[self.model], path

    def by_notices_rule(self, found: dict[str, xr.Dataset], name: str) -> tuple[xr.Dataset, Path]:
        """`tree`, of a file in which heads are judged: raises `NotRun` where that was by another rule than NOTICE's."""
        judged, path = self.tree(found, name)
        others = {option: judged.attrs[option] for option, usual in RULE.items() if judged.attrs.get(option, usual) != usual}
        if others:
            said = ", ".join(f"{option} {value}" for option, value in others.items())
            raise NotRun(
                f"{path.name} was made by another rule than NOTICE's ({said})", f"python -m analysis.{name} --results {self.folder.path}"
            )
        return judged, path

    def weights(self, samples: int, *names: str) -> np.ndarray:
        """[resample, sample]: the samples as they are, then resamples.

        Raises
        ------
        Undecidable
            With fewer than two samples.
        """
        if samples < 2:
            raise Undecidable(f"{samples} sample(s), and an interval needs two")
        drawn = bootstrap_weights(samples, self.folder.resampling.resamples, stream(self.folder.resampling.seed, "claims", *names))
        return np.concatenate([np.full((1, samples), 1 / samples), drawn])

    def means(self, values: np.ndarray, *names: str) -> np.ndarray:
        """Resampled means over the samples that have a value: [sample, ...] -> [resample, ...], of the samples as they are first."""
        weights = self.weights(len(values), *names)
        return weighted_means(values.reshape(1, len(values), -1), weights)[0].reshape(-1, *values.shape[1:])

    def estimate(self, name: str, resampled: np.ndarray) -> Estimate:
        """See `claim.estimate`."""
        return estimate(name, resampled, self.folder.resampling.confidence)


def _data(dataset: str) -> str:
    return dataset if dataset == "shapes" else f"data/{dataset}"


def by_role(effects: xr.Dataset, metric: str, fewest: int = 2) -> xr.DataArray:
    """Effects of a whole module [sample, layer, role], of the samples that have any.

    Raises
    ------
    Undecidable
        With fewer samples than asked for.
    """
    values = by_order(effects, metric).get("all")
    if values is None or values.sizes["sample"] < fewest:
        raise Undecidable(f"{0 if values is None else values.sizes['sample']} sample(s) with an effect, and {fewest} are needed")
    return values


def enough_layers(layers: int) -> None:
    """Raise `Undecidable` where layers cannot be cut into thirds."""
    if layers < len(THIRDS):
        raise Undecidable(f"{layers} layers cannot be cut into thirds")


def places(claim: Claim, folder: Folder) -> list[Place]:
    """Where a claim can be tested: the folder's models of its kind, and each of their data sets where it is tested on each apart.

    A claim of the paper's model alone is tested on the paper's data sets alone.
    """
    models = [model for model, kind in folder.models.items() if claim.kind in (kind, ANY)]
    if claim.papers_model_only:
        models = [model for model in models if model in claim.models]
    if not claim.each_dataset:
        return [Place(folder, model) for model in models]
    found = [Place(folder, model, dataset) for model in models for dataset in folder.datasets(model)]
    return [place for place in found if place.dataset in claim.data or not claim.papers_model_only]
