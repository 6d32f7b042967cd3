"""A results folder as claims read it: its models and their kinds, what other analyses wrote, and how sure intervals are."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import xarray as xr

from analysis.corruptions.options import Comparing
from analysis.store.folder import DAMAGED, ResultsError, damaged, read_tree

ENCODER, DECODER = "encoder", "decoder"  # BLIP-like: the answer is read elsewhere than at the prompt's end; LLaVA-like
PARTS = ("start", "patch", "query")  # main tokens of parts of models


@dataclass(frozen=True)
class Folder:
    """A results folder.

    Attributes
    ----------
    options : resamples, confidence and seed of the intervals
    kept : what several claims need, by what it is
    """

    path: Path
    options: Comparing = field(default_factory=Comparing)
    kept: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)

    def once(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` returns, which is called once for each name."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def groups(self, name: str) -> dict[str, xr.Dataset]:
        """A file of another analysis, by model; empty where there is none."""
        return self.once(name, lambda: read_tree(self.path / name))

    @cached_property
    def models(self) -> dict[str, str]:
        """The kind of each model, ENCODER or DECODER, by the token at which its heads are judged; parts of models are left out."""
        main: dict[str, str] = {}
        for path in sorted([*self.path.glob("*/*/*.nc"), *self.path.glob("*/*/*/*.nc")]):
            model = path.relative_to(self.path).parts[0]
            if model not in main and not path.name.startswith("."):
                attrs = attributes(path)
                token = attrs.get("main_token", attrs.get("query"))
                main |= {} if token is None else {model: str(token)}
        return {model: DECODER if token == "last" else ENCODER for model, token in main.items() if token not in PARTS}

    def datasets(self, model: str) -> list[str]:
        """The data sets of a model; empty where the folder has no such model."""
        return sorted(path.name for path in (self.path / model).glob("*") if path.is_dir() and any(path.rglob("*.nc")))


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
