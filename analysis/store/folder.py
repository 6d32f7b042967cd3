"""The results folder: which files are in it, read one at a time, and trees and tables written whole or not at all.

In: a folder `results/<model>/<dataset>/...` and its `manifest.json`. Out: paths, `xarray` datasets, plain dictionaries.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import products
from analysis.store.errors import ResultsError

if TYPE_CHECKING:
    import xarray as xr  # loaded when a file is read: a command line is shown without it

MODALITIES = ("image", "text")
DAMAGED = (OSError, RuntimeError, ValueError)  # what reading a damaged file raises, as its damage has it


@dataclass(frozen=True, order=True)
class EffectsFile:
    """One file of effects, and what its place in the folder says about it."""

    model: str
    dataset: str
    corruption: str
    component: str
    heads: bool
    path: Path


def effects_files(results: Path) -> list[EffectsFile]:
    """Every file of patching effects below a results folder, sorted; other interventions' files are named after these.

    Raises
    ------
    ResultsError
        When there is no such folder.

    >>> for file in effects_files(Path("results"))[:3]:
    ...     print(file.model, file.dataset, file.corruption, file.component, file.heads)
    blip-small shapes sip block False
    blip-small shapes sip cross_attention False
    blip-small shapes sip cross_attention True
    """
    results = Path(results)
    if not results.is_dir():
        made_by = products.whole_study(results)
        raise ResultsError(f"no results folder at {results.absolute()}: make it with `{made_by}`, or name another with --results")
    return sorted(
        _effects_file(path, product == products.HEADS)
        for product in (products.HEADS, products.MODULES)
        for path in products.files(results, product)
    )


def _effects_file(path: Path, heads: bool) -> EffectsFile:
    model, dataset, corruption, name = path.parts[-4:]
    return EffectsFile(model, dataset, corruption, name.removesuffix(".nc").replace("-heads", ""), heads, path)


def attention_files(results: Path) -> dict[tuple[str, str], Path]:
    """The attention file of each (model, dataset) that has one.

    >>> attention_files(Path("results"))
    {('blip-small', 'shapes'): PosixPath('results/blip-small/shapes/attention.nc')}
    """
    return {(path.parts[-3], path.parts[-2]): path for path in products.files(results, products.ATTENTION)}


def is_older(path: Path, than: Iterable[Path]) -> bool:
    """Whether a file was written before one of some others.

    >>> path = Path("first.txt")
    >>> path.touch()
    >>> is_older(path, [path])
    False
    """
    written = Path(path).stat().st_mtime_ns
    return any(other.stat().st_mtime_ns > written for other in than)


def unfinished_runs(results: Path) -> list[str]:
    """The files that runs were making when they were interrupted (their samples wait beside in `.<name>.partial`), below the folder.

    >>> unfinished_runs(Path("results"))
    []
    """
    parts = sorted([*Path(results).glob("*/*/.*.partial"), *Path(results).glob("*/*/*/.*.partial")])
    return [str(path.relative_to(results).with_name(path.name.removeprefix(".").removesuffix(".partial") + ".nc")) for path in parts]


def read_effects(file: EffectsFile) -> "xr.Dataset":
    """Load one file of effects.

    Raises
    ------
    ResultsError
        When the file is damaged or is not effects.

    >>> effects = read_effects(effects_files(Path("results"))[2])
    >>> dict(effects.sizes)
    {'sample': 24, 'layer': 4, 'head': 6, 'token': 1}
    """
    from interventions.results import effects  # as xarray

    try:
        return effects.read(file.path)
    except effects.SchemaError as error:
        raise ResultsError(f"{file.path} is {error}. {again(file.path)}.") from error
    except DAMAGED as error:
        raise damaged(file.path) from error


def damaged(path: Path) -> ResultsError:
    """The error for a file that cannot be opened or read to its end."""
    return ResultsError(f"{path} is damaged, or not a NetCDF4 file. {again(path)}.")


def again(path: Path) -> str:
    """What to do with a file that cannot be used, with the command that makes it.

    >>> again(Path("results/robust_heads.nc"))
    'Delete it and make it again with `python -m analysis.robust_heads --results results`'
    """
    command = products.command_for(path)
    return "Delete it and make it again" + (f" with `{command}`" if command else "")


def read_tree(path: Path) -> "dict[str, xr.Dataset]":
    """The groups of a file written by `write_tree`, by model; empty when there is no such file.

    >>> import xarray as xr
    >>> path = Path("of_models.nc")
    >>> tree = write_tree({"blip": xr.Dataset({"x": ("head", [1, 2])})}, path)
    >>> read_tree(path)["blip"]["x"].values
    array([1, 2])
    >>> read_tree(Path("nothing.nc"))
    {}
    """
    if not Path(path).is_file():
        return {}
    import xarray as xr

    try:
        with xr.open_datatree(path, engine="netcdf4") as tree:
            return {name: node.to_dataset().load() for name, node in tree.children.items()}
    except DAMAGED as error:
        raise damaged(path) from error


def read_groups(path: Path) -> "dict[str, xr.Dataset]":
    """The groups of a file written by `write_tree`, by place ("<model>/<dataset>/<component>"); empty when there is no file.

    >>> import xarray as xr
    >>> path = Path("of_places.nc")
    >>> tree = write_tree({"blip/shapes/mlp": xr.Dataset({"x": ("layer", [1, 2])})}, path)
    >>> list(read_groups(path))
    ['blip/shapes/mlp']
    """
    if not Path(path).is_file():
        return {}
    import xarray as xr

    try:
        with xr.open_datatree(path, engine="netcdf4") as tree:
            return {node.path.strip("/"): node.to_dataset().load() for node in tree.leaves}
    except DAMAGED as error:
        raise damaged(path) from error


def read_manifest(results: Path) -> dict[str, Any]:
    """What `manifest.json` says; empty when there is none.

    Raises
    ------
    ResultsError
        When it is not JSON.

    >>> read_manifest(Path("results"))["data"]["shapes"]["samples"]
    28
    """
    path = Path(results) / "manifest.json"
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultsError(f"{path} is not JSON ({error}): mend or delete it; the report can do without") from error
    return manifest if isinstance(manifest, dict) else {}


def write_tree(groups: "Mapping[str, xr.Dataset]", path: Path) -> "xr.DataTree":
    """Write one NetCDF4 group a model, compressed, to a temporary name, then rename: never half a file.

    Raises
    ------
    OSError
        When the folder is not writable or the disk is full.

    >>> import xarray as xr
    >>> tree = write_tree({"blip": xr.Dataset({"x": ("head", [1, 2])})}, Path("of_models.nc"))
    >>> list(tree.children)
    ['blip']
    """
    import xarray as xr

    tree = xr.DataTree.from_dict(dict(groups))
    encoding = {
        f"/{group}": {str(n): {"zlib": True, "complevel": 4} for n, v in data.data_vars.items() if v.dtype.kind in "fiub" and v.ndim}
        for group, data in groups.items()
    }
    write_whole(path, lambda temporary: tree.to_netcdf(temporary, engine="netcdf4", encoding=encoding))
    return tree


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` with a temporary name beside `path`, then rename; on failure the old file stays and nothing is left behind.

    The temporary name keeps the suffix, since some writers choose the format by it.

    >>> write_whole(Path("note.txt"), lambda temporary: temporary.write_text("whole"))
    >>> Path("note.txt").read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary = folder / path.name
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        folder.rmdir()


def head_name(layer: int, head: int) -> str:
    """The field's name of a head: L3.H0.

    >>> head_name(3, 0)
    'L3.H0'
    """
    return f"L{layer}.H{head}"
