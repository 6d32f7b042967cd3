"""A results folder as claims read it: its models and their kinds, what other analyses wrote, how sure intervals are."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import xarray as xr

from analysis.claims.claim import DECODER, ENCODER
from analysis.corruptions.statistics import Comparing
from analysis.heads.head_effects import HeadEffects, read_head_effects
from analysis.heads.options import HeadEffectsOptions
from analysis.store.folder import DAMAGED, ResultsError, damaged, effects_files, read_manifest, read_tree

PARTS = ("start", "patch", "query")  # main tokens of parts of models


@dataclass(frozen=True)
class Resampling:
    """How sure intervals are."""

    resamples: int = 1000
    """Bootstrap resamples of the samples."""
    confidence: float = 0.95
    """Of the intervals."""
    seed: int = 0
    """Seed of the resamples."""

    @property
    def comparing(self) -> Comparing:
        """The same settings, for `corruption_statistics.compare`; raises `ResultsError` where one is wrong."""
        return Comparing(resamples=self.resamples, confidence=self.confidence, seed=self.seed)


@dataclass(frozen=True)
class Folder:
    """A results folder."""

    path: Path
    resampling: Resampling = field(default_factory=Resampling)
    computed: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What several claims need, by what it is."""

    @cached_property
    def models(self) -> dict[str, str]:
        """The kind of each model, ENCODER or DECODER, by the token at which its heads are judged; parts of models are left out."""
        main: dict[str, str] = {}
        for path in sorted([*self.path.glob("*/*/*.nc"), *self.path.glob("*/*/*/*.nc")]):
            model = path.relative_to(self.path).parts[0]
            if model not in main and not path.name.startswith("."):
                attrs = attributes(path)
                for name in ("query", "main_token"):
                    if name in attrs:
                        main[model] = str(attrs[name])
        return {model: DECODER if token == "last" else ENCODER for model, token in main.items() if token not in PARTS}

    def datasets(self, model: str) -> list[str]:
        """The data sets of a model."""
        return sorted(path.name for path in (self.path / model).iterdir() if path.is_dir() and any(path.rglob("*.nc")))

    @cached_property
    def measured(self) -> dict[str, HeadEffects]:
        """The effects of heads of every model that has any, as NOTICE judges them."""
        there = [file for file in effects_files(self.path) if file.heads and file.corruption in HeadEffectsOptions().corruptions()]
        return read_head_effects(self.path, HeadEffectsOptions()) if there else {}

    @cached_property
    def universal(self) -> dict[str, xr.Dataset]:
        """`universal_heads.nc`, by model."""
        return read_tree(self.path / "universal_heads.nc")

    @cached_property
    def functions(self) -> dict[str, xr.Dataset]:
        """`head_functions.nc`, by model."""
        return read_tree(self.path / "head_functions.nc")

    @cached_property
    def robust(self) -> dict[str, xr.Dataset]:
        """`robust_heads.nc`, by model."""
        return read_tree(self.path / "robust_heads.nc")

    @cached_property
    def answers(self) -> dict[str, Any]:
        """How many of its questions each model answered correctly: by "<model>/<dataset>", by category, asked and correct."""
        return read_manifest(self.path).get("answers", {})


def read(path: Path, variables: tuple[str, ...]) -> xr.Dataset:
    """Load some variables of a file, with all coordinates and attributes.

    Raises
    ------
    ResultsError
        When it is damaged or lacks one.
    """
    try:
        with xr.open_dataset(path, engine="netcdf4") as dataset:
            missing = [name for name in variables if name not in dataset.variables]
            if not missing:
                return dataset[list(variables)].load()
    except DAMAGED as error:
        raise damaged(path) from error
    raise ResultsError(f"{path} lacks {', '.join(missing)}: delete it and make it again")


def attributes(path: Path) -> dict[str, Any]:
    """The attributes of a file; raises `ResultsError` when it is damaged."""
    try:
        with xr.open_dataset(path, engine="netcdf4", decode_cf=False) as dataset:
            return dict(dataset.attrs)
    except DAMAGED as error:
        raise damaged(path) from error
