"""The effects by which heads are judged: results folder -> one array [sample, layer, head] for each model, corruption and task.

A task is "<dataset>/<category>". What is judged (metric, token, component, corruptions) is chosen by `Measure`.
"""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import xarray as xr

from analysis.store.folder import EffectsFile, ResultsError, effects_files, read_effects
from corruptions.base import default
from interventions.results.metrics import METRICS

Key = tuple[str, str]  # corruption, task


@dataclass(frozen=True)
class Measure:
    """Which effects of which heads are judged; the defaults are NOTICE's.

    >>> Measure(metric="restoration_probability", image_corruption="inpainting").corruptions()
    {'inpainting': 'image', 'str': 'text'}
    """

    metric: str = "logit_difference"
    """Effect to judge by, one of `interventions.results.metrics.METRICS`."""
    token: str | None = None
    """Token role at which heads are judged; without it, the main token of each file ("correct" for BLIP, "last" for LLaVA)."""
    component: str | None = None
    """Component whose heads are judged; without it, cross_attention where the model has it, else self_attention."""
    image_corruption: str = default("image")
    """The image corruption to judge by."""
    text_corruption: str = default("text")
    """The text corruption to judge by."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ResultsError(f"there is no metric {self.metric!r}; choose one of {', '.join(METRICS)}")
        if self.image_corruption == self.text_corruption:
            raise ResultsError(f"the image and the text corruption are both {self.image_corruption!r}; name two different ones")

    def corruptions(self) -> dict[str, str]:
        """The modality of each corruption judged by, image first."""
        return {self.image_corruption: "image", self.text_corruption: "text"}


def check_shares(options: object, *names: str) -> None:
    """Raise `ResultsError` where one of these options is not a share, above 0 and below 1."""
    for name in names:
        if not 0 < getattr(options, name) < 1:
            raise ResultsError(f"{name} is {getattr(options, name)}; it must lie between 0 and 1")


def check_finite(options: object, *names: str) -> None:
    """Raise `ResultsError` where one of these options is not a finite number."""
    for name in names:
        if not isfinite(getattr(options, name)):
            raise ResultsError(f"{name} is {getattr(options, name)}; it must be a finite number")


def check_not_negative(options: object, *names: str) -> None:
    """Raise `ResultsError` where one of these options is below 0."""
    for name in names:
        if getattr(options, name) < 0:
            raise ResultsError(f"{name} is {getattr(options, name)}; it cannot be negative")


@dataclass(frozen=True)
class Measured:
    """The effects of all heads of one model.

    Attributes
    ----------
    effects : [sample, layer, head] of each (corruption, task) that has any, in the metric's unit
    left_out : how many samples of each (corruption, task) have no value in any head, and are not in `effects`
    modality : the modality of each corruption that ran, image first
    tokens : the token roles at which heads are judged, as text
    """

    model: str
    component: str
    tokens: str
    modality: dict[str, str]
    effects: dict[Key, xr.DataArray]
    left_out: dict[Key, int]

    @property
    def corruptions(self) -> list[str]:
        return list(self.modality)

    @property
    def tasks(self) -> list[str]:
        return sorted({task for _, task in self.left_out})

    def of(self, corruption: str) -> dict[str, xr.DataArray]:
        """The effects of the tasks that ran under a corruption, in the order of `tasks`."""
        return {task: self.effects[corruption, task] for task in self.tasks if (corruption, task) in self.effects}


def flat(values: xr.DataArray) -> np.ndarray:
    """[sample, layer, head] as [sample, head].

    >>> flat(xr.DataArray(np.zeros((5, 2, 3)), dims=("sample", "layer", "head"))).shape
    (5, 6)
    """
    return values.transpose("sample", "layer", "head").values.reshape(values.sizes["sample"], -1)


def measured(results: Path, measure: Measure) -> dict[str, Measured]:
    """The effects of all heads of every model in a results folder.

    Raises
    ------
    ResultsError
        When the folder has no effects of heads under the corruptions, lacks the token or component, or holds damaged files.

    >>> found = measured(Path("results"), Measure())["blip-small"]
    >>> found.component, found.tokens, found.tasks
    ('cross_attention', 'correct', ['shapes/colour', 'shapes/shape'])
    >>> dict(found.effects["sip", "shapes/colour"].sizes)
    {'sample': 12, 'layer': 4, 'head': 6}
    >>> float(found.of("sip")["shapes/colour"].mean("sample").sel(layer=1, head=2).round(1))
    1.0
    """
    files = [file for file in effects_files(results) if file.heads]
    if not files:
        raise ResultsError(
            f"no effects of heads (<component>-heads.nc) below {Path(results).absolute()}: run interventions/head_patching.py first"
        )
    chosen = {model: _chosen([f for f in files if f.model == model], measure) for model in sorted({file.model for file in files})}
    found = {model: _of_model(of_model, measure) for model, of_model in chosen.items() if of_model}
    if not found:
        there = ", ".join(sorted({f"{f.corruption}/{f.component}" for f in files}))
        component = f", component {measure.component}" if measure.component else ""
        wanted = f"{measure.image_corruption} or {measure.text_corruption}{component}"
        raise ResultsError(f"no effects of heads for {wanted} below {Path(results).absolute()}: there are {there}; choose with options")
    return found


def _chosen(files: list[EffectsFile], measure: Measure) -> list[EffectsFile]:
    files = [file for file in files if file.corruption in measure.corruptions()]
    there = {file.component for file in files}
    component = measure.component or next((c for c in ("cross_attention", "self_attention") if c in there), None)
    return [file for file in files if file.component == component]


def _of_model(files: list[EffectsFile], measure: Measure) -> Measured:
    effects: dict[Key, xr.DataArray] = {}
    left_out: dict[Key, int] = {}
    tokens = set()
    for file in files:
        values = _effect(file, measure)
        tokens.add(str(values["token"].item()))
        for category, of_task in values.groupby("category"):
            key = (file.corruption, f"{file.dataset}/{category}")
            there = of_task.drop_vars(["token", "category"], errors="ignore").dropna("sample", how="all")
            left_out[key] = of_task.sizes["sample"] - there.sizes["sample"]
            if there.sizes["sample"]:
                effects[key] = there
    _check_shapes(files, effects)
    modality = {c: m for c, m in measure.corruptions().items() if c in {corruption for corruption, _ in effects}}
    return Measured(files[0].model, files[0].component, ", ".join(sorted(tokens)), modality, effects, left_out)


def _effect(file: EffectsFile, measure: Measure) -> xr.DataArray:
    """The metric [sample, layer, head] at the token where heads are judged."""
    effects = read_effects(file)
    said = effects.attrs.get("modality")
    if said is not None and said != measure.corruptions()[file.corruption]:
        raise ResultsError(f"{file.path} corrupts the {said}, but is named as the {measure.corruptions()[file.corruption]} corruption")
    token = measure.token or effects.attrs["main_token"]
    if token not in effects.indexes["token"]:
        there = ", ".join(map(str, effects.indexes["token"]))
        raise ResultsError(f"{file.path} has no effects of heads at token {token!r}; it has {there}: choose one with --token")
    keep = ["sample", "layer", "head", "token", "category"]
    values = getattr(effects.sel(token=token).effects, measure.metric)()
    values = values.where(np.isfinite(values)).drop_vars([str(name) for name in values.coords if name not in keep], errors="ignore")
    return values.assign_coords(category=("sample", effects["category"].values.astype(str)))


def _check_shapes(files: list[EffectsFile], effects: dict[Key, xr.DataArray]) -> None:
    if not effects:
        raise ResultsError(
            f"{', '.join(str(file.path) for file in files)}: no sample has an effect; run head patching again, with more samples"
        )
    shapes = {(values.sizes["layer"], values.sizes["head"]) for values in effects.values()}
    if len(shapes) > 1:
        raise ResultsError(
            f"the files of {files[0].model} have different numbers of (layers, heads): {sorted(shapes)}; delete the stale ones"
        )
