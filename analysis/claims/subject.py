"""What a claim is tested on: a model in a results folder, with one of its data sets or all of them. It reads files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from analysis.claims.folder import ENCODER, Folder, read
from analysis.claims.outcome import Estimate, NotRun, Undecidable, estimate
from analysis.module_effects.maps import by_order
from analysis.products import HEADS, MODULES, PRODUCTS, command, files, is_stale, whole_study
from analysis.stats.resampling import bootstrap_weights, stream, weighted_means
from analysis.stats.thirds import THIRDS
from analysis.store.folder import EffectsFile, read_effects

BLIP = ("blip-vqa-base",)
LLAVA = ("llava-1.5-7b", "llava-1.5-7b-hf")
NOTICE_DATA = ("svo_probes", "mit_states", "fer2013")
PAPERS_SAMPLES = 500
NOTICES_RULE = {"metric": "logit_difference", "deviations": 2.0, "at_least": 0}
RESULTS_FOLDER = "RESULTS"  # stands for the folder in commands, so that the tables of equal studies in different folders are equal


@dataclass(frozen=True)
class Patching:
    """A corruption and the direction in which states are patched."""

    corruption: str
    noising: bool = False

    def __str__(self) -> str:
        return f"{self.corruption}-noising" if self.noising else self.corruption

    @property
    def options(self) -> dict[str, str]:
        """The options of the scripts that patch so."""
        return {"corruption": self.corruption, "direction": "noising" if self.noising else "denoising"}


SIP = Patching("sip")


@dataclass(frozen=True)
class Subject:
    """A model in a results folder, and one of its data sets, or "" for all."""

    folder: Folder
    model: str
    dataset: str = ""

    @property
    def head_component(self) -> str:
        """The component whose heads NOTICE patches in a model of this kind."""
        return "cross_attention" if self.folder.models.get(self.model) == ENCODER or self.model in BLIP else "self_attention"

    @property
    def datasets(self) -> list[str]:
        """Its data set, or all that the folder has of the model."""
        return [self.dataset] if self.dataset else self.folder.datasets(self.model)

    def effects(
        self, patching: Patching, component: str, *, heads: bool = False, window: int = 1, part: str = ""
    ) -> tuple[xr.Dataset, Path]:
        """A file of effects and its path; raises `NotRun` with the command that makes it."""
        name = component + ("-heads" if heads else "") + (f"-window{window}" if window > 1 else "")
        model = f"{self.model}-{part}" if part else self.model
        path = self.folder.path / model / self.dataset / str(patching) / f"{name}.nc"
        if not path.is_file():
            options = patching.options | ({"component": component} if heads else {"components": (component,), "window": window})
            options |= {"part": part} if part else {}
            raise NotRun(f"no {path.relative_to(self.folder.path)}", self.command(HEADS if heads else MODULES, **options))
        return read_effects(EffectsFile(model, self.dataset, str(patching), component, heads, path)), path

    def heads(self, patching: Patching, *tokens: str) -> tuple[list[xr.DataArray], Path]:
        """LD effects of the heads that NOTICE patches [sample, layer, head], at some tokens or at the main one, and their file."""
        effects, path = self.effects(patching, self.head_component, heads=True)
        wanted = tokens or (str(effects.attrs["main_token"]),)
        if missing := [token for token in wanted if token not in effects.indexes["token"]]:
            again = self.command(HEADS, **patching.options, tokens=wanted, overwrite=True)
            raise NotRun(f"{path.name} has no token {missing[0]!r}", again)
        values = effects.effects.logit_difference().transpose("sample", "layer", "head", "token")
        values = values.drop_vars([str(name) for name in values.coords if name not in values.dims])
        return [values.sel(token=token, drop=True) for token in wanted], path

    def first_file(self, pattern: str, product: str, variables: tuple[str, ...], **options: Any) -> tuple[xr.Dataset, Path]:
        """A product of another intervention on the data set, the first file of a pattern, and its path; `options` are to make it."""
        paths = sorted(path for path in (self.folder.path / self.model / self.dataset).glob(pattern) if not path.name.startswith("."))
        if not paths:
            raise NotRun(f"no {self.model}/{self.dataset}/{pattern}", self.command(product, **options))
        return read(paths[0], variables), paths[0]

    def analysed(self, name: str, notices_rule: bool = False) -> tuple[xr.Dataset, Path]:
        """This model's group of the product of an analysis, and the file.

        Parameters
        ----------
        name : in `products.PRODUCTS`
        notices_rule : heads must have been judged by NOTICE's rule

        Raises
        ------
        NotRun
            When the file lacks the model, is stale, or was made by another rule.
        """
        path = self.folder.path / PRODUCTS[name].files[0]
        again = self.command(name, **NOTICES_RULE) if notices_rule else self.command(name)
        group = self.folder.groups(path.name).get(self.model)
        if group is None:
            possible = any(files(self.folder.path, needed, model=self.model) for needed in PRODUCTS[name].needs)
            raise NotRun(f"{path.name} has no {self.model}", again if possible else self.whole_study())
        if is_stale(path, self.folder.path):
            raise NotRun(f"{path.name} is older than what it is made of", again)
        others = {option: group.attrs[option] for option, usual in NOTICES_RULE.items() if group.attrs.get(option, usual) != usual}
        if notices_rule and others:
            rule = ", ".join(f"{option} {value}" for option, value in others.items())
            raise NotRun(f"{path.name} was made by another rule than NOTICE's ({rule})", again)
        return group, path

    def command(self, product: str, **options: Any) -> str:
        """The command that makes a product of this model and data set, or of the folder."""
        return command(self.folder.path, product, self.model, self.dataset, RESULTS_FOLDER, **options)

    def whole_study(self) -> str:
        """The command of the study of this model: on its data sets in the folder, or on NOTICE's where it has none."""
        samples: dict[str, Any] = {} if self.folder.datasets(self.model) else {"samples": PAPERS_SAMPLES}
        return whole_study(self.folder.path, [self.model], self.datasets or NOTICE_DATA, RESULTS_FOLDER, **samples)

    def weights(self, samples: int, *names: str) -> np.ndarray:
        """[resample, sample]: the samples as they are, then resamples.

        Raises
        ------
        Undecidable
            With fewer than two samples.
        """
        if samples < 2:
            raise Undecidable(f"{samples} sample(s), and an interval needs two")
        drawn = bootstrap_weights(samples, self.folder.options.resamples, stream(self.folder.options.seed, "claims", *names))
        return np.concatenate([np.full((1, samples), 1 / samples), drawn])

    def means(self, values: np.ndarray, *names: str) -> np.ndarray:
        """Resampled means over the samples that have a value: [sample, ...] -> [resample, ...], of the samples as they are first."""
        weights = self.weights(len(values), *names)
        return weighted_means(values.reshape(1, len(values), -1), weights)[0].reshape(-1, *values.shape[1:])

    def estimate(self, name: str, resampled: np.ndarray) -> Estimate:
        """See `outcome.estimate`."""
        return estimate(name, resampled, self.folder.options.confidence)


def enough_layers(layers: int) -> None:
    """Raise `Undecidable` where layers cannot be cut into thirds."""
    if layers < len(THIRDS):
        raise Undecidable(f"{layers} layers cannot be cut into thirds")


def by_role(effects: xr.Dataset, metric: str) -> xr.DataArray:
    """Effects of a whole module [sample, layer, role], of the samples that have any.

    Raises
    ------
    Undecidable
        With fewer than two samples.
    """
    values = by_order(effects, metric).get("all")
    if values is None or values.sizes["sample"] < 2:
        raise Undecidable(f"{0 if values is None else values.sizes['sample']} sample(s) with an effect, and 2 are needed")
    return values
